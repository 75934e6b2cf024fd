"""The rows that steps return for what they read, over all ranks."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch import Trainer


def gather_rows(trainer: Trainer, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the rows of all ranks, on every rank, in the order of the data.

    Args:
        trainer: of the run; every rank must call this.
        rows: of this rank, in its order.
    """
    if trainer.world_size == 1:
        return rows
    gathered: list[list[dict[str, Any]]] = [[] for _ in range(trainer.world_size)]
    torch.distributed.all_gather_object(gathered, rows)
    # The sampler deals samples out in turn: taking them back in turn restores the order of the data.
    longest = max(len(part) for part in gathered)
    return [part[i] for i in range(longest) for part in gathered if i < len(part)]
