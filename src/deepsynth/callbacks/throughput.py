"""How fast a run trains, and how long it waits for data."""

from __future__ import annotations

import time
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer


class Throughput(Callback):
    """Logs ``train/samples_per_s``, ``train/tokens_per_s`` and ``train/data_wait`` at every logging step.

    Figures are over all ranks and the steps since the last logging step, validation and checkpoints left out; the
    first ``warmup_steps`` batches are not counted. ``train/data_wait`` is the share of that time in which the step
    waited for its batch. Tokens are those of text and image, padding left out. On a GPU the device is
    synchronised once per logging step.

    Example::

        callbacks+:
          - class_path: Throughput
            init_args: {warmup_steps: 10}

    Args:
        warmup_steps: batches at the start that are not measured.

    Raises:
        ValueError: for a negative number.
    """

    def __init__(self, warmup_steps: int = 2) -> None:
        if warmup_steps < 0:
            raise ValueError(f"Throughput.warmup_steps is {warmup_steps}; it must be at least 0")
        self.warmup_steps = warmup_steps
        self._seen = 0
        self._mark = 0.0
        self._clear()

    def _clear(self) -> None:
        self._samples = 0
        self._tokens: torch.Tensor | int = 0
        self._seconds = self._wait_s = 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start afresh."""
        self._seen = 0
        self._clear()

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start waiting for the epoch's first batch."""
        self._mark = time.perf_counter()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave the validation out."""
        self._mark = time.perf_counter()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Count the time since the last batch as waiting."""
        now = time.perf_counter()
        self._wait_s += now - self._mark
        self._seconds += now - self._mark
        self._mark = now

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count the batch, and log at every logging step."""
        self._seen += 1
        self._samples += len(batch)
        # Summed on the device and read at logging steps alone: reading every batch would make the GPU wait.
        self._tokens = self._tokens + batch.inputs["attention_mask"].sum()
        logs = self._seen % trainer.log_every_n_steps == 0
        if logs and torch.cuda.is_available():
            torch.cuda.synchronize()
        now = time.perf_counter()
        self._seconds += now - self._mark
        if self._seen <= self.warmup_steps:
            self._clear()
        elif logs:
            ranks = trainer.world_size
            pl_module.log("train/samples_per_s", self._samples * ranks / self._seconds, prog_bar=True)
            pl_module.log("train/tokens_per_s", float(self._tokens) * ranks / self._seconds)
            pl_module.log("train/data_wait", self._wait_s / self._seconds)
            self._clear()
        self._mark = time.perf_counter()
