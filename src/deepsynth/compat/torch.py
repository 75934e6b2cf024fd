"""Private parts of torch that the package relies on, and why no public one serves."""

from __future__ import annotations

import re
import sys
import time
import traceback
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from multiprocessing.process import BaseProcess
from typing import Any

import psutil
import torch
from torch import nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader

#: Seconds that a process or thread has to end.
_PATIENCE_S = 2.0
#: What is known of a worker's end when torch says no more.
_WITHOUT_A_WORD = "an end without a word"


def leave_out_of_ddp(module: nn.Module, names: list[str]) -> None:
    """Have ``DistributedDataParallel`` around ``module`` neither send nor reduce these parameters and buffers.

    There is no public way: DDP reads the attribute of the module that it wraps.
    """
    # Past torch's own setattr, which would look for parameters in the list.
    vars(module)["_ddp_params_and_buffers_to_ignore"] = names


def leave_scaling_to_scaler(optimizer: Optimizer) -> None:
    """Have the loss scaler of float16 unscale gradients, and not the fused kernel of an optimizer.

    Fused optimizers say by this attribute that they unscale by themselves, and Lightning then refuses to clip
    gradients. No argument of theirs turns it off.
    """
    optimizer._step_supports_amp_scaling = False  # type: ignore[attr-defined]


def shut_down_workers(loaders: Iterable[DataLoader[Any]]) -> None:
    """End the persistent worker processes of loaders, all together, also those that are still starting.

    torch has no public way. Its own, at the latest that of the garbage collector, asks them to end and waits for one
    after the other, up to 5 s each: a worker that still imports hears nothing, and one that listens takes its
    interpreter apart at leisure. Nothing in a worker needs saving, so here they are all ended by a signal.
    """
    iterators: list[Any] = [loader._iterator for loader in loaders if loader._iterator is not None]
    signals: Any = torch.utils.data._utils.signal_handling
    for loader in loaders:
        loader._iterator = None
    for iterator in iterators:
        if iterator._worker_pids_set:  # else torch takes their end for a failure
            signals._remove_worker_pids(id(iterator))
            iterator._worker_pids_set = False
        if hasattr(iterator, "_pin_memory_thread"):  # it must not wait for the rest of what a worker was sending
            iterator._pin_memory_thread_done_event.set()
            iterator._worker_result_queue.put((None, None))
            iterator._pin_memory_thread.join(_PATIENCE_S)
            if iterator._pin_memory_thread.is_alive():  # a worker was killed while it was sending
                del iterator._pin_memory_thread
    end_processes([worker for iterator in iterators for worker in iterator._workers])
    for iterator in iterators:
        iterator._shutdown_workers()  # what is left: its queues


def killed_worker(error: BaseException) -> str | None:
    """Return what killed a loader's worker, such as ``Killed``, if an error says that something has.

    torch raises a plain ``RuntimeError``, in the middle of whatever the process is doing. When the worker dies between
    a batch that it has announced and the fetching of its memory, the error is one of the connection to it.
    """
    if isinstance(error, ConnectionError | FileNotFoundError | EOFError):
        files = [frame.filename for frame in traceback.extract_tb(error.__traceback__)]
        fetched = any(file.endswith("resource_sharer.py") for file in files)
        return _WITHOUT_A_WORD if fetched else None
    if not isinstance(error, RuntimeError):
        return None
    if found := re.search(r"DataLoader worker \(pid.*\) is killed by signal: ([^.]*)\.", str(error)):
        return found[1]
    if re.search(r"DataLoader worker \(pid.*\) exited unexpectedly", str(error)):
        return _WITHOUT_A_WORD
    return None


def end_processes(processes: Sequence[BaseProcess]) -> None:
    """End child processes together: by SIGTERM, and by SIGKILL those that are still there after 2 s."""
    for process in processes:
        process.terminate()
    end = time.monotonic() + _PATIENCE_S
    for process in processes:
        process.join(max(0.0, end - time.monotonic()))
    left = [process for process in processes if process.is_alive()]
    for process in left:
        process.kill()
    for process in left:
        process.join(_PATIENCE_S)


def end_compile_workers() -> None:
    """End the processes in which ``torch.compile`` builds kernels, at once.

    torch's own end asks them and waits: for imports, if they have just begun, for jobs that nobody needs any more, and
    for the interpreters of as many processes as there are cores to be taken apart. It has no option for it.
    """
    module: Any = sys.modules.get("torch._inductor.async_compile")  # imported by those who compile
    if module is None:
        return
    for pool in module._pool_set:
        process = getattr(pool, "process", None)
        if process is None or process.poll() is not None:  # a pool of another kind, or one that has ended
            continue
        pool.running = False  # its reader takes the end for a failure otherwise
        with suppress(psutil.NoSuchProcess):
            for child in psutil.Process(process.pid).children(recursive=True):
                with suppress(psutil.NoSuchProcess):
                    child.kill()
        process.kill()
        process.wait(_PATIENCE_S)
    module.shutdown_compile_workers()  # who compiles again gets new ones


