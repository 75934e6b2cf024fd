"""What the package assumes of torch's private parts."""

from __future__ import annotations

import multiprocessing
import os
import queue
import signal
import threading
import time
from collections.abc import Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import torch
import torch._dynamo
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.data import DataLoader

from deepsynth.compat.torch import (
    attention_operations,
    copy_all,
    end_compile_workers,
    end_processes,
    is_persistent,
    keep_traced_layers,
    killed_worker,
    leave_out_of_ddp,
    leave_scaling_to_scaler,
    let_vary,
    own_blas_workspace,
    own_parameters,
    recompile_limit,
    scale_all,
    shut_down_workers,
)


def test_persistent_workers_end_when_they_are_told() -> None:
    loader = DataLoader(range(4), num_workers=1, persistent_workers=True)  # type: ignore[arg-type]
    before = set(multiprocessing.active_children())
    assert [int(value) for value in loader] == [0, 1, 2, 3]
    (worker,) = set(multiprocessing.active_children()) - before
    shut_down_workers([loader])
    assert not worker.is_alive()
    shut_down_workers([loader])
    assert [int(value) for value in loader] == [0, 1, 2, 3], "the loader starts workers again"
    shut_down_workers([loader])


def test_the_processes_that_compile_end_at_once(capfd: pytest.CaptureFixture[str]) -> None:
    from torch._inductor import async_compile, config

    with config.patch(compile_threads=3, worker_start_method="subprocess"):
        pool: Any = async_compile.AsyncCompile.process_pool()
        assert pool in async_compile._pool_set
        end_compile_workers()  # while they import
        assert pool.process.poll() == -signal.SIGKILL, "it was not asked"
        assert pool not in async_compile._pool_set
        pool = async_compile.AsyncCompile.process_pool()
        assert pool.submit(abs, -3).result() == 3
        children = psutil.Process(pool.process.pid).children(recursive=True)
        assert len(children) == 3
        end_compile_workers()
        assert pool.process.poll() == -signal.SIGKILL
    psutil.wait_procs(children, timeout=10)
    assert not any(child.is_running() and child.status() != psutil.STATUS_ZOMBIE for child in children)
    end_compile_workers()
    assert "unclean" not in capfd.readouterr().err


class Pinning:
    """What torch has of a loader whose batches go through a thread to pinned memory, which needs a GPU."""

    def __init__(self, *, stuck: bool) -> None:
        self._worker_pids_set, self._workers = False, []
        self._pin_memory_thread_done_event, self._worker_result_queue = threading.Event(), queue.Queue()
        self.free = threading.Event()
        waits = self.free.wait if stuck else self._pin_memory_thread_done_event.wait
        self._pin_memory_thread = threading.Thread(target=waits, daemon=True)
        self._pin_memory_thread.start()
        self.waited_for: bool | None = None

    def _shutdown_workers(self) -> None:
        self.waited_for = hasattr(self, "_pin_memory_thread")


