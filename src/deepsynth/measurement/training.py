"""What a training step costs: samples/s, memory, utilization; and how much fits into a GPU's memory."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from deepsynth.errors import NonFiniteError
from deepsynth.measurement.cells import Result
from deepsynth.measurement.harness import Harness, NotMeasured, spread
from deepsynth.measurement.synthetic import Pages, SyntheticBatches
from deepsynth.profiling.flops import TrainingFlops, device_peak
from deepsynth.profiling.memory import GIB, is_out_of_memory


class StepClock(Callback):
    """Takes the time of blocks of steps after a warm-up, waiting for the device at their ends alone.

    Args:
        harness: whose device is waited for.
        warmup_steps: steps before the first block.
        steps: of a block.
    """

    def __init__(self, harness: Harness, warmup_steps: int, steps: int) -> None:
        self.harness = harness
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
        self.harness.look_at_memory()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """End a block when its last step is done."""
        self.losses.append(outputs["loss"].detach())
        done = len(self.losses) - self.warmup_steps
        if done < 0 or done % self.steps:
            return
        self.harness.synchronize()
        now = time.perf_counter()
        if done:
            self.blocks_s.append(now - self._mark)
        self._mark = now


def measure_training(
    harness: Harness,
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
        harness: whose module trains.
        batch_size: B.
        text_tokens: N of a sample.
        steps: of a repeat.
        warmup_steps: before the first repeat; compilation and the optimizer's states fall into them.
        repeats: the medians are over them.
        pages: ``new`` in each batch or ``repeated``.

    Returns:
        ``samples_per_s`` and ``tokens_per_s`` (positions of image, prompt and text) with ``_low`` and ``_high``;
        peaks of the whole run; ``tflop_per_sample``, the operations that a sample needs, of models where they are
        counted, and ``mfu``, on GPUs with a known peak, both as :mod:`deepsynth.profiling.flops` defines them; the
        first and the last loss.

    Raises:
        NotMeasured: when the loss is no number any more: such a step may be fast for the wrong reason.
    """
    harness.load()
    work = harness.batches(batch_size, text_tokens, pages)
    clock = StepClock(harness, warmup_steps, steps)
    try:
        fit(harness, clock, work, warmup_steps + repeats * steps)
    except NonFiniteError as error:
        raise NotMeasured(str(error).partition(",")[0]) from error
    losses = [float(loss) for loss in clock.losses]
    peaks = harness.peak()
    harness.release()
    rates = [batch_size * steps / seconds for seconds in clock.blocks_s]
    flops = _flops_of_a_sample(harness, work, batch_size)
    counted = {} if flops is None else {"tflop_per_sample": flops / 1e12}
    peak = device_peak(harness.device, harness.module.resolved_dtype)
    utilization = {} if peak is None or flops is None else {"mfu": statistics.median(rates) * flops / peak}
    return {
        **spread("samples_per_s", rates),
        **spread("tokens_per_s", [rate * work.positions for rate in rates]),
        **peaks,
        **counted,
        **utilization,
        "positions": work.positions,
        "steps": repeats * steps,
        "loss_first": losses[0],
        "loss_last": losses[-1],
    }


def _flops_of_a_sample(harness: Harness, work: SyntheticBatches, batch_size: int) -> float | None:
    """Return the operations that a sample needs; those of repeated pages that a cache finds are not done.

    ``None`` where they are not counted.
    """
    found = work.pages == "repeated" and harness.module.engine.vision_cache != "none"
    counted, inputs = TrainingFlops.of_module(harness.module), work[0].inputs
    if counted is None:
        return None
    total = counted.of_text(counted.amounts(inputs, counted.window)) + (0 if found else counted.of_images(inputs))
    return total / batch_size


