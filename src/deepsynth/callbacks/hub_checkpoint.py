"""Pushes of the adapter to the Hugging Face Hub during training, without delaying it."""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import Any, Literal, cast

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.exceptions import SIGTERMException

from deepsynth._version import __version__
from deepsynth.errors import UserError
from deepsynth.hub.adapter import Card, snapshot_adapter
from deepsynth.hub.snapshot import Target
from deepsynth.hub.spool import Spool
from deepsynth.hub.worker import PushWorker
from deepsynth.io.files import explain_write_errors
from deepsynth.modules import DeepSynthModule
from deepsynth.modules.adapter import adapter_state

log = logging.getLogger(__name__)


class HubCheckpoint(Callback):
    """Pushes the adapter with its model card to the Hub: after validations, and when the run ends in whatever way.

    Each push is one commit. The state is first written to ``hub_spool`` in the run's folder; a separate process uploads
    it, newest first, and retries until the run ends. No failure of the Hub stops or slows the training. Undelivered
    states stay in the spool, and ``deepsynth hub resume RUN`` sends them later. Log in with
    ``hf auth login`` or set HF_TOKEN; the token is never written anywhere.

    Example::

        callbacks+:
          - class_path: HubCheckpoint
            init_args: {repo_id: alice/ocr-fa, best_only: true}

    Args:
        repo_id: ``owner/name``; created if it does not exist.
        revision: branch; created if it does not exist.
        private: create the repository as private, and refuse one that is public.
        every: number of optimizer steps between two pushes; by default a push follows each validation, and without
            validation the end of the run.
        best_only: push only when a validation was better than all before.
        monitor: log key that decides which state is the best.
        mode: whether a lower (``min``) or a higher (``max``) value of it is better.
        tag: tag each commit, with ``{step}`` and ``{epoch}`` filled in; a tag that exists moves.
        optimizer_state: push the optimizer's state too, as optimizer.pt.
        license: of the adapter, for its card; by default that of the base model.
        datasets: for the card; by default what the data's source says.
        languages: for the card, as ISO 639 codes.
        deadline_s: how long the end of the run may wait for the Hub, in seconds.

    Raises:
        UserError: for settings that contradict each other or cannot be.
    """

    def __init__(
        self,
        repo_id: str,
        revision: str = "main",
        private: bool = True,
        every: int | None = None,
        best_only: bool = False,
        monitor: str = "val/cer",
        mode: Literal["min", "max"] = "min",
        tag: str | None = None,
        optimizer_state: bool = False,
        license: str | None = None,
        datasets: list[str] | None = None,
        languages: list[str] | None = None,
        deadline_s: float = 60.0,
    ) -> None:
        if every is not None and every < 1:
            raise UserError(f"HubCheckpoint.every is {every}; it must be at least 1 optimizer step")
        if every is not None and best_only:
            raise UserError(f"HubCheckpoint.every is {every}; it must be null with HubCheckpoint.best_only")
        if mode not in ("min", "max"):
            raise UserError(f"HubCheckpoint.mode is {mode!r}; it must be 'min' or 'max'")
        if deadline_s < 0:
            raise UserError(f"HubCheckpoint.deadline_s is {deadline_s}; it must be at least 0 seconds")
        if tag is not None:
            check_tag(tag)
        self.target = Target(repo_id, revision, private)
        self.every = every
        self.best_only = best_only
        self.monitor = monitor
        self.mode = mode
        self.tag = tag
        self.optimizer_state = optimizer_state
        self.license = license
        self.datasets = datasets
        self.languages = languages or []
        self.deadline_s = deadline_s
        self.best: float | None = None
        self._step = 0  # of the newest snapshot
        self._worker: PushWorker | None = None

    # ------------------------------------------------------------------ when

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Open the spool and start the worker, on rank zero.

        Raises:
            TypeError: for a module that has no adapter.
            UserError: when the spool cannot be made, or another process pushes from it.
        """
        if stage != "fit":
            return
        if not isinstance(pl_module, DeepSynthModule):
            raise TypeError(
                f"HubCheckpoint pushes the adapter of a DeepSynthModule; {type(pl_module).__name__} is none"
            )
        if not trainer.is_global_zero or getattr(trainer, "fast_dev_run", False):
            return
        from huggingface_hub import get_token

        if get_token() is None:
            log.warning("HubCheckpoint: nobody is logged in to the Hub; run `hf auth login` or set HF_TOKEN")
        folder = Path(trainer.default_root_dir)
        with explain_write_errors(folder, "the queue of the Hub"):
            self._worker = PushWorker(Spool.of_run(folder, self.target))

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        """Push after ``every`` steps."""
        if self.every and trainer.global_step and trainer.global_step % self.every == 0:
            self._push(trainer, pl_module)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Push the validated state; with ``best_only`` only if it is the best so far."""
        if trainer.sanity_checking or self.every:
            return
        if not self.best_only or self._is_best(trainer):
            self._push(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Push the final state."""
        if not self.best_only:
            self._push(trainer, pl_module)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Push the state of a run that was stopped from outside, and deliver what is queued."""
        stopped = isinstance(exception, (KeyboardInterrupt, SIGTERMException))
        if stopped and not self.best_only:
            self._push(trainer, pl_module)
        self._close()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Deliver what is queued, until the deadline."""
        self._close()

    def state_dict(self) -> dict[str, Any]:
        """Return the best value so far, so that a resumed run pushes only what is better."""
        return {"best": self.best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the best value."""
        self.best = state_dict["best"]

    # ------------------------------------------------------------------ what

    def _is_best(self, trainer: Trainer) -> bool:
        if self.monitor not in trainer.callback_metrics:
            known = ", ".join(sorted(trainer.callback_metrics)) or "nothing"
            log.warning("HubCheckpoint.monitor is %r, which was not logged; logged was %s", self.monitor, known)
            return False
        value = float(trainer.callback_metrics[self.monitor])
        worse = self.best is not None and (value >= self.best if self.mode == "min" else value <= self.best)
        if math.isnan(value) or worse:
            return False
        self.best = value
        return True

    def _push(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write a snapshot and hand it to the worker; a failure is logged and does not stop the training."""
        step = trainer.global_step
        if step == self._step:
            return
        self._step = step
        # Of what is sharded every process gathers its part.
        trained = adapter_state(pl_module)
        optimizers = [trainer.strategy.optimizer_state(o) for o in trainer.optimizers] if self.optimizer_state else []
        if self._worker is None:
            return
        from safetensors import SafetensorError

        try:
            snapshot = snapshot_adapter(
                self._worker.spool,
                self.target,
                lambda folder: cast(Any, pl_module).save_adapter(folder, trained),
                self._card(trainer, pl_module),
                self._message(trainer),
                tag=self.tag.format(step=step, epoch=trainer.current_epoch) if self.tag else None,
                save_optimizer=(lambda file: save_optimizers(trainer, optimizers, file))
                if self.optimizer_state
                else None,
            )
        except (OSError, ValueError, RuntimeError, SafetensorError) as error:
            log.warning("HubCheckpoint: the state of step %d could not be written: %s", step, error)
            return
        self._worker.submit(snapshot)

    def _close(self) -> None:
        if self._worker is not None:
            worker, self._worker = self._worker, None
            worker.close(self.deadline_s)

    def _message(self, trainer: Trainer) -> str:
        value = trainer.callback_metrics.get(self.monitor)
        measured = "" if value is None else f", {self.monitor} {float(value):.4f}"
        return f"Step {trainer.global_step}{measured}"

    def _card(self, trainer: Trainer, pl_module: LightningModule) -> Card:
        assert isinstance(pl_module, DeepSynthModule), "setup has seen to it"
        metrics = {key: float(value) for key, value in trainer.callback_metrics.items()}
        how = {
            "documents": "held out by their ids; each counts once, its pages joined",
            "read": f"greedily, at most {pl_module.generation.max_new_tokens or 'as the targets need'} tokens a sample",
            "samples": pl_module.generation.samples,
        }
        return Card(
            repo_id=self.target.repo_id,
            base_model=pl_module.model_name,
            version=__version__,
            license=self.license,
            datasets=self.datasets if self.datasets is not None else data_names(trainer),
            languages=self.languages,
            recipe={"model": dict(pl_module.hparams), **describe_training(trainer)},
            metrics={key: value for key, value in sorted(metrics.items()) if math.isfinite(value)},
            metric_settings=how if any(key.startswith("val/") for key in metrics) else {},
            step=trainer.global_step,
        )


def check_tag(tag: str) -> None:
    """Refuse a tag that the Hub cannot have.

    Raises:
        UserError: for unknown fields in braces, blanks, or an empty tag.
    """
    try:
        filled = tag.format(step=0, epoch=0)
    except (KeyError, IndexError, ValueError) as error:
        raise UserError(f"HubCheckpoint.tag is {tag!r}; only {{step}} and {{epoch}} can be filled in") from error
    if not filled or any(character.isspace() for character in filled):
        raise UserError(f"HubCheckpoint.tag is {tag!r}; a tag is a word without spaces, such as 'step-{{step}}'")


def data_names(trainer: Trainer) -> list[str]:
    """Return the names of the data's sources: a Hub dataset by its repository, others by their class."""
    data = getattr(trainer, "datamodule", None)
    sources = [getattr(data, name, None) for name in ("source", "val_source")]
    return [str(getattr(source, "repo_id", type(source).__name__)) for source in sources if source is not None]


def describe_training(trainer: Trainer) -> dict[str, Any]:
    """Return the recipe beyond the model: optimizer, steps, data."""
    data = getattr(trainer, "datamodule", None)
    stages = {name: getattr(data, name, None) for name in ("renderer", "augmenter", "processor")}
    return {
        "optimizer": {
            "class": type(trainer.optimizers[0]).__name__,
            "lr": trainer.optimizers[0].param_groups[0].get("initial_lr", trainer.optimizers[0].defaults.get("lr")),
        },
        "trainer": {
            "max_steps": trainer.max_steps,
            "max_epochs": trainer.max_epochs,
            "accumulate_grad_batches": trainer.accumulate_grad_batches,
            "gradient_clip_val": trainer.gradient_clip_val,
            "precision": str(trainer.precision),
            "devices": trainer.world_size,
        },
        "data": {
            "batch_size": getattr(data, "batch_size", None),
            "seed": getattr(data, "seed", None),
            **{name: type(stage).__name__ for name, stage in stages.items() if stage is not None},
        },
    }


def save_optimizers(trainer: Trainer, optimizers: list[dict[str, Any]], file: Path) -> None:
    """Write the states of the optimizers, and those of their schedules."""
    torch.save(
        {
            "optimizers": optimizers,
            "schedulers": [config.scheduler.state_dict() for config in trainer.lr_scheduler_configs],
            "step": trainer.global_step,
        },
        file,
    )
