"""One-line messages for out-of-memory errors: phase, shapes, memory in use, and what to change."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from lightning.pytorch import Trainer

from deepsynth.io.text import counted
from deepsynth.types import Batch


def shapes(batch: Any) -> str:
    """Return the number of samples of a batch and the shapes of its inputs."""
    if not isinstance(batch, Batch):
        return ""
    inputs = {name: t for name, t in batch.tokens.items() if name not in ("attention_mask", "labels")} | batch.images
    listed = ", ".join(f"{name} {tuple(tensor.shape)}" for name, tensor in inputs.items())
    return f"{counted(len(batch), 'sample')}: {listed}"


def explain(message: str, phase: str | None, shapes: str, held: str, trainer: Trainer, savings: Sequence[str]) -> str:
    """Return the message of an out-of-memory error, one line.

    Args:
        message: of the error.
        phase: in which it was raised, one of :data:`deepsynth.callbacks.vram_monitor.PHASES`, or between two.
        shapes: of the batch, as :func:`shapes` returns them.
        held: how much memory was in use.
        trainer: of the run.
        savings: settings of the module that would save memory in the phase.
    """
    where = {
        None: "between two batches",
        "load": "while loading the model",
        "step": f"in optimizer step {trainer.global_step + 1}",
        "validation": "in the forward pass of validation",
        "generation": "while generating text",
    }.get(phase, f"in the {phase} pass of step {trainer.global_step + 1}")
    rank = f" (rank {trainer.global_rank})" if trainer.world_size > 1 else ""
    asked = re.search(r"tried to allocate ([\d.]+ ?\w+)", message, re.IGNORECASE)
    more = f" and {asked.group(1)} more were asked for" if asked else ""
    return (
        f"out of memory {where} on {trainer.strategy.root_device}{rank}"
        + (f", with {shapes}" if shapes and phase != "load" else "")
        + f"; {held}{more}; {', or '.join(remedies(phase, trainer, savings))}"
    )


def remedies(phase: str | None, trainer: Trainer, savings: Sequence[str]) -> list[str]:
    """Return the changes that would save memory in a phase and are not made yet, the cheapest first."""
    data: Any = getattr(trainer, "datamodule", None)
    found = []
    if phase in ("validation", "generation"):
        size = getattr(data, "eval_batch_size", 1)
        if size > 1:
            found.append(f"set data.eval_batch_size to {size // 2} (now {size})")
    elif phase != "load":
        size, accumulated = getattr(data, "batch_size", 1), trainer.accumulate_grad_batches
        if size > 1:
            parts = 2 if size % 2 == 0 else size  # as many samples a step as before: the training stays the same
            found.append(
                f"set data.batch_size to {size // parts} (now {size}) and trainer.accumulate_grad_batches to "
                f"{accumulated * parts} (now {accumulated})"
            )
    return [*found, *savings, "use smaller pages (data.mode)" if phase != "load" else "use a device with more memory"]
