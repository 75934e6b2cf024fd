"""What an exact resumption needs beside the weights and Lightning's own state."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from lightning.pytorch import LightningModule

from deepsynth.compat.lightning import gradients_wait, restore_loader, set_batches_done
from deepsynth.distributed.loss_window import LossWindow
from deepsynth.distributed.sharding import is_sharded, shard_like, whole_on_rank_zero


class ResumeState:
    """The random state, the gradients that wait for an optimizer step, and the place in the data.

    Args:
        module: that is trained.
        window: of the optimizer step that gradients wait for.
    """

    def __init__(self, module: LightningModule, window: LossWindow) -> None:
        self._module = module
        self._window = window
        self._random_state: dict[str, Any] | None = None
        self._gradients: dict[str, torch.Tensor] = {}
        self._window_state: dict[str, torch.Tensor] = {}

    def state(self) -> dict[str, Any]:
        """Return the state for a checkpoint; where weights are sharded, all processes must call this."""
        return {
            "random_state": {
                "cpu": torch.get_rng_state(),
                "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
            },
            "partial_gradients": self._waiting_gradients(),
            "loss_window": self._window.state() if gradients_wait(self._module.trainer) else {},
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Keep the state of a checkpoint until :meth:`restore`."""
        self._random_state = state["random_state"]
        self._gradients = state.get("partial_gradients", {})
        self._window_state = state.get("loss_window", {})

    def restore(self) -> None:
        """Continue where the checkpoint was written: called when training starts."""
        trainer = self._module.trainer
        for name, parameter in self._module.named_parameters():
            if name in self._gradients:
                parameter.grad = shard_like(self._gradients[name], parameter)
        self._window.load(self._window_state, self._module.device)
        self._gradients, self._window_state = {}, {}
        restore_loader(trainer)
        # Batches are counted: an epoch would end too early or too late where they were of another size.
        batches = getattr(trainer.train_dataloader, "batches_done_elsewhere", None)
        if batches is not None:
            set_batches_done(trainer, batches)
        if self._random_state is None:
            return
        torch.set_rng_state(self._random_state["cpu"].cpu())
        states = self._random_state["cuda"]
        if torch.cuda.is_available() and len(states) == torch.cuda.device_count():
            torch.cuda.set_rng_state_all([state.cpu() for state in states])
        self._random_state = None

    def _waiting_gradients(self) -> dict[str, torch.Tensor]:
        """Return what was accumulated since the last optimizer step, by parameter, averaged over ranks; else nothing.

        Ranks accumulate apart and average at the step, so their mean gives every rank what the step would have seen.
        """
        trainer = self._module.trainer
        if not gradients_wait(trainer):
            return {}
        waiting = {name: p.grad.detach() for name, p in self._module.named_parameters() if p.grad is not None}
        if trainer.world_size == 1:
            return waiting
        if is_sharded(self._module):  # averaged already, batch by batch
            return whole_on_rank_zero(waiting)
        return {name: trainer.strategy.reduce(g.clone(), reduce_op="mean") for name, g in waiting.items()}
