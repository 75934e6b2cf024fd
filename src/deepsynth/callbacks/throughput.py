"""How fast a run trains, how much of the hardware it uses, and how long it waits for data."""

from __future__ import annotations

import time
from typing import Any, cast

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info

from deepsynth.errors import UserError
from deepsynth.modules import DeepSynthModule
from deepsynth.profiling.flops import TrainingFlops, device_peak


class Throughput(Callback):
    """Logs ``train/samples_per_s``, ``train/tokens_per_s``, ``train/data_wait`` and ``train/mfu`` at logging steps.

    Figures are over all ranks and the batches since the last logging step, validation and checkpoints left out; the
    first ``warmup_steps`` batches are not counted. ``train/data_wait`` is the share of that time in which the loop
    waited for the loader. Tokens are those of text and image, padding left out. On a GPU the device is synchronized
    once per logging step.

    ``train/mfu`` is the model FLOPs utilization: operations per second that the steps need over the dense peak of the
    device, both as :mod:`deepsynth.profiling.flops` defines them. Recomputed activations do not count, nor do images
    whose features come from a cache.

    Example::

        callbacks+:
          - class_path: Throughput
            init_args: {warmup_steps: 10}

    Args:
        warmup_steps: batches at the start that are not measured.
        peak_tflops: dense peak of one device in the run's dtype, TFLOP/s; by default that of NVIDIA's data sheet for a
            known GPU. Without a peak there is no ``train/mfu``.

    Raises:
        UserError: for a number out of range.
    """

    def __init__(self, warmup_steps: int = 2, peak_tflops: float | None = None) -> None:
        if warmup_steps < 0:
            raise UserError(f"Throughput.warmup_steps is {warmup_steps}; it must be at least 0")
        if peak_tflops is not None and peak_tflops <= 0:
            raise UserError(f"Throughput.peak_tflops is {peak_tflops}; it must be above 0")
        self.warmup_steps = warmup_steps
        self.peak_tflops = peak_tflops
        self._peak: float | None = None
        self._flops: TrainingFlops | None = None
        self._seen = 0
        self._loader_s: float | None = None  # seconds that the loader has been waited for
        self._mark: float | None = None
        self._clear()

    def _clear(self) -> None:
        self._samples = 0
        self._amounts: torch.Tensor | int = 0
        self._image_flops = 0.0
        self._seconds = self._wait_s = 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Reset the counters, and find the peak of the device."""
        self._seen, self._mark = 0, None
        self._loader_s = getattr(trainer.train_dataloader, "waited_s", None)
        self._peak = self._find_peak(trainer, pl_module)
        counted = self._peak is not None and isinstance(pl_module, DeepSynthModule)
        self._flops = TrainingFlops.of_module(pl_module) if counted else None
        if counted and self._flops is None:
            rank_zero_info(f"no train/mfu: the operations of a {type(pl_module.model).__name__} are not counted")
        self._clear()

    def _find_peak(self, trainer: Trainer, pl_module: LightningModule) -> float | None:
        """Return the FLOP/s of one device; say so when that of a GPU is not known."""
        if self.peak_tflops is not None:
            return self.peak_tflops * 1e12
        device = trainer.strategy.root_device
        if device.type != "cuda":
            return None
        dtype = getattr(pl_module, "resolved_dtype", torch.float32)
        peak = device_peak(device, dtype)
        if peak is None:
            name = torch.cuda.get_device_name(device)
            rank_zero_info(f"no train/mfu: the peak of {name} in {dtype} is unknown; set Throughput.peak_tflops")
        return peak

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start measuring the wait for the epoch's first batch."""
        self._mark = time.perf_counter()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Exclude the time until the next batch: validation, and what other callbacks write after it."""
        self._mark = None

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Exclude the time until the next batch: the file is written after this hook."""
        self._mark = None

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Count the time since the last batch, and how much of it the loader took.

        Other loaders than ours do not know their share: then all of it counts.
        """
        now = time.perf_counter()
        before, self._loader_s = self._loader_s, getattr(trainer.train_dataloader, "waited_s", None)
        if self._mark is not None:
            between = now - self._mark
            self._wait_s += between if self._loader_s is None else self._loader_s - (before or 0.0)
            self._seconds += between
        self._mark = now

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count the batch, and log at every logging step."""
        self._seen += 1
        self._samples += len(batch)
        window = None if self._flops is None else self._flops.window
        # On the host: to read them from a GPU would wait for all that it has to do.
        self._amounts = self._amounts + TrainingFlops.amounts(batch.moved_from or batch.tokens, window)
        if self._flops is not None:
            self._image_flops += self._flops.of_images(batch.images) * _encoded_share(pl_module)
        logs = self._seen % cast(Any, trainer).log_every_n_steps == 0  # set by a connector
        if logs and torch.cuda.is_available() and not isinstance(pl_module, DeepSynthModule):
            torch.cuda.synchronize()  # a DeepSynthModule waits for its loss where Lightning logs
        now = time.perf_counter()
        assert self._mark is not None, "the batch started"
        self._seconds += now - self._mark
        if self._seen <= self.warmup_steps:
            self._clear()
        elif logs:
            self._log(trainer.world_size, pl_module)
            self._clear()
        self._mark = time.perf_counter()

    def _log(self, ranks: int, pl_module: LightningModule) -> None:
        pl_module.log("train/samples_per_s", self._samples * ranks / self._seconds, prog_bar=True)
        assert isinstance(self._amounts, torch.Tensor), "a batch was counted"
        amounts = self._amounts.tolist()
        pl_module.log("train/tokens_per_s", amounts[0] * ranks / self._seconds)
        pl_module.log("train/data_wait", self._wait_s / self._seconds)
        if self._peak is not None and self._flops is not None:
            needed = self._flops.of_text(amounts) + self._image_flops
            pl_module.log("train/mfu", needed / self._seconds / self._peak)


def _encoded_share(module: LightningModule) -> float:
    """Return the share of the batch's images that were encoded, not found in the cache of vision features."""
    forward = module.training_forward if isinstance(module, DeepSynthModule) else None
    cache = forward.cache if forward is not None else None
    return 1.0 if cache is None or not cache.lookups else 1 - cache.hits / cache.lookups
