"""Private parts of torch that the package relies on, and why no public one serves."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader


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


def shut_down_workers(loader: DataLoader[Any]) -> None:
    """End the persistent worker processes of a loader.

    torch has no public way. Left to the garbage collector, which ends their queues first, each worker is waited for
    until a time-out of seconds.
    """
    iterator: Any = loader._iterator
    if iterator is not None:
        iterator._shutdown_workers()
        loader._iterator = None


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


def is_persistent(module: nn.Module, buffer: str) -> bool:
    """Return whether a module's buffer belongs to its state dict; torch keeps the others in a private set."""
    return buffer not in module._non_persistent_buffers_set


def own_parameters(module: nn.Module) -> Iterable[nn.Parameter | None]:
    """Return a module's own parameters; a token of generation has no time for those of ``parameters()``, one by one."""
    return module._parameters.values()
