"""The steps of training, validation, test and prediction, and the hooks around them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig

from deepsynth._version import __version__
from deepsynth.compat.lightning import gradients_wait, is_last_predict_batch
from deepsynth.distributed.loss_window import LossWindow
from deepsynth.errors import UserError
from deepsynth.generation import Generation
from deepsynth.models.engine.finite_check import FiniteCheck, check_state
from deepsynth.models.engine.training_forward import TrainingForward
from deepsynth.models.lora import untrained_adapters
from deepsynth.models.lora_init import restore_start
from deepsynth.modules.adapter import PromptRecord, adapter_state, append_markup_rows, check_adapter_keys, write_adapter
from deepsynth.modules.checkpoint_io import write_atomically
from deepsynth.modules.evaluation import Evaluator
from deepsynth.modules.model_module import ModelModule
from deepsynth.modules.optim import make_schedule
from deepsynth.modules.resume_state import ResumeState
from deepsynth.modules.text_generator import TextGenerator
from deepsynth.modules.training_engine import TrainingEngine
from deepsynth.types import Batch


class DeepSynthModule(ModelModule):
    """A vision-language OCR model that is fine-tuned with LoRA and generates texts.

    Log keys: ``train/loss``; ``val/loss`` and ``test/loss``; from generated text ``val/cer``, ``val/wer``,
    ``val/cer_median``, ``val/cer_capped``, ``val/exact_match``, ``val/rouge1``, ``val/rouge2``, ``val/rougeL``,
    ``val/bleu``, ``val/loop_rate``, ``val/cut_rate`` and the same under ``test/`` and ``predict/``.

    A checkpoint holds the adapter alone, with the optimizer, schedule, place in the data and random state.

    Its parts: ``training_engine`` (how a step computes), ``evaluator`` (loss and metrics), ``text_generator`` and
    ``resume_state`` (what a checkpoint holds beside the weights). The arguments are those of :class:`ModelModule`.
    """

    #: The base is not in a checkpoint; the keys of the adapter are checked when one is loaded.
    strict_loading = False

    @cached_property
    def training_engine(self) -> TrainingEngine:
        """The part that makes training steps fast and small."""
        return TrainingEngine(self)

    @cached_property
    def text_generator(self) -> TextGenerator:
        """The part that generates texts, with the decoders that it keeps."""
        return TextGenerator(self)

    @cached_property
    def evaluator(self) -> Evaluator:
        """The part that measures loss and texts over an epoch."""
        return Evaluator(self, self.text_generator)

    @cached_property
    def loss_window(self) -> LossWindow:
        """The part that weights batches in an optimizer step."""
        return LossWindow()

    @cached_property
    def finite_check(self) -> FiniteCheck:
        """The part that finds losses and gradients that are not finite."""
        return FiniteCheck()

    @cached_property
    def prompt_record(self) -> PromptRecord:
        """The part that knows the prompts of the data."""
        return PromptRecord()

    @cached_property
    def resume_state(self) -> ResumeState:
        """The part that continues an interrupted run exactly."""
        return ResumeState(self, self.loss_window)

    def build_training_forward(self, model: Any) -> TrainingForward:
        """Return what computes the loss of a batch with the loaded model."""
        return self.training_engine.build_forward(model)

    # ------------------------------------------------------------------ steps

    def training_step(self, batch: Batch, batch_idx: int) -> torch.Tensor:
        """Return the loss to train on; logged is the mean over the label tokens of the optimizer step."""
        self.remember_prompt(batch)
        self.text_generator.note_targets(batch)
        self.finite_check.add_samples(batch.ids)
        loss = self.loss_window.weigh(self.compute_loss(batch), (batch.tokens["labels"] != -100).sum())
        self.log_training_loss(self.loss_window.mean, batch, batch_idx)
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        """Return the loss and, for the samples that are generated, ids, predictions and targets."""
        self.remember_prompt(batch)
        return self.evaluator.step(batch, samples=self.generation.samples)

    def test_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        """Return the loss, ids, predictions and targets."""
        self.remember_prompt(batch)
        return self.evaluator.step(batch, samples=None)

    def predict_step(self, batch: Batch, batch_idx: int) -> list[dict[str, Any]]:
        """Return rows in the source's order: document id, page, prediction, target, tokens, confidence, why it stopped.

        The rows of the last samples come with a later batch: pages of several batches are generated at the same time,
        so that one long text does not hold up the others. The last batch brings all that are missing.
        """
        self.remember_prompt(batch)
        return self.text_generator.predict(batch, last=is_last_predict_batch(self.trainer))

    def generate(self, batch: Batch, deadline: float | None = None) -> list[Generation] | None:
        """Generate the text of each sample of a batch.

        Args:
            batch: on the device of the model.
            deadline: :func:`time.monotonic` at which to give up.

        Returns:
            B generations; ``None`` when the deadline cut them short.
        """
        return self.text_generator.generate(batch, deadline)

    def remember_prompt(self, batch: Batch) -> None:
        """Keep the prompts of the data, which are stored with the adapter; warn of those that were not trained."""
        self.prompt_record.add(batch.prompt_texts)

    # ------------------------------------------------------------------ for callbacks

    def add_phase_listener(self, listener: Callable[[str | None], None]) -> None:
        """Have a function called with "generation" when generation begins and with ``None`` when it is over."""
        self.text_generator.add_listener(listener)

    def remove_phase_listener(self, listener: Callable[[str | None], None]) -> None:
        """No longer call a function that :meth:`add_phase_listener` added."""
        self.text_generator.remove_listener(listener)

    def stop_generation(self) -> None:
        """Generate no more text in the validation that is under way; the next one generates again."""
        self.evaluator.stop_generation()

    def prepare_predictions(self, *, skip: int = 0, token_logprobs: bool = False) -> None:
        """Say how the next prediction goes.

        Args:
            skip: first samples to pass over, which an interrupted run has predicted.
            token_logprobs: whether rows have ``token_logprobs``, the text and the log-probability of each token.
        """
        self.text_generator.prepare_predictions(skip=skip, token_logprobs=token_logprobs)

    def save_adapter(self, folder: Path, state: dict[str, torch.Tensor] | None = None) -> None:
        """Write the adapter as a plain peft folder, with the processor and DeepSynth's own settings beside it.

        The folder appears whole or not at all.

        Args:
            folder: is made, or replaced.
            state: the trained weights, as :func:`adapter_state` returns them; sharded ones must be gathered by all
                processes, before the one that writes comes here.
        """
        state = adapter_state(self) if state is None else state
        check_state(state, str(folder))
        write_adapter(self, folder, state)

    # ------------------------------------------------------------------ optimization

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """Return the optimizer over the trainable parameters, and its schedule by steps."""
        optimizer = self.optimizer([p for p in self.parameters() if p.requires_grad])
        total = self.trainer.estimated_stepping_batches
        steps = None if total == float("inf") else int(total)
        schedule = make_schedule(optimizer, self.schedule, self.warmup_steps, steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_after_backward(self) -> None:
        """Divide the gradients of a whole optimizer step and check them.

        Raises:
            MisconfigurationException: with the names of the adapters that got no gradient in the first step.
            UserError: when the step before was not finite.
        """
        if gradients_wait(self.trainer):
            return
        self.loss_window.finish(self.parameters(), self.trainer.accumulate_grad_batches)
        tokens, allowed = self.loss_window.tokens, self.engine.skip_non_finite
        dead = untrained_adapters(self.model) if self.global_step == 0 and tokens else []
        if dead:
            raise MisconfigurationException(
                f"{len(dead)} LoRA B matrices got no gradient in the first step, so they would train nothing: "
                + ", ".join(dead[:4] + ["…"] * (len(dead) > 4))
            )
        step = self.loss_window.mean, tokens, self.parameters()
        skipped = self.finite_check.end_step(self.trainer, *step, allowed=allowed)
        if skipped is not None:
            self.log("train/skipped_steps", float(skipped))

    # ------------------------------------------------------------------ hooks

    def setup(self, stage: str) -> None:
        """Have checkpoints written complete or not at all, unless the trainer was given another way."""
        write_atomically(self.trainer)

    def on_fit_start(self) -> None:
        """Measure activations again: the batches of another run may have been smaller."""
        self.training_engine.start_fit()

    def on_train_start(self) -> None:
        """Continue an interrupted run exactly."""
        self.resume_state.restore()

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Choose what layers keep, on the first batch of a run."""
        self.training_engine.start_batch(batch)

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        """Log the share of the batch's images whose features were in the cache."""
        self.training_engine.log_cache_hits(batch)

    def on_validation_start(self) -> None:
        """Stop before validation when the last step was not finite."""
        self.finite_check.stop_unless_finite(self.trainer)

    def on_train_end(self) -> None:
        """Stop with an error when the last step was not finite, and release the memory of validation."""
        self.text_generator.release()
        self.finite_check.stop_unless_finite(self.trainer)

    def on_validation_epoch_start(self) -> None:
        """Forget the last epoch's figures."""
        self.evaluator.start()

    def on_validation_epoch_end(self) -> None:
        """Log ``val/*``."""
        self.evaluator.log("val")

    def on_test_epoch_start(self) -> None:
        """Forget the last epoch's figures."""
        self.evaluator.start()

    def on_test_epoch_end(self) -> None:
        """Log ``test/*``."""
        self.evaluator.log("test")

    def on_predict_epoch_start(self) -> None:
        """Begin behind the samples of an interrupted run."""
        self.text_generator.start_prediction()

    def on_predict_epoch_end(self) -> None:
        """Release the memory of decoding."""
        self.text_generator.release()

    # ------------------------------------------------------------------ checkpoints

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the trained weights alone, and add what an exact resumption needs.

        Raises:
            UserError: when they are not finite; what was written before stays.
        """
        self.finite_check.stop_unless_finite(self.trainer)
        checkpoint["state_dict"] = adapter_state(self)
        check_state(checkpoint["state_dict"], "the checkpoint")
        own: dict[str, Any] = {"version": __version__, "module": type(self).__name__, **self.prompt_record.state()}
        own |= {"longest_target": self.text_generator.longest_target, "lora_start": self.lora_start}
        own["skipped_steps"] = self.finite_check.skipped
        checkpoint["deepsynth"] = {**own, **self.resume_state.state()}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Check that the adapter fits, key by key.

        Raises:
            UserError: for a foreign checkpoint, or one of another adapter, with the keys that differ.
        """
        own = checkpoint.get("deepsynth")
        if own is None:
            raise UserError("the checkpoint was not written by DeepSynth: it has no 'deepsynth' entry")
        self.configure_model()
        append_markup_rows(self, checkpoint)
        check_adapter_keys(self, checkpoint["state_dict"])
        self.lora_start = restore_start(self.model, self.lora_start, own.get("lora_start", {}))
        self.prompt_record.load(own)
        self.text_generator.longest_target = own.get("longest_target", 0)
        self.finite_check.skipped = own.get("skipped_steps", 0)
        self.resume_state.load(own)

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Load trained weights; the base's, which no checkpoint has, do not count as missing."""
        found = super().load_state_dict(state_dict, strict=strict, assign=assign)
        trained = adapter_state(self)
        missing = [name for name in found.missing_keys if name in trained]
        return type(found)(missing, found.unexpected_keys)
