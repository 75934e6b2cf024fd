"""What a checkpoint holds: the adapter, and all that an exact resumption needs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.plugins.io import TorchCheckpointIO

from deepsynth._version import __version__
from deepsynth.distributed.sharding import is_sharded, shard_like, whole_on_rank_zero
from deepsynth.errors import UserError
from deepsynth.modules.adapter import adapter_state, check_adapter_keys
from deepsynth.modules.checkpoint_io import AtomicCheckpointIO


class CheckpointedModule(LightningModule):
    """Writes the trained weights alone, and goes on from them as if nothing had happened."""

    prompt: str | None

    def __init__(self) -> None:
        super().__init__()
        self.strict_loading = False  # the base is not in the checkpoint; adapter keys are checked in our own hook
        self._random_state: dict[str, Any] | None = None
        self._partial_gradients: dict[str, torch.Tensor] = {}

    def setup(self, stage: str) -> None:
        """Have checkpoints written complete or not at all, unless the trainer was given another way."""
        if type(self.trainer.strategy.checkpoint_io) is TorchCheckpointIO:
            self.trainer.strategy.checkpoint_io = AtomicCheckpointIO()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the adapter alone, and add what an exact resumption needs."""
        checkpoint["state_dict"] = adapter_state(self)
        checkpoint["deepsynth"] = {
            "version": __version__,
            "module": type(self).__name__,
            "prompt": self.prompt,
            "random_state": {
                "cpu": torch.get_rng_state(),
                "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
            },
            "partial_gradients": self._gradients_waiting_for_a_step(),
        }

    def _gradients_waiting_for_a_step(self) -> dict[str, torch.Tensor]:
        """Return what was accumulated since the last optimizer step, by parameter, averaged over ranks; else nothing.

        Ranks accumulate apart and average at the step, so their mean gives every rank what the step would have seen.
        """
        progress = self.trainer.fit_loop.epoch_loop.batch_progress
        if progress.is_last_batch or progress.current.ready % self.trainer.accumulate_grad_batches == 0:
            return {}
        waiting = {name: p.grad.detach() for name, p in self.named_parameters() if p.grad is not None}
        if self.trainer.world_size == 1:
            return waiting
        if is_sharded(self):  # averaged already, batch by batch
            return whole_on_rank_zero(waiting)
        return {name: self.trainer.strategy.reduce(g.clone(), reduce_op="mean") for name, g in waiting.items()}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Check that the adapter fits, key by key.

        Raises:
            UserError: for a foreign checkpoint, or one of another adapter, with the keys that differ.
        """
        own = checkpoint.get("deepsynth")
        if own is None:
            raise UserError("the checkpoint was not written by DeepSynth: it has no 'deepsynth' entry")
        self.configure_model()
        check_adapter_keys(self, checkpoint["state_dict"])
        self.prompt = own["prompt"]
        self._random_state = own["random_state"]
        self._partial_gradients = own.get("partial_gradients", {})

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Load trained weights; the base's, which no checkpoint has, do not count as missing."""
        found = super().load_state_dict(state_dict, strict=strict, assign=assign)
        trained = adapter_state(self)
        missing = [name for name in found.missing_keys if name in trained]
        return type(found)(missing, found.unexpected_keys)

    def on_train_start(self) -> None:
        """Restore what a resumed run had accumulated, and its random state: it goes on as if nothing had happened."""
        for name, parameter in self.named_parameters():
            if name in self._partial_gradients:
                parameter.grad = shard_like(self._partial_gradients[name], parameter)
        self._partial_gradients = {}
        self._restore_place_in_data()
        if self._random_state is None:
            return
        torch.set_rng_state(self._random_state["cpu"].cpu())
        states = self._random_state["cuda"]
        if torch.cuda.is_available() and len(states) == torch.cuda.device_count():
            torch.cuda.set_rng_state_all([state.cpu() for state in states])
        self._random_state = None

    def _restore_place_in_data(self) -> None:
        """Do what Lightning leaves out when it goes on in the middle of an epoch."""
        loop = self.trainer.fit_loop
        if loop.restarting and loop._combined_loader_states_to_load:
            # The schedule asked for the number of steps: the loader was made before there was a place to restore.
            loop._load_combined_loader_states()
            iter(loop._data_fetcher)  # type: ignore[arg-type]  # begins again, from there
        # Batches are counted: an epoch would end too early or too late where they were of another size.
        batches = getattr(self.trainer.train_dataloader, "batches_done_elsewhere", None)
        if batches is not None:
            current: Any = loop.epoch_loop.batch_progress.current
            more = batches - current.ready
            current.ready, current.started = batches, current.started + more
            current.processed, current.completed = current.processed + more, current.completed + more
