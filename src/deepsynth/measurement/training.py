"""What a training step costs: samples per second, memory, utilization."""

from __future__ import annotations

import math
import statistics
import time
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from deepsynth.measurement.cells import Result
from deepsynth.measurement.harness import Bench, NotMeasured, spread
from deepsynth.measurement.synthetic import Pages, SyntheticBatches
from deepsynth.profiling.flops import TrainingFlops, device_peak


class StepClock(Callback):
    """Takes the time of blocks of steps after a warm-up, waiting for the device at their ends alone.

    Args:
        bench: whose device is waited for.
        warmup_steps: steps before the first block.
        steps: of a block.
    """

    def __init__(self, bench: Bench, warmup_steps: int, steps: int) -> None:
        self.bench = bench
        self.warmup_steps = warmup_steps
        self.steps = steps
        self.blocks_s: list[float] = []
        self.losses: list[torch.Tensor] = []
        self._mark = 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the first mark; without a warm-up it is the first block's."""
        self._mark = time.perf_counter()

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        """Look at resident memory where it is highest on a CPU."""
        self.bench.look_at_memory()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """End a block when its last step is done."""
        self.losses.append(outputs["loss"].detach())
        done = batch_idx + 1 - self.warmup_steps
        if done < 0 or done % self.steps:
            return
        self.bench.synchronize()
        now = time.perf_counter()
        if done:
            self.blocks_s.append(now - self._mark)
        self._mark = now


def measure_training(
    bench: Bench,
    *,
    batch_size: int,
    text_tokens: int,
    steps: int,
    warmup_steps: int,
    repeats: int,
    pages: Pages = "new",
) -> Result:
    """Train on synthetic batches, and return rates, peak memory and utilization.

    Args:
        bench: whose module trains.
        batch_size: B.
        text_tokens: N of a sample.
        steps: of a repeat.
        warmup_steps: before the first repeat; compilation and the optimizer's states fall into them.
        repeats: the medians are over them.
        pages: ``new`` in each batch or ``repeated``.

    Returns:
        ``samples_per_s`` and ``tokens_per_s`` (positions of image, prompt and text) with ``_low`` and ``_high``;
        peaks of the whole run; ``tflop_per_sample``, the operations that a sample needs, and ``mfu``, on GPUs with a
        known peak, both as :mod:`deepsynth.profiling.flops` defines them; the first and the last loss.

    Raises:
        NotMeasured: when the loss is no number any more: such a step may be fast for the wrong reason.
    """
    bench.load()
    work = bench.batches(batch_size, text_tokens, pages)
    clock = StepClock(bench, warmup_steps, steps)
    fit(bench, clock, work, warmup_steps + repeats * steps)
    losses = [float(loss) for loss in clock.losses]
    peaks = bench.peak()
    bench.release()
    bad = [step for step, loss in enumerate(losses) if not math.isfinite(loss)]
    if bad:
        raise NotMeasured(f"the loss is {losses[bad[0]]} in step {bad[0] + 1} of {len(losses)}")
    rates = [batch_size * steps / seconds for seconds in clock.blocks_s]
    # Features of repeated pages are found in the cache, if there is one: their operations are not done.
    found = pages == "repeated" and bench.module.hparams.get("vision_cache", "none") != "none"
    counted, inputs = TrainingFlops(bench.module.model), work[0].inputs
    total = counted.of_text(counted.amounts(inputs)) + (0 if found else counted.of_images(inputs))
    flops = total / batch_size
    peak = device_peak(bench.device, bench.module.resolved_dtype)
    utilization = {} if peak is None else {"mfu": statistics.median(rates) * flops / peak}
    return {
        **spread("samples_per_s", rates),
        **spread("tokens_per_s", [rate * work.positions for rate in rates]),
        **peaks,
        "tflop_per_sample": flops / 1e12,
        **utilization,
        "positions": work.positions,
        "steps": repeats * steps,
        "loss_first": losses[0],
        "loss_last": losses[-1],
    }


def fit(bench: Bench, callback: Callback, work: SyntheticBatches, steps: int) -> None:
    """Train for some steps on synthetic batches, the peak of memory started anew.

    Args:
        bench: whose module trains.
        callback: sees the steps.
        work: the batches.
        steps: how many.
    """
    bench.restart_peak()
    bench.trainer(callback, max_steps=steps, max_epochs=1).fit(bench.module, work.take(steps))
