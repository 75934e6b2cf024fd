"""What a user's own run costs: training on documents through the loader, beside synthetic batches of its lengths."""

from __future__ import annotations

import math
import statistics
import time
from dataclasses import replace
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer

from deepsynth.measurement.cells import Result
from deepsynth.measurement.harness import Harness, NotMeasured, spread
from deepsynth.measurement.training import StepClock, fit
from deepsynth.profiling.flops import TrainingFlops, device_peak
from deepsynth.types import Batch


class FitClock(StepClock):
    """A clock of steps that also records how long each waited for its batch, and the lengths of its samples.

    Args:
        harness: whose device is waited for.
        warmup_steps: steps before the first block.
        steps: of a block.
    """

    def __init__(self, harness: Harness, warmup_steps: int, steps: int) -> None:
        super().__init__(harness, warmup_steps, steps)
        self.waits_s: list[float] = []
        #: For each step the number of tokens of each sample, kept on the device: reading them would make a GPU wait.
        self.lengths: list[torch.Tensor] = []
        self.amounts: list[torch.Tensor] = []
        self.image_flops: list[float] = []
        #: For each step the numbers of samples, views and tiles.
        self.counts: list[tuple[int, int, int]] = []
        #: When the first step ended.
        self.first_s = 0.0
        self._flops: TrainingFlops | None = None
        self._waited_s = 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Count operations of the module that is there now."""
        super().on_train_start(trainer, pl_module)
        self._flops = TrainingFlops.of_module(self.harness.module)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Note how long the loader has been waited for since the last step."""
        loader: Any = trainer.train_dataloader
        waited_s = loader.waited_s
        self.waits_s.append(waited_s - self._waited_s)
        self._waited_s = waited_s

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        """Record the batch, and end a block when its last step is done."""
        self.lengths.append(batch.tokens["attention_mask"].sum(dim=1))
        window = None if self._flops is None else self._flops.window
        self.amounts.append(TrainingFlops.amounts(batch.tokens, window))
        self.image_flops.append(0.0 if self._flops is None else float(self._flops.of_images(batch.images)))
        pages = "image_grid_thw" if "image_grid_thw" in batch.images else "pixel_values"
        views, tiles = (len(batch.images.get(name, ())) for name in (pages, "pixel_values_local"))
        self.counts.append((len(batch), views, tiles))
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        self.first_s = self.first_s or time.perf_counter()

    def flop(self) -> float | None:
        """Return the operations that all steps after the warm-up needed; ``None`` where they are not counted."""
        if self._flops is None:
            return None
        amounts = torch.stack(self.amounts[self.warmup_steps :]).sum(dim=0)
        return self._flops.of_text(amounts) + sum(self.image_flops[self.warmup_steps :])


def measure_fit(harness: Harness, *, batch_size: int, steps: int, warmup_steps: int, repeats: int) -> Result:
    """Train on the configuration's own documents, and again on synthetic batches that replay their lengths.

    Args:
        harness: whose module trains on its own data.
        batch_size: B.
        steps: of a repeat.
        warmup_steps: before the first repeat, in both runs; the loader's processes start in them.
        repeats: the medians are over them.

    Returns:
        ``samples_per_s`` of the documents and ``replayed_samples_per_s`` of the synthetic batches, with ``_low`` and
        ``_high``; ``share``, the first over the second; ``data_wait``, the share of time in which steps waited for
        their batch; ``start_s``, from the call of the Trainer to the end of the first step; ``positions``, the median
        length of a sample; the peak of memory; ``mfu`` on GPUs with a known peak; the first and the last loss.

    Raises:
        NotMeasured: for data whose lengths synthetic batches of one page a sample cannot replay, or a loss that is no
            number.
    """
    harness.load()
    data = harness.data
    if data.packing:
        raise NotMeasured("data.packing is on; synthetic batches are not packed")
    count = warmup_steps + repeats * steps
    clock = FitClock(harness, warmup_steps, steps)
    before, data.batch_size = data.batch_size, batch_size
    harness.restart_peak()
    try:
        start = time.perf_counter()
        trainer = harness.trainer(clock, max_steps=count, max_epochs=-1, limit_val_batches=0)
        trainer.fit(harness.module, datamodule=data)
    finally:
        data.batch_size = before
    peaks = harness.peak()
    harness.release()
    losses = [float(loss) for loss in clock.losses]
    if not all(map(math.isfinite, losses)):
        raise NotMeasured("the loss is no number in a step on documents")
    samples = [size for size, _, _ in clock.counts[warmup_steps:]]
    blocks = [sum(samples[first : first + steps]) for first in range(0, len(samples), steps)]
    rates = [block / seconds for block, seconds in zip(blocks, clock.blocks_s, strict=True)]
    seconds = sum(clock.blocks_s)
    peak = device_peak(harness.device, harness.module.resolved_dtype)
    flop = clock.flop()
    replayed = _replay(harness, clock, batch_size)
    return {
        **spread("samples_per_s", rates),
        **spread("replayed_samples_per_s", replayed),
        "share": statistics.median(rates) / statistics.median(replayed),
        "data_wait": sum(clock.waits_s[warmup_steps:]) / seconds,
        "start_s": clock.first_s - start,
        "positions": int(torch.cat(clock.lengths).median()),
        **peaks,
        **({} if peak is None or flop is None else {"mfu": flop / seconds / peak}),
        "num_workers": data.workers.count,
        "steps": repeats * steps,
        "loss_first": losses[0],
        "loss_last": losses[-1],
    }


def _replay(harness: Harness, clock: FitClock, batch_size: int) -> list[float]:
    """Return samples/s of each repeat of a run on synthetic batches of the recorded lengths."""
    work = harness.batches(batch_size, 1)
    prompt = work.sample.prompt_length
    texts = [[length - prompt for length in lengths.tolist()] for lengths in clock.lengths]
    pages_differ = any(views != size or tiles for size, views, tiles in clock.counts)
    if pages_differ or min(map(min, texts)) < 1:
        raise NotMeasured("a sample is not one page without tiles, so synthetic batches cannot replay its lengths")
    replay = StepClock(harness, clock.warmup_steps, clock.steps)
    fit(harness, replay, replace(work, replayed=texts, pad_to_multiple_of=harness.data.pad_to_multiple_of), len(texts))
    harness.release()
    sizes = [len(text) for text in texts[clock.warmup_steps :]]
    return [
        sum(sizes[number * clock.steps : (number + 1) * clock.steps]) / seconds
        for number, seconds in enumerate(replay.blocks_s)
    ]