@pytest.mark.parametrize("stuck", [False, True])
def test_a_thread_that_a_killed_worker_leaves_stuck_is_not_waited_for(
    stuck: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deepsynth.compat.torch._PATIENCE_S", 0.05 if stuck else 10)
    iterator: Any = Pinning(stuck=stuck)
    loader: Any = SimpleNamespace(_iterator=iterator)
    shut_down_workers([loader, SimpleNamespace(_iterator=None)])  # type: ignore[list-item]
    assert loader._iterator is None
    assert iterator._pin_memory_thread_done_event.is_set()
    assert iterator._worker_result_queue.get_nowait() == (None, None)
    assert iterator.waited_for is not stuck
    iterator.free.set()


def hang(worker: int) -> None:
    """Hear nothing, as a worker that still imports."""
    signal.signal(signal.SIGUSR1, lambda *_: None)
    while True:
        time.sleep(60)


def test_workers_that_hear_nothing_yet_are_ended_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch asks each and waits 5 s for it; here all have got the signal before the first is waited for."""
    events: list[str] = []
    terminate, join = BaseProcess.terminate, BaseProcess.join
    before = set(multiprocessing.active_children())
    loaders = [
        DataLoader(range(4), num_workers=3, persistent_workers=True, worker_init_fn=hang)  # type: ignore[arg-type]
        for _ in range(2)
    ]
    for loader in loaders:
        iter(loader)
    workers = set(multiprocessing.active_children()) - before
    assert len(workers) == 6
    monkeypatch.setattr(BaseProcess, "terminate", lambda self: (events.append("told"), terminate(self)))
    monkeypatch.setattr(BaseProcess, "join", lambda self, timeout=None: (events.append("waited"), join(self, timeout)))
    shut_down_workers(loaders)
    assert events[:6] == ["told"] * 6
    assert "told" not in events[6:], "none had to be told again"
    assert not any(worker.is_alive() for worker in workers)
    assert {worker.exitcode for worker in workers} <= {0, -signal.SIGTERM}


class Child:
    """A process that ends when it is told, or only when it is killed, on a clock that waiting for it moves."""

    def __init__(self, name: str, events: list[str], clock: list[float], *, deaf: bool = False) -> None:
        self.name, self.events, self.clock, self.deaf, self.alive = name, events, clock, deaf, True

    def terminate(self) -> None:
        self.events.append(f"tell {self.name}")
        self.alive = self.deaf

    def join(self, timeout: float) -> None:
        self.events.append(f"wait {self.name} {timeout:g}")
        self.clock[0] += min(timeout, 1.5) if self.alive else 0.25

    def is_alive(self) -> bool:
        return self.alive

    def kill(self) -> None:
        self.events.append(f"kill {self.name}")
        self.alive = False


def test_processes_have_two_seconds_together_and_those_that_are_left_are_killed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    events: list[str] = []
    clock = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    children: list[Any] = [Child(name, events, clock, deaf=name in "ad") for name in "abcd"]
    end_processes(children)
    assert events == [
        "tell a", "tell b", "tell c", "tell d",
        "wait a 2", "wait b 0.5", "wait c 0.25", "wait d 0",
        "kill a", "kill d", "wait a 2", "wait d 2",
    ]  # fmt: skip


def end_at_once(worker: int) -> None:
    os._exit(7)


def be_killed(worker: int) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


UNKNOWN = "an end without a word"


# Whether torch hears the signal first, or misses the worker, is a matter of luck.
@pytest.mark.parametrize(("end", "causes"), [(be_killed, {"Killed", UNKNOWN}), (end_at_once, {UNKNOWN})])
def test_what_killed_a_worker_is_known(end: Any, causes: set[str]) -> None:
    loader = DataLoader(range(4), num_workers=1, worker_init_fn=end)  # type: ignore[arg-type]
    with pytest.raises(RuntimeError) as caught:
        list(loader)
    assert killed_worker(caught.value) in causes
    assert killed_worker(RuntimeError("DataLoader worker (pid 12) is killed by signal: Killed. ")) == "Killed"
    assert killed_worker(RuntimeError("another one")) is None


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (RuntimeError("DataLoader worker (pid(s) 1, 2) exited unexpectedly"), UNKNOWN),
        (RuntimeError("DataLoader worker (pid 12) is killed by signal: Bus error. It is possible that"), "Bus error"),
        (RuntimeError("a DataLoader worker failed"), None),
        (ValueError("DataLoader worker (pid 12) exited unexpectedly"), None),
        (EOFError(), None),
        (FileNotFoundError(2, "no such file"), None),
    ],
    ids=repr,
)
def test_other_errors_are_no_killed_workers(error: Exception, cause: str | None) -> None:
    assert killed_worker(error) == cause


def send_a_tensor(queue: Any) -> None:
    queue.put(torch.ones(1000))
    time.sleep(60)


def test_a_batch_whose_worker_was_killed_before_it_was_fetched_says_so() -> None:
    context = torch.multiprocessing.get_context("fork")
    queue = context.Queue()
    worker = context.Process(target=send_a_tensor, args=(queue,), daemon=True)
    worker.start()
    while queue.empty():
        time.sleep(0.01)
    worker.kill()
    worker.join()
    with pytest.raises(OSError) as caught:
        queue.get(timeout=10)
    assert killed_worker(caught.value) == UNKNOWN
    assert killed_worker(ConnectionResetError("of the Hub")) is None


def ignore_all(pipe: Any) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    pipe.send("deaf")
    time.sleep(600)


def test_a_process_that_ignores_the_signal_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deepsynth.compat.torch._PATIENCE_S", 0.5)
    context = multiprocessing.get_context("fork")
    mine, theirs = context.Pipe()
    process = context.Process(target=ignore_all, args=(theirs,), daemon=True)
    process.start()
    assert mine.recv() == "deaf"
    end_processes([process])
    assert process.exitcode == -signal.SIGKILL


def test_ddp_leaves_out_what_it_is_told(gloo: None) -> None:
    module = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2))
    left_out = ["0.weight", "1.running_mean"]
    leave_out_of_ddp(module, left_out)
    ddp = torch.nn.parallel.DistributedDataParallel(module)
    assert set(left_out) <= set(ddp.parameters_to_ignore)
    assert "0.bias" not in ddp.parameters_to_ignore


@pytest.fixture
def gloo(tmp_path: Path) -> Iterator[None]:
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


def test_a_fused_optimizer_says_whether_it_unscales_by_itself() -> None:
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], fused=True)
    assert optimizer._step_supports_amp_scaling  # type: ignore[attr-defined]
    leave_scaling_to_scaler(optimizer)
    assert not optimizer._step_supports_amp_scaling  # type: ignore[attr-defined]


def test_operations_of_attention_are_those_that_torch_runs() -> None:
    seen: list[Any] = []

    class Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's class has no annotations
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            seen.append(func)
            return func(*args, **(kwargs or {}))

    query = torch.randn(1, 2, 8, 16, requires_grad=True)
    with Recorder():  # type: ignore[no-untyped-call]
        torch.nn.functional.scaled_dot_product_attention(query, query, query, is_causal=True)
    assert attention_operations() & set(seen)
    assert len(attention_operations()) == 4


def test_tensors_are_copied_and_scaled_together() -> None:
    targets = [torch.zeros(2, dtype=torch.bfloat16), torch.zeros(3)]
    copy_all(targets, [torch.full((2,), 2.0), torch.full((3,), 3.0)])
    scale_all(targets, [0.5, 2.0])
    assert [target.tolist() for target in targets] == [[1.0] * 2, [6.0] * 3]
    scale_all(targets, torch.tensor(3.0))
    assert [target.tolist() for target in targets] == [[3.0] * 2, [18.0] * 3]
    scale_all([], torch.tensor(3.0))


def test_graphs_of_one_function_are_limited_for_a_block() -> None:
    config = torch._dynamo.config
    before = config.recompile_limit
    with recompile_limit(before + 3):
        assert config.recompile_limit == before + 3
    assert config.recompile_limit == before


def test_sizes_that_may_vary_make_one_graph_for_all() -> None:
    graphs: list[Any] = []

    def record(graph: Any, inputs: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    def scale(x: torch.Tensor, others: tuple[torch.Tensor, int]) -> torch.Tensor:
        return (x * others[0]).sum() * others[1]

    torch._dynamo.reset()
    compiled = torch.compile(scale, backend=record)
    for rows, length in ((4, 8), (4, 9), (3, 7)):
        x, others = torch.ones(rows, length, 2), (torch.ones(1, length, 1), 3)
        let_vary((x, others), x.shape[:2])
        assert compiled(x, others) == 6 * rows * length
    assert len(graphs) == 1


class Double(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        return 2 * x

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> torch.Tensor:
        return 2 * grads[0]


@pytest.mark.slow
def test_layers_with_own_autograd_functions_are_kept_between_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torch._dynamo.utils import counters

    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(torch._functorch.config, "autograd_cache_allow_custom_autograd_functions", False)
    keep_traced_layers()
    x = torch.ones(2, requires_grad=True)
    for _ in range(2):
        torch._dynamo.reset()
        counters.clear()
        torch.compile(lambda x: Double.apply(x).sum(), backend="inductor")(x).backward()  # type: ignore[no-untyped-call]
    assert counters["aot_autograd"]["autograd_cache_hit"] == 1
    assert x.grad is not None
    assert x.grad.tolist() == [4.0, 4.0]


def test_traces_with_own_autograd_functions_may_be_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    name = "autograd_cache_allow_custom_autograd_functions"
    monkeypatch.setattr(torch._functorch.config, name, False)
    keep_traced_layers()
    assert getattr(torch._functorch.config, name) is True


def test_work_space_is_forgotten_before_and_after_a_block_whatever_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []
    monkeypatch.setattr(torch._C, "_cuda_clearCublasWorkspaces", lambda: events.append("forget"), raising=False)
    with own_blas_workspace():
        events.append("block")
    with pytest.raises(KeyError), own_blas_workspace():
        raise KeyError
    assert events == ["forget", "block", "forget", "forget", "forget"]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_graph_outlives_the_work_space_of_cublas() -> None:
    x, y = torch.randn(64, 4096, device="cuda"), torch.randn(4096, 64, device="cuda")
    stream, graph = torch.cuda.Stream(), torch.cuda.CUDAGraph()
    with torch.cuda.stream(stream):
        x @ y
    with own_blas_workspace(), torch.cuda.graph(graph, stream=stream):
        found = x @ y
    with own_blas_workspace():  # as torch.compile frees it when it records graphs
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
    graph.replay()
    torch.testing.assert_close(found, x @ y)


def test_buffers_that_are_saved_are_told_from_others() -> None:
    module = torch.nn.Module()
    module.register_buffer("kept", torch.zeros(1))
    module.register_buffer("made", torch.zeros(1), persistent=False)
    assert is_persistent(module, "kept")
    assert not is_persistent(module, "made")
    assert list(module.state_dict()) == ["kept"]


def test_own_parameters_are_those_of_the_module_alone() -> None:
    module = torch.nn.Sequential(torch.nn.Linear(2, 2, bias=False))
    assert list(own_parameters(module)) == []
    assert list(own_parameters(module[0])) == [module[0].weight, None]