def fit(harness: Harness, callback: Callback, work: SyntheticBatches, steps: int) -> None:
    """Train for some steps on synthetic batches, with the memory peak reset first.

    Args:
        harness: whose module trains.
        callback: sees the steps.
        work: the batches.
        steps: how many.
    """
    harness.restart_peak()
    harness.trainer(callback, max_steps=steps, max_epochs=1).fit(harness.module, work.take(steps))


# ---------------------------------------------------------------------- memory limits


def largest(fits: Callable[[int], bool], start: int, limit: int, tolerance: float = 0.0) -> tuple[int, int | None]:
    """Search the largest number that fits: doubled until one does not, then halved in between.

    Args:
        fits: whether a number fits; when one does not, no larger one does.
        start: the first to try.
        limit: the largest to try.
        tolerance: how far the answer may be below the truth, as a share of it.

    Returns:
        The largest that was seen to fit, 0 for none; and the smallest that was seen not to, ``None`` when the limit
        fits.
    """
    good, bad = 0, None
    candidate = min(start, limit)
    while bad is None:
        if not fits(candidate):
            bad = candidate
        elif candidate == limit:
            return limit, None
        else:
            good, candidate = candidate, min(2 * candidate, limit)
    while bad - good > max(1, tolerance * good):
        middle = (good + bad) // 2
        if fits(middle):
            good = middle
        else:
            bad = middle
    return good, bad


def measure_largest_batch(harness: Harness, *, text_tokens: int, memory_gib: float | None, limit: int = 512) -> Result:
    """Search the largest batch that two steps of training fit with, to within a sixteenth.

    Args:
        harness: on a GPU.
        text_tokens: N of a sample.
        memory_gib: that PyTorch may take; by default what the GPU has.
        limit: the largest batch to try.

    Raises:
        NotMeasured: without a GPU, whose memory can be limited.
    """
    memory = _limit_memory(harness, memory_gib)
    good, bad = largest(lambda size: _fits(harness, size, text_tokens), 1, limit, 1 / 16)
    return {"largest_batch": good, "too_large": bad or "none tried", "memory_gib": memory}


def measure_longest_context(harness: Harness, *, memory_gib: float | None) -> Result:
    """Search the most positions (image, prompt and text) that two steps of batch 1 fit with, to within a sixteenth.

    Args:
        harness: on a GPU.
        memory_gib: that PyTorch may take; by default what the GPU has.

    Raises:
        NotMeasured: without a GPU, whose memory can be limited.
    """
    memory = _limit_memory(harness, memory_gib)
    prompt = harness.batches(1, 1).positions - 1
    longest = int(harness.config.text_config.max_position_embeddings) - prompt
    good, bad = largest(lambda tokens: _fits(harness, 1, tokens), 512, longest, 1 / 16)
    return {
        "longest_context": good + prompt if good else 0,
        "too_long": bad + prompt if bad else "none: all of the model's positions fit",
        "memory_gib": memory,
    }


def _limit_memory(harness: Harness, memory_gib: float | None) -> float:
    if harness.device.type != "cuda":
        raise NotMeasured("needs a GPU: the memory of a process on the CPU cannot be limited")
    total = torch.cuda.get_device_properties(harness.device).total_memory / GIB
    memory = min(memory_gib or total, total)
    torch.cuda.set_per_process_memory_fraction(memory / total, harness.device)
    if harness.module.engine.activation_memory == "auto":
        # What the driver calls free is more than this process may take now; the module's own plan shall know.
        harness.module.engine = replace(harness.module.engine, memory_budget_gib=0.9 * memory)
    harness.load()
    return memory


def _fits(harness: Harness, batch_size: int, text_tokens: int) -> bool:
    try:
        fit(harness, Callback(), harness.batches(batch_size, text_tokens), 2)
    except RuntimeError as error:  # torch.OutOfMemoryError is one
        if not is_out_of_memory(error):
            raise
        fits = False
    else:
        fits = True
    harness.release()  # after the except clause, whose traceback holds the tensors
    return fits
