"""What a run is going to do: said at its start, with time and memory as soon as they are measured."""

from __future__ import annotations

import math
import time
from typing import Any, cast

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info

from deepsynth.callbacks.vram_monitor import VramMonitor
from deepsynth.data.datamodule import TextImageDataModule
from deepsynth.io.text import counted
from deepsynth.types import Batch

#: Batches at the start that are not timed: kernels are chosen and caches filled.
WARMUP_BATCHES = 3
#: Batches and seconds of which both must have passed before the time is told.
TIMED_BATCHES, TIMED_SECONDS = 8, 3.0


class RunPlan(Callback):
    """Prints samples, epochs and steps when training starts, and tokens, time and memory after the first steps.

    Nothing is guessed: the second line comes when some steps have been timed, validation and checkpoints left out. A
    run that is too short for that has no second line.

    A run of fewer steps than ``trainer.log_every_n_steps`` logs every step: Lightning alone would log no loss at all.
    """

    def __init__(self) -> None:
        self._clear()

    def _clear(self) -> None:
        self._seen = self._timed = 0
        self._tokens = self._samples = 0
        self._seconds = 0.0
        self._mark: float | None = None
        self._told = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print the plan, and have a short run log every step."""
        self._clear()  # a trainer may fit again
        left = trainer.estimated_stepping_batches - trainer.global_step
        connected = cast(Any, trainer)  # log_every_n_steps is set by a connector
        if left < connected.log_every_n_steps:
            connected.log_every_n_steps = 1
        if trainer.is_global_zero:
            rank_zero_info(self.plan(trainer))

    def plan(self, trainer: Trainer) -> str:
        """Return the plan of a run that is about to start."""
        steps, batches = trainer.estimated_stepping_batches, trainer.num_training_batches
        parts = []
        data = getattr(trainer, "datamodule", None)
        if isinstance(data, TextImageDataModule):
            sizes = {split: len(dataset) for split, dataset in data.datasets.items()}
            parts.append(", ".join(f"{count:,} {split}" for split, count in sizes.items()) + " samples")
            size = data.batch_size * trainer.world_size * trainer.accumulate_grad_batches
            parts.append(f"{size} a step")
        if not math.isinf(steps):
            epochs = steps * trainer.accumulate_grad_batches / batches
            left = f", {trainer.global_step:,} of them done" if trainer.global_step else ""
            parts.append(f"{counted(int(steps), 'step')} ({epochs:.3g} epoch{'s' if epochs != 1 else ''}){left}")
        if _validates(trainer):
            parts.append(f"validation {_validation(trainer)}")
        return f"plan: {'; '.join(parts)}"

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Start the clock at the first batch that is timed."""
        if self._seen >= WARMUP_BATCHES and self._mark is None:
            self._mark = time.perf_counter()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave out the time until the next batch: validation, and what is written after it."""
        self._mark = None

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Leave out the time until the next batch: the file is written after this hook."""
        self._mark = None

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        """Count the batch, and print tokens, time and memory once enough has been timed."""
        if self._told:
            return
        self._seen += 1
        self._samples += len(batch)
        self._tokens += int((batch.moved_from or batch.tokens)["attention_mask"].sum())
        if self._mark is None:
            return
        now = time.perf_counter()
        self._seconds, self._mark, self._timed = self._seconds + now - self._mark, now, self._timed + 1
        if self._timed < TIMED_BATCHES or self._seconds < TIMED_SECONDS:
            return
        if torch.cuda.is_available():
            torch.cuda.synchronize()
            self._seconds += time.perf_counter() - now
        self._told = True
        rank_zero_info(self.forecast(trainer))

    def forecast(self, trainer: Trainer) -> str:
        """Return what the timed steps say of the whole run."""
        a_step = self._seconds / self._timed * trainer.accumulate_grad_batches
        parts = [f"{a_step:.2g} s a step"]
        if not math.isinf(trainer.estimated_stepping_batches):
            left = int(trainer.estimated_stepping_batches) - trainer.global_step
            parts[0] += f", so about {duration(left * a_step)} for the {left:,} steps left"
            parts[0] += ", validation not counted" if _validates(trainer) else ""
        parts.append(f"about {self._tokens / self._samples:,.0f} tokens a sample, image and text")
        monitor = next((one for one in cast(Any, trainer).callbacks if isinstance(one, VramMonitor)), None)
        if monitor is not None:
            figures = monitor.figures()
            parts.append(f"memory {figures['peak_gib']:.2f} of {figures['limit_gib']:.1f} GiB so far")
        return f"measured on {self._timed} batches: {'; '.join(parts)}"


class FinalValidation(Callback):
    """Validates after the last step, also where that is between two validations.

    Without it a run that is shorter than ``trainer.val_check_interval`` ends without a figure and a best checkpoint.
    The configurations ``quickstart`` and ``finetune`` add it::

        callbacks+:
          - class_path: FinalValidation
    """

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        """Ask for the end of the run at its last step; Lightning validates before a run that is asked to end."""
        if trainer.max_steps != -1 and trainer.global_step >= trainer.max_steps:
            trainer.should_stop = True


def _validates(trainer: Trainer) -> bool:
    """Return whether the run validates on any document."""
    data = getattr(trainer, "datamodule", None)
    return trainer.enable_validation and (not isinstance(data, TextImageDataModule) or "val" in data.datasets)


def _validation(trainer: Trainer) -> str:
    """Return when a run validates."""
    every: float = trainer.val_check_batch or math.inf
    epochs = trainer.check_val_every_n_epoch
    if epochs is None or every < trainer.num_training_batches:
        return f"every {int(every):,} batches" if not math.isinf(every) else "after every epoch"
    return "after every epoch" if epochs == 1 else f"after every {epochs} epochs"


def duration(seconds: float) -> str:
    """Return seconds as people say them: ``40 s``, ``12 min``, ``3 h 20 min``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02} min"
