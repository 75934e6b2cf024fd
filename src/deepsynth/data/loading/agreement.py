"""The check that all processes of a run have the same documents."""

from __future__ import annotations

from typing import TYPE_CHECKING

from deepsynth.errors import UserError

if TYPE_CHECKING:
    from lightning.pytorch import Trainer

    from deepsynth.data.sources.base import Source


def check_ranks_agree(trainer: Trainer | None, source: Source, what: str, found: tuple[int, object] | None) -> None:
    """Compare what a rank has found with what rank 0 has: otherwise some would be lost and others used twice.

    Args:
        trainer: knows the ranks; without one there is a single process.
        source: for the message.
        what: what was counted.
        found: its number and its fingerprint; ``None`` stands for an unknown one and equals every other.

    Raises:
        UserError: when they differ.
    """
    if trainer is None or trainer.world_size == 1:
        return
    first = trainer.strategy.broadcast(found)
    if found is not None and first is not None and first != found:
        raise UserError(
            f"rank {trainer.global_rank} has {found[0]} {what} of {source}, but rank 0 has {first[0]}, or "
            "others, or in another order; all must read the same files, with the same fonts"
        )
