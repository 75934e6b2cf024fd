"""The weight of each batch in an optimizer step: every label token counts the same."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from deepsynth.compat.torch import scale_all
from deepsynth.distributed.ranks import world_size


class LossWindow:
    """Makes the gradient of an optimizer step that of the mean loss over all label tokens of its window.

    A window is what one optimizer step learns from: the batches of all ranks, several of each rank with
    ``trainer.accumulate_grad_batches``. How many label tokens it has is known only after its last batch. So each loss
    is weighted by its tokens over those of the window's first batch (:meth:`weigh`), and once gradients are complete
    they are divided by what is missing (:meth:`finish`), before they are clipped. With one batch a step nothing is
    left to divide. The balance loss of mixture-of-experts models is weighted with the loss that it is part of.
    """

    def __init__(self) -> None:
        self._first: torch.Tensor | None = None
        self._sums = torch.zeros(2)

    @property
    def mean(self) -> torch.Tensor:
        """The mean loss () over the label tokens of the window so far, or of the last one."""
        return self._sums[0] / self._sums[1].clamp(min=1)

    @property
    def tokens(self) -> torch.Tensor:
        """The number () of label tokens of the window so far, or of the last one."""
        return self._sums[1]

    def weigh(self, loss: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """Count a batch, and return the loss to call backward on.

        The gradients of ranks are averaged afterwards, each with the same weight, however many tokens it had. Hence
        the factor of the number of ranks.

        Args:
            loss: () mean over the label tokens of this rank's batch.
            tokens: () number of these.
        """
        ranks = world_size()
        sums = torch.stack([loss.detach().float() * tokens, tokens.float()])
        if ranks > 1:
            dist.all_reduce(sums)
        first, self._first = self._first, sums[1] if self._first is None else self._first
        self._sums = sums if first is None else self._sums.to(sums) + sums
        if first is None and ranks == 1:
            return loss
        return loss * (tokens * ranks / self._first.clamp(min=1))

    def finish(self, parameters: Iterable[nn.Parameter], batches: int) -> None:
        """End the window: divide its gradients.

        Args:
            parameters: with the gradients of the whole window, averaged over ranks, and divided by ``batches``.
            batches: ``trainer.accumulate_grad_batches``, by which Lightning divides each loss.
        """
        first, self._first = self._first, None
        if first is None or batches == 1:
            return
        factor = batches * first.clamp(min=1) / self._sums[1].clamp(min=1)
        scale_all([p.grad for p in parameters if p.grad is not None], factor)

    def state(self) -> dict[str, torch.Tensor]:
        """Return what a checkpoint in the middle of a window needs, the same on all ranks; else nothing."""
        return {} if self._first is None else {"first": self._first.cpu(), "sums": self._sums.cpu()}

    def load(self, state: Mapping[str, Any], device: torch.device) -> None:
        """Continue the window of a checkpoint; begin a new one where it has none."""
        self._first = state["first"].to(device) if state else None
        self._sums = state["sums"].to(device) if state else torch.zeros(2)