def attention_operations() -> set[Any]:
    """Return the operations of fused attention, as far as this torch has them.

    Selective recomputation is told which operations to keep, and those of ``scaled_dot_product_attention`` have private
    names. One that is not found is computed again.
    """
    names = (
        "_scaled_dot_product_flash_attention",
        "_scaled_dot_product_efficient_attention",
        "_scaled_dot_product_cudnn_attention",
        "_scaled_dot_product_flash_attention_for_cpu",
    )
    return {getattr(torch.ops.aten, name).default for name in names if hasattr(torch.ops.aten, name)}


def copy_all(targets: Sequence[torch.Tensor], sources: Sequence[torch.Tensor]) -> None:
    """Copy each source into its target, in few kernels; ``Tensor.copy_`` takes one for each."""
    torch._foreach_copy_(list(targets), list(sources))


def scale_all(tensors: Sequence[torch.Tensor], factors: Sequence[float] | torch.Tensor) -> None:
    """Multiply each tensor by its factor, or all by one that stays on its device (), in place, in few kernels."""
    if not isinstance(factors, torch.Tensor):
        torch._foreach_mul_(list(tensors), list(factors))
        return
    kinds: dict[type, list[torch.Tensor]] = {}
    for tensor in tensors:
        kinds.setdefault(type(tensor), []).append(tensor)
    for kind, own in kinds.items():
        if kind is torch.Tensor:
            torch._foreach_mul_(own, factors)
        else:  # shards, whose kernels take no list
            for tensor in own:
                tensor.mul_(factors)


def recompile_limit(most: int) -> AbstractContextManager[None]:
    """Return a context in which ``torch.compile`` makes up to ``most`` graphs of one function; its default is 8.

    ``torch.compiler`` has no option for it.
    """
    import torch._dynamo  # a second of imports, for who compiles alone

    context: AbstractContextManager[None] = torch._dynamo.config.patch(recompile_limit=most)
    return context


def keep_traced_layers() -> None:
    """Let ``torch.compile`` keep what it has traced of layers with own autograd functions, as it keeps all others.

    Kernels are kept either way; without this the graphs before them are made anew in every process, which takes as
    long. Torch has an environment variable for it, which is read when torch is imported.
    """
    from torch._functorch import config

    config.autograd_cache_allow_custom_autograd_functions = True


def let_vary(inputs: Iterable[Any], sizes: Sequence[int]) -> None:
    """Have ``torch.compile`` take any size of the first axes of these inputs, where they have these sizes now.

    It compiles for the sizes that it sees first, and once more when it sees others. ``torch.compile(dynamic=True)``
    would take every axis of every input for one that varies.

    Args:
        inputs: of what is compiled; tensors, tuples of them, and others, which are left alone.
        sizes: of the axes that vary, from the first on; an input has them, or does not vary.
    """
    import torch._dynamo  # a second of imports, for who compiles alone

    for each in inputs:
        if isinstance(each, tuple):
            let_vary(each, sizes)
        elif isinstance(each, torch.Tensor):
            for axis, (size, own) in enumerate(zip(sizes, each.shape, strict=False)):
                if size == own:
                    torch._dynamo.maybe_mark_dynamic(each, axis)


@contextmanager
def own_blas_workspace() -> Iterator[None]:
    """Have cuBLAS take new work space within the block, and forget it at the end.

    A CUDA graph keeps the address of the work space that it was captured with. Within a capture new work space comes
    from the graph's own pool of memory, which lasts as long as the graph. What there was before is freed whenever
    ``torch.compile`` records graphs, and a graph that was captured with it writes to memory of others, or none. A torch
    for the CPU has no work space.
    """
    forget = getattr(torch._C, "_cuda_clearCublasWorkspaces", lambda: None)
    forget()
    try:
        yield
    finally:
        forget()


def is_persistent(module: nn.Module, buffer: str) -> bool:
    """Return whether a module's buffer belongs to its state dict; torch keeps the others in a private set."""
    return buffer not in module._non_persistent_buffers_set


def own_parameters(module: nn.Module) -> Iterable[nn.Parameter | None]:
    """Return a module's own parameters; a token of generation has no time for those of ``parameters()``, one by one."""
    return module._parameters.values()
