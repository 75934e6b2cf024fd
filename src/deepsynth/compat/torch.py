"""Private parts of torch that the package relies on, and why no public one serves."""

from __future__ import annotations

from torch import nn


def leave_out_of_ddp(module: nn.Module, names: list[str]) -> None:
    """Have ``DistributedDataParallel`` around ``module`` neither send nor reduce these parameters and buffers.

    There is no public way: DDP reads the attribute of the module that it wraps.
    """
    # Past torch's own setattr, which would look for parameters in the list.
    vars(module)["_ddp_params_and_buffers_to_ignore"] = names
