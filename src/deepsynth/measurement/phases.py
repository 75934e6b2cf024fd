"""Where a training step's time goes."""

from __future__ import annotations

import statistics
import time
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from deepsynth.measurement.cells import Result
from deepsynth.measurement.harness import Harness, NotMeasured

#: In the order of a step.
PHASES = ("data", "vision", "decoder", "backward", "optimizer")
#: What the families call the vision encoder.
_TOWERS = ("vision_tower", "visual")


class PhaseClock(Callback):
    """Takes the time of every phase of a step, waiting for the device at each border.

    Args:
        harness: whose device is waited for.
        warmup_steps: steps that are not counted.
    """

    def __init__(self, harness: Harness, warmup_steps: int) -> None:
        self.harness = harness
        self.warmup_steps = warmup_steps
        self.seconds: dict[str, list[float]] = {phase: [] for phase in PHASES}
        self.positions: list[int] = []
        self._mark = self._vision_start = self._vision = 0.0
        self._forward = False
        self._seen = 0

    def watch(self, model: torch.nn.Module) -> list[Any]:
        """Take the time of the vision encoder's forward pass too; return the hooks to remove."""
        towers = [module for name, module in model.named_modules() if name.rpartition(".")[2] in _TOWERS]
        return [
            hook
            for tower in towers
            for hook in (
                tower.register_forward_pre_hook(self._enter_vision),
                tower.register_forward_hook(self._leave_vision),
            )
        ]

    def _enter_vision(self, *args: Any) -> None:
        self._vision_start = self._now()

    def _leave_vision(self, *args: Any) -> None:
        if self._forward:  # not when the backward pass computes it again
            self._vision += self._now() - self._vision_start

    def _now(self) -> float:
        self.harness.synchronize()
        return time.perf_counter()

    def _book(self, phase: str, less: float = 0.0) -> None:
        now = self._now()
        if self._seen >= self.warmup_steps:
            self.seconds[phase].append(now - self._mark - less)
        self._mark = now

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start waiting for the first batch."""
        self._mark = self._now()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """End waiting for the batch."""
        self._book("data")
        self._vision, self._forward = 0.0, True

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: torch.Tensor) -> None:
        """End the forward pass: all time outside vision counts as the decoder's, the loss included."""
        self._forward = False
        self._book("decoder", less=self._vision)
        if self._seen >= self.warmup_steps:
            self.seconds["vision"].append(self._vision)

    def on_after_backward(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """End the backward pass."""
        self._book("backward")

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """End the optimizer's part."""
        self._book("optimizer")
        if self._seen >= self.warmup_steps:
            self.positions.append(int(batch.tokens["attention_mask"].sum()))
            self._mark = self._now()
        self._seen += 1


def measure_phases(harness: Harness, *, batch_size: int, steps: int, warmup_steps: int) -> Result:
    """Train on the configuration's own data, and return the median milliseconds of each phase of a step.

    Args:
        harness: whose module trains on its own data.
        batch_size: B.
        steps: that are measured.
        warmup_steps: before them.

    Returns:
        ``data_ms`` (waiting for the batch), ``vision_ms``, ``decoder_ms`` (with the loss), ``backward_ms``,
        ``optimizer_ms``, ``step_ms``, and ``positions``, the tokens of a batch.

    Raises:
        NotMeasured: when the data has fewer batches than steps.
    """
    harness.load()
    clock = PhaseClock(harness, warmup_steps)
    harness.data.batch_size = batch_size
    hooks = clock.watch(harness.module)
    try:
        options = {"max_steps": warmup_steps + steps, "limit_val_batches": 0}
        harness.trainer(clock, **options).fit(harness.module, datamodule=harness.data)
    finally:
        for hook in hooks:
            hook.remove()
    harness.release()
    if not clock.positions:
        raise NotMeasured(f"the data gave no step after {warmup_steps} of warm-up")
    medians = {f"{phase}_ms": 1000 * statistics.median(clock.seconds[phase]) for phase in PHASES}
    totals = [sum(parts) for parts in zip(*clock.seconds.values(), strict=True)]
    return {
        **medians,
        "step_ms": 1000 * statistics.median(totals),
        "positions": int(statistics.median(clock.positions)),
    }
