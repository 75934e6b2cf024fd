"""How much memory each phase of a run takes, how much is left, and what to change when it runs out."""

from __future__ import annotations

import math
from typing import Any, cast

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info

from deepsynth.callbacks.out_of_memory import explain, shapes
from deepsynth.distributed.ranks import GatheredFigures
from deepsynth.modules import DeepSynthModule
from deepsynth.profiling.memory import GIB, Memory, is_out_of_memory, memory_of

#: In the order of a run: loading, the three parts of a training step, validation and text generation.
PHASES = ("load", "forward", "backward", "step", "validation", "generation")


class VramMonitor(Callback):
    """Logs memory in GiB at every logging step and when the run ends, and prints a line with the peak of every phase.

    Keys: ``vram/allocated_gib`` and ``vram/reserved_gib`` (after the step), ``vram/peak_gib`` and, for the phases that
    ran, ``vram/peak_load_gib``, ``…forward…``, ``…backward…``, ``…step…``, ``…validation…`` and ``…generation…``;
    ``vram/limit_gib``, at which an allocation would fail, other programs on the device taken into account; and
    ``vram/headroom_gib``, the limit less the peak. With several ranks these are the largest of any rank (the smallest
    limit and headroom), after the step before; at the end ``vram/rank0/peak_gib``, … are those of every rank. On the
    CPU the keys begin with ``ram/``: the resident memory of the process, seen where phases begin and end.

    A run that runs out of memory ends with a line that says in which phase, on which shapes, and what to change.

    Example::

        callbacks+:
          - class_path: VramMonitor
    """

    def __init__(self) -> None:
        self._memory: Memory | None = None
        self._phase: str | None = None
        self._around: str | None = None
        self._peaks: dict[str, int] = {}
        self._peak = 0
        self._batches = 0
        self._gathered: GatheredFigures | None = None
        self._shapes = ""

    # ------------------------------------------------------------------ phases

    def _enter(self, phase: str | None) -> None:
        """Record the peak of the current phase and start another; ``None`` is the time between phases."""
        if self._memory is None:
            return
        self._record_peak()
        self._memory.restart_peak()
        self._phase = phase

    def _record_peak(self) -> None:
        assert self._memory is not None
        peak = self._memory.usage().peak
        self._peak = max(self._peak, peak)
        if self._phase is not None:
            self._peaks[self._phase] = max(self._peaks.get(self._phase, 0), peak)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Start measuring; the weights are loaded next."""
        self._memory = memory_of(trainer.strategy.root_device)
        self._phase, self._peaks, self._peak, self._batches, self._shapes = "load", {}, 0, 0, ""
        self._memory.restart_peak()
        if isinstance(pl_module, DeepSynthModule):
            pl_module.add_phase_listener(self._on_generation)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Stop listening to the module's generation."""
        if isinstance(pl_module, DeepSynthModule):
            pl_module.remove_phase_listener(self._on_generation)

    def _on_generation(self, phase: str | None) -> None:
        """Follow the module into generation, and back to the phase around it."""
        if phase is not None:
            self._around = self._phase
        self._enter(phase or self._around)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """End the loading phase."""
        self._enter(None)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Begin the forward pass."""
        self._shapes = shapes(batch)
        self._enter("forward")

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: torch.Tensor) -> None:
        """Begin the backward pass."""
        self._enter("backward")

    def on_after_backward(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """End the backward pass; the optimizer steps next, or another batch is accumulated."""
        self._enter("step")

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """End the step, and log at logging steps."""
        self._enter(None)
        self._batches += 1
        every = cast(Any, trainer).log_every_n_steps  # set by a connector
        if trainer.world_size > 1 and (self._batches + 1) % every == 0:
            # A batch early: what other ranks send now is there after all that the GPU has been given to do.
            self._gathered = self._gather(trainer)
        if self._batches % every == 0:
            gathered, self._gathered = self._gathered or self._gather(trainer), None
            pl_module.log_dict(self._over_ranks(gathered.read()))

    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Begin the forward pass of validation; the module announces its generation."""
        self._shapes = shapes(batch)
        self._enter("validation")

    on_test_batch_start = on_validation_batch_start

    def on_predict_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Begin text generation, which is all that prediction does."""
        self._shapes = shapes(batch)
        self._enter("generation")

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """End the batch."""
        self._enter(None)

    on_test_batch_end = on_validation_batch_end
    on_predict_batch_end = on_validation_batch_end

    # ------------------------------------------------------------------ figures

    def figures(self) -> dict[str, float]:
        """Return this rank's figures in GiB, by their names without the first part; NaN of a phase that did not run."""
        assert self._memory is not None, "figures belong to a run"
        self._record_peak()
        usage, limit = self._memory.usage(), self._memory.limit()
        sizes: dict[str, float] = {"allocated": usage.allocated, "reserved": usage.reserved, "peak": self._peak}
        sizes |= {f"peak_{phase}": self._peaks.get(phase, math.nan) for phase in PHASES}
        sizes |= {"limit": limit, "headroom": limit - self._peak}
        return {f"{name}_gib": size / GIB for name, size in sizes.items()}

    def _gather(self, trainer: Trainer) -> GatheredFigures:
        return GatheredFigures(self.figures(), trainer.strategy.root_device)

    def _over_ranks(self, ranks: list[dict[str, float]]) -> dict[str, float]:
        """Return the figures of the fullest rank by their keys."""
        assert self._memory is not None
        logged = {}
        for name in dict.fromkeys(name for figures in ranks for name in figures):
            tightest = min if name in ("limit_gib", "headroom_gib") else max
            logged[f"{self._memory.key}/{name}"] = tightest(figures[name] for figures in ranks if name in figures)
        return logged

    def _report(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Send the final figures to every logger, and print one line for each rank."""
        assert self._memory is not None
        self._enter(None)
        key, ranks = self._memory.key, self._gather(trainer).read()
        logged = self._over_ranks(ranks)
        if len(ranks) > 1:
            by_rank = enumerate(ranks)
            logged |= {f"{key}/rank{rank}/{name}": value for rank, own in by_rank for name, value in own.items()}
        for logger in trainer.loggers:
            logger.log_metrics(logged, trainer.global_step)
        for rank, figures in enumerate(ranks):
            name = key.upper() + (f" of rank {rank}" if len(ranks) > 1 else "")
            rank_zero_info(f"{name}: {one_row(figures)}")

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Report."""
        self._report(trainer, pl_module)

    on_test_end = on_train_end
    on_predict_end = on_train_end

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Report, when validation is all that was asked for."""
        if trainer.state.fn == "validate":
            self._report(trainer, pl_module)

    # ------------------------------------------------------------------ out of memory

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Replace the text of an out-of-memory error by one line about this run; the error is raised as it was."""
        if self._memory is not None and is_out_of_memory(exception):
            held = f"{self._memory.usage().allocated / GIB:.1f} GiB of {self._memory.limit() / GIB:.1f} were in use"
            savings = pl_module.memory_savings(self._phase) if isinstance(pl_module, DeepSynthModule) else []
            exception.args = (explain(str(exception), self._phase, self._shapes, held, trainer, savings),)


def one_row(figures: dict[str, float]) -> str:
    """Return figures in GiB as a row: ``peak 4.10 (load 2.00, forward 3.91, …), limit 79.2, headroom 75.1 GiB``."""
    phases = ", ".join(f"{p} {figures[f'peak_{p}_gib']:.2f}" for p in PHASES if f"peak_{p}_gib" in figures)
    return (
        f"peak {figures['peak_gib']:.2f} GiB ({phases}), "
        f"limit {figures['limit_gib']:.1f} GiB, headroom {figures['headroom_gib']:.1f} GiB"
    )
