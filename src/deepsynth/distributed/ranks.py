"""What several processes exchange and must agree on: ranks, seeds and rows."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
import torch.distributed as dist
from lightning.fabric.utilities.rank_zero import rank_zero_only
from torch import nn

from deepsynth.distributed.host_copy import HostCopy
from deepsynth.errors import UserError


def world_size() -> int:
    """Return the number of processes that train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Return the number of this process, from 0."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def launched_rank() -> int:
    """Return the number that what started this process gave it, which is known before the processes have met."""
    number: int = getattr(rank_zero_only, "rank", 0)
    return number


def rank_prefix() -> str:
    """Return ``rank N: `` where several processes write to one terminal, else nothing."""
    return f"rank {rank()}: " if world_size() > 1 else ""


def is_lost_connection(error: BaseException) -> bool:
    """Return whether an error means that another process has ended: gloo's sockets or NCCL's watchdog notice it."""
    if isinstance(error, (dist.DistNetworkError, dist.DistStoreError)):  # while the processes meet
        return True
    if world_size() == 1 or not isinstance(error, RuntimeError):
        return False
    signs = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "remote process has terminated")
    return isinstance(error, dist.DistBackendError) or any(sign in str(error) for sign in signs)


def seed_as_rank_zero() -> None:
    """Seed this process's random numbers as rank zero's are, where they are not: random weights are then the same."""
    if world_size() == 1:
        return
    seed = [torch.initial_seed()]
    dist.broadcast_object_list(seed, src=0)
    if seed[0] != torch.initial_seed():
        torch.manual_seed(seed[0])


def frozen_parameter_names(module: nn.Module) -> list[str]:
    """Return the names of frozen parameters and of buffers: every process has loaded or made the same ones.

    DistributedDataParallel puts only trainable parameters into its buckets, but broadcasts all of the module when it
    starts, and the buffers in every step, unless it is told to leave them out.
    """
    frozen = [name for name, parameter in module.named_parameters() if not parameter.requires_grad]
    return frozen + [name for name, _ in module.named_buffers()]


def gather_rows(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the rows of all ranks, on every rank, in the order of the data.

    Args:
        rows: of this rank, in its order; every rank must call this.
    """
    parts = gather_parts(rows)
    # The sampler deals samples out in turn: taking them back in turn restores the order of the data.
    longest = max(len(part) for part in parts)
    return [part[i] for i in range(longest) for part in parts if i < len(part)]


def gather_parts(items: list[Any]) -> list[list[Any]]:
    """Return the items of each rank, on every rank; every rank must call this."""
    if world_size() == 1:
        return [items]
    parts: list[list[Any]] = [[] for _ in range(world_size())]
    dist.all_gather_object(parts, items)
    return parts


class GatheredFigures:
    """The figures of all ranks, which travel while the host goes on; every rank must make one, with the same names.

    Args:
        figures: of this rank; one that is not a number is left out.
        device: on which ranks exchange tensors.
    """

    def __init__(self, figures: Mapping[str, float], device: torch.device) -> None:
        self._names = list(figures)
        own = torch.tensor(list(figures.values()), dtype=torch.float64)
        ranks = [own]
        if world_size() > 1:
            if device.type == "cuda":  # from other memory the host would wait for all that the GPU has to do
                own = own.pin_memory()
            ranks = [torch.empty_like(own, device=device) for _ in range(world_size())]
            dist.all_gather(ranks, own.to(device, non_blocking=True))
        self._ranks = HostCopy(torch.stack(ranks))

    def read(self) -> list[dict[str, float]]:
        """Return the figures of each rank."""
        rows = self._ranks.read().tolist()
        named = (zip(self._names, row, strict=True) for row in rows)
        return [{name: value for name, value in row if not math.isnan(value)} for row in named]


def check_placement(model: nn.Module, device: torch.device) -> None:
    """Refuse a model that does not lie whole on this process's device.

    Raises:
        UserError: naming a parameter that lies elsewhere, and where.
    """
    for name, parameter in model.named_parameters():
        if parameter.device != device and parameter.device.type != "meta":
            raise UserError(
                f"{name} lies on {parameter.device}, but this process trains on {device}: a model that is spread over "
                "devices cannot be trained by several processes; load it without device_map"
            )
