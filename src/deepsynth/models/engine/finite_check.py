"""Whether losses, gradients and trained weights are finite numbers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from torch import nn

from deepsynth.distributed.host_copy import HostCopy
from deepsynth.errors import NonFiniteError, UserError

#: A float16 loss scale below this has halved at every step: its gradients overflow, or are no numbers, at any scale.
LEAST_SCALE = 1e-4


class FiniteCheck:
    """Stops a run at the first optimizer step whose loss or gradient is not finite, or skips some such steps.

    The outcome of a step is read when the next one ends, so that nothing waits for a GPU. Weights that are spoiled by
    then are never written: :func:`check_state` sees to that. Only a run that may skip steps waits for each outcome.

    With float16 the loss scaler skips steps whose scaled gradients overflow, by itself. Those are counted apart and
    are no failure, until the scale has fallen below :data:`LEAST_SCALE`.
    """

    def __init__(self) -> None:
        #: Number of steps that were skipped because the run may skip some; a resumed run continues the count.
        self.skipped = 0
        self._overflows = 0
        self._step = ""
        self._scale: float | None = None
        self._samples: list[str] = []
        self._outcome: HostCopy | None = None

    def add_samples(self, ids: Sequence[str]) -> None:
        """Note the samples that this rank's part of the step learns from."""
        self._samples += ids

    def end_step(
        self,
        trainer: Trainer,
        loss: torch.Tensor,
        tokens: torch.Tensor,
        parameters: Iterable[nn.Parameter],
        *,
        allowed: int,
    ) -> int | None:
        """Check an optimizer step whose gradients are complete.

        Args:
            trainer: of the run.
            loss: () of the whole step, the same on all ranks.
            tokens: () number of label tokens of the whole step; one without any is named in the log.
            parameters: with the gradients that the optimizer gets. They lose them when the step is skipped.
            allowed: number of steps that the run may skip.

        Returns:
            The number of steps that were skipped so far; ``None`` where none can be.

        Raises:
            NonFiniteError: when the step before was not finite.
        """
        self.stop_unless_finite(trainer)
        trained = [parameter for parameter in parameters if parameter.grad is not None]
        scaler = getattr(trainer.precision_plugin, "scaler", None)
        if scaler is not None:
            scale, before = float(scaler.get_scale()), self._scale
            self._overflows += before is not None and scale < before
            self._scale = scale
            if scale < LEAST_SCALE:
                raise self._stop(trainer, f"the gradients of {self._step} and those before overflow at any loss scale")
        gradients = [] if scaler is not None else [p.grad for p in trained if p.grad is not None]
        self._look(trainer.global_step + 1, loss, tokens, gradients)
        if self.skipped < allowed and self._failed():
            rank_zero_warn(f"{self._step} is skipped: its loss or a gradient is not finite")
            self.skipped += 1
            self._scale = None  # the scaler skips this step too, which is no overflow to count
            for parameter in trained:
                # A scaler looks for values that are not finite, and fails where no gradient is left.
                parameter.grad = None if scaler is None else torch.full_like(parameter, float("nan"))
        return None if scaler is None and not allowed else self.skipped + self._overflows

    def stop_unless_finite(self, trainer: Trainer) -> None:
        """Stop the run when its last optimizer step was not finite.

        Raises:
            NonFiniteError: with the step, its samples, and the last good checkpoint.
        """
        if self._failed():
            raise self._stop(trainer, f"the loss or a gradient of {self._step} is not finite")

    def _stop(self, trainer: Trainer, reason: str) -> NonFiniteError:
        """Return the error that ends the run, and keep the last checkpoint from being replaced."""
        written: list[Path] = []
        for callback in trainer.checkpoint_callbacks:
            if isinstance(callback, ModelCheckpoint):
                callback.save_on_exception = False  # these weights must not replace the last good ones
                written += map(Path, filter(None, (callback.best_model_path, callback.last_model_path)))
        newest = max((file for file in written if file.is_file()), key=lambda file: file.stat().st_mtime, default=None)
        return NonFiniteError(
            f"{reason}, so training stops; "
            + (f"the last good checkpoint is {newest}" if newest else "there is no checkpoint yet")
            + "; lower the learning rate, set trainer.gradient_clip_val, or let such steps be skipped with "
            "model.engine.skip_non_finite"
        )

    def _look(self, step: int, loss: torch.Tensor, tokens: torch.Tensor, gradients: list[torch.Tensor]) -> None:
        norm = nn.utils.get_total_norm(gradients)
        whole: torch.Tensor = norm.full_tensor() if hasattr(norm, "full_tensor") else norm  # over shards
        self._outcome = HostCopy(torch.stack([loss.isfinite() & whole.isfinite().to(loss.device), tokens > 0]))
        samples, self._samples = self._samples, []
        named = ", ".join(samples[:8]) + (f" and {len(samples) - 8} more" if len(samples) > 8 else "")
        self._step = f"step {step} (samples {named})"

    def _failed(self) -> bool:
        """Return whether the step that was looked at was not finite; told once."""
        if self._outcome is None:
            return False
        outcome, self._outcome = self._outcome, None
        finite, has_labels = outcome.read().tolist()
        if not has_labels:
            rank_zero_warn(f"{self._step} has no label token, so nothing is learned from it; the processor made it so")
        return not finite


def check_state(state: Mapping[str, torch.Tensor], target: str) -> None:
    """Refuse trained weights that are not finite, before they replace others.

    Args:
        state: by name.
        target: what would be written, for the message.

    Raises:
        UserError: with the name of the first such weight.
    """
    for name, tensor in state.items():
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise UserError(
                f"{target} is not written, as {name} holds values that are not finite; continue from an earlier "
                "checkpoint with a lower learning rate"
            )
