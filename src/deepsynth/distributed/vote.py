"""A question that all processes answer after every batch, without stopping for it."""

from __future__ import annotations

import torch
import torch.distributed as dist

from deepsynth.distributed.host_copy import HostCopy
from deepsynth.distributed.ranks import world_size


class Vote:
    """Tells every process, at the same batch, whether one of them said yes.

    A GPU's answer is read one batch later, when it has long been there: reading it at once would wait for all that the
    GPU has been given to do, and only then could the next batch be prepared.
    """

    def __init__(self) -> None:
        self._answer: HostCopy | None = None

    def cast(self, yes: bool, device: torch.device) -> bool:
        """Say yes or no; every process must call this as often.

        Args:
            yes: what this process says.
            device: on which processes exchange tensors.

        Returns:
            Whether a process has said yes: in this call on a CPU, in the one before on a GPU.
        """
        said = torch.full((), float(yes), device=device)
        if world_size() > 1:
            dist.all_reduce(said, op=dist.ReduceOp.MAX)
        if not said.is_cuda:
            return bool(said)
        before, self._answer = self._answer, HostCopy(said)
        return before is not None and bool(before.read())
