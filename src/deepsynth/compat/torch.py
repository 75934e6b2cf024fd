"""Private parts of torch that the package relies on, and why no public one serves."""

from __future__ import annotations

from typing import Any

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
