"""Optimizers and learning-rate schedules: torch's and transformers' own, with errors that name the key."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Literal

import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import (
    BaseFinetuning,
    LearningRateFinder,
    ModelPruning,
    StochasticWeightAveraging,
    WeightAveraging,
)
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from deepsynth.compat.torch import leave_scaling_to_scaler
from deepsynth.errors import UserError

Schedule = Literal["constant", "linear", "cosine"]

_AVERAGING = (
    "it averages the frozen base too, and its result would be in no checkpoint, adapter or export; remove it, and use "
    "model.schedule=cosine or linear, which also calms the last steps"
)
#: Lightning's callbacks that change weights or the learning rate where a module does not see it, and why not.
_REFUSED_CALLBACKS: tuple[tuple[type[Callback], str], ...] = (
    (WeightAveraging, _AVERAGING),  # EMAWeightAveraging is one
    (StochasticWeightAveraging, _AVERAGING),
    (ModelPruning, "an adapter's file has no masks, so pruned weights would come back; remove it"),
    (BaseFinetuning, "what is trained does not change within a run; remove it, and choose with model.lora"),
    (
        LearningRateFinder,
        "the learning rate belongs to model.optimizer, where it cannot be set from outside; remove it, and compare "
        "short runs that differ in model.optimizer.init_args.lr",
    ),
)


class FusedAdamW(torch.optim.AdamW):
    """AdamW in one kernel for all parameters on CUDA; elsewhere torch's default.

    Args:
        params: parameters, or groups of them.
        lr: learning rate.
        betas: decay of the mean and of the mean square of gradients.
        eps: added to the root of the mean square.
        weight_decay: decoupled.
    """

    def __init__(
        self,
        params: Iterable[torch.nn.Parameter] | Iterable[dict[str, Any]],
        lr: float = 2e-4,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.01,
    ) -> None:
        groups: list[Any] = list(params)
        tensors = [p for group in groups for p in (group["params"] if isinstance(group, dict) else [group])]
        fused = True if tensors and all(p.is_cuda and p.is_floating_point() for p in tensors) else None
        super().__init__(groups, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, fused=fused)
        leave_scaling_to_scaler(self)


def check_optimizer(optimizer: Callable[[Iterable[torch.nn.Parameter]], Optimizer]) -> None:
    """Try the optimizer's settings on one scalar, before any weights are loaded.

    Raises:
        UserError: with the optimizer's own complaint and the key.
    """
    try:
        optimizer([torch.nn.Parameter(torch.zeros(1))])
    except (ValueError, TypeError) as error:
        raise UserError(f"model.optimizer: {error}") from error


def check_callbacks(callbacks: Iterable[Callback]) -> None:
    """Refuse callbacks whose result would be lost.

    Raises:
        UserError: with the class, the reason and what to do instead.
    """
    for callback in callbacks:
        for kind, reason in _REFUSED_CALLBACKS:
            if isinstance(callback, kind):
                raise UserError(f"trainer.callbacks has {type(callback).__name__}, which does not work here: {reason}")


def make_schedule(optimizer: Optimizer, name: Schedule, warmup_steps: int, total_steps: int | None) -> LRScheduler:
    """Return a schedule that rises linearly over ``warmup_steps`` and then stays, or falls to 0 at ``total_steps``.

    Args:
        optimizer: whose learning rate is scaled.
        name: what follows the warm-up: ``constant``, or a ``linear`` or ``cosine`` decay.
        warmup_steps: optimizer steps.
        total_steps: optimizer steps of the whole run; ``None`` when the run has no end.

    Raises:
        UserError: for a decay without an end.
    """
    from transformers import get_scheduler

    if name == "constant":
        constant: LRScheduler = get_scheduler("constant_with_warmup", optimizer, num_warmup_steps=warmup_steps)
        return constant
    if total_steps is None:
        raise UserError(
            f"model.schedule is {name}, which needs the end of the run; set trainer.max_steps or trainer.max_epochs, "
            "or model.schedule=constant"
        )
    decay: LRScheduler = get_scheduler(name, optimizer, num_warmup_steps=warmup_steps, num_training_steps=total_steps)
    return decay
