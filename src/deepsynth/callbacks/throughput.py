"""How fast a run trains, how much of the hardware it uses, and how long it waits for data."""

from __future__ import annotations

import time
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info
from torch.utils.flop_counter import FlopCounterMode

from deepsynth.profiling.flops import flop_counter, peak_flops


class Throughput(Callback):
    """Logs ``train/samples_per_s``, ``train/tokens_per_s``, ``train/data_wait`` and ``train/mfu`` at logging steps.

    Figures are over all ranks and the batches since the last logging step, validation and checkpoints left out; the
    first ``warmup_steps`` batches are not counted. ``train/data_wait`` is the share of that time in which the step
    waited for its batch. Tokens are those of text and image, padding left out. On a GPU the device is synchronised
    once per logging step.

    ``train/mfu`` is the model FLOPs utilisation (Chowdhery et al. 2022, https://arxiv.org/abs/2204.02311, appendix B):
    FLOP/s of the matrix products, convolutions and attention of the forward and backward passes over the peak of the
    device. They are counted on the first warm-up batch, frozen weights' gradients that nobody computes left out, and
    scaled by the token positions of later batches; what gradient checkpointing computes again counts as done.

    Example::

        callbacks+:
          - class_path: Throughput
            init_args: {warmup_steps: 10}

    Args:
        warmup_steps: batches at the start that are not measured; with 0 there is no ``train/mfu``.
        peak_tflops: of one device, dense, in the run's dtype; by default what NVIDIA says for a known GPU. Without
            it there is no ``train/mfu``.

    Raises:
        ValueError: for a number out of range.
    """

    def __init__(self, warmup_steps: int = 2, peak_tflops: float | None = None) -> None:
        if warmup_steps < 0:
            raise ValueError(f"Throughput.warmup_steps is {warmup_steps}; it must be at least 0")
        if peak_tflops is not None and peak_tflops <= 0:
            raise ValueError(f"Throughput.peak_tflops is {peak_tflops}; it must be above 0")
        self.warmup_steps = warmup_steps
        self.peak_tflops = peak_tflops
        self._peak: float | None = None
        self._counter: FlopCounterMode | None = None
        self._flops_per_position = 0.0
        self._seen = 0
        self._mark: float | None = None
        self._clear()

    def _clear(self) -> None:
        self._samples = self._positions = 0
        self._tokens: torch.Tensor | int = 0
        self._seconds = self._wait_s = 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start afresh."""
        self._seen, self._mark, self._flops_per_position = 0, None, 0.0
        self._peak = self._find_peak(trainer, pl_module)
        self._clear()

    def _find_peak(self, trainer: Trainer, pl_module: LightningModule) -> float | None:
        """Return the FLOP/s of one device; say so when that of a GPU is not known."""
        if self.peak_tflops is not None:
            return self.peak_tflops * 1e12
        device = trainer.strategy.root_device
        if device.type != "cuda":
            return None
        name, dtype = torch.cuda.get_device_name(device), getattr(pl_module, "resolved_dtype", torch.float32)
        peak = peak_flops(name, dtype)
        if peak is None:
            rank_zero_info(f"no train/mfu: the peak of {name} in {dtype} is not known; give Throughput.peak_tflops")
        return peak

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start waiting for the epoch's first batch."""
        self._mark = time.perf_counter()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave the time between these two batches out: validation, and what others write after it."""
        self._mark = None

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Leave the time between these two batches out: the file is written after this hook."""
        self._mark = None

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Count the time since the last batch as waiting."""
        if self._seen == 0 and self.warmup_steps and self._peak is not None:
            self._counter = flop_counter()
            self._counter.__enter__()  # type: ignore[no-untyped-call]
        now = time.perf_counter()
        if self._mark is not None:
            self._wait_s += now - self._mark
            self._seconds += now - self._mark
        self._mark = now

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count the batch, and log at every logging step."""
        self._seen += 1
        self._samples += len(batch)
        self._positions += batch.inputs["attention_mask"].numel()
        self._stop_counting()
        # Summed on the device and read at logging steps alone: reading every batch would make the GPU wait.
        self._tokens = self._tokens + batch.inputs["attention_mask"].sum()
        logs = self._seen % trainer.log_every_n_steps == 0  # type: ignore[attr-defined]  # set by a connector
        if logs and torch.cuda.is_available():
            torch.cuda.synchronize()
        now = time.perf_counter()
        assert self._mark is not None, "the batch started"
        self._seconds += now - self._mark
        if self._seen <= self.warmup_steps:
            self._clear()
        elif logs:
            self._log(trainer.world_size, pl_module)
            self._clear()
        self._mark = time.perf_counter()

    def _stop_counting(self) -> None:
        if self._counter is not None:
            self._counter.__exit__(None, None, None)  # type: ignore[no-untyped-call]
            self._flops_per_position = self._counter.get_total_flops() / max(self._positions, 1)
            self._counter = None

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Leave PyTorch as it was."""
        self._stop_counting()

    def _log(self, ranks: int, pl_module: LightningModule) -> None:
        pl_module.log("train/samples_per_s", self._samples * ranks / self._seconds, prog_bar=True)
        pl_module.log("train/tokens_per_s", float(self._tokens) * ranks / self._seconds)
        pl_module.log("train/data_wait", self._wait_s / self._seconds)
        if self._peak is not None and self._flops_per_position:
            pl_module.log("train/mfu", self._positions * self._flops_per_position / self._seconds / self._peak)
