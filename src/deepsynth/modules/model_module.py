"""The settings of a module, its model and its loss: what the parts of a module may use of it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Literal, Self

import torch
from lightning.pytorch import Callback, LightningModule
from lightning.pytorch.cli import OptimizerCallable
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.rank_zero import rank_zero_info

from deepsynth.compat.lightning import logs_after_batch
from deepsynth.distributed.strategy import apply_strategy, attached_trainer, check_module, strategy_name
from deepsynth.errors import UserError
from deepsynth.generation import Generation, Implementation
from deepsynth.models.engine.training_forward import TrainingForward
from deepsynth.models.family import Family
from deepsynth.models.lora import LoraSettings
from deepsynth.models.lora_init import Factors, start_adapters
from deepsynth.models.quantization.quantize import Kind
from deepsynth.models.quantization.weight_table import count_parameters
from deepsynth.models.registry import family_of_model, load_pretrained
from deepsynth.modules.adapter import read_adapter
from deepsynth.modules.optim import FusedAdamW, Schedule, check_callbacks, check_optimizer
from deepsynth.modules.settings import (
    Dtype,
    EngineSettings,
    GenerationSettings,
    check_family,
    plain_settings,
    restore_group,
)
from deepsynth.types import Batch


class ModelModule(LightningModule, ABC):
    """A model with its settings: loaded once, with a loss and a way to generate texts.

    Args:
        model_name: a built-in model, a local folder or a Hub repository.
        adapter: start from the weights of this adapter: a plain peft folder. ``--ckpt_path`` of a folder or of
            ``hf://owner/repo@revision`` sets it.
        weights: ``pretrained``, or ``random`` to make the architecture with random weights (for benchmarks).
        dtype: dtype of the frozen weights; ``auto`` is bfloat16 where the GPU has it, else float16 on a GPU, float32
            on the CPU. Adapters are float32.
        lora: which parts of the model get adapters, and their shape.
        engine: how the model computes, above all in training.
        generation: how texts are generated in validation, test and prediction.
        optimizer: a callable of parameters, given as ``class_path`` and ``init_args``; by default AdamW, fused on
            CUDA.
        schedule: learning rate after the warm-up: ``constant``, or ``linear`` or ``cosine`` decay to 0.
        warmup_steps: optimizer steps of linear warm-up.

    Raises:
        UserError: for settings out of range, with the key.
    """

    #: Whether the module trains adapters on frozen weights; else all weights.
    TRAINS_ADAPTERS = True
    #: What ``generation.implementation: auto`` stands for.
    AUTO_GENERATION: Implementation = "auto"
    #: Of the frozen weights.
    quantization: Kind = "none"
    #: Whether the model stays on the GPU when a Trainer is done with it, as the command line says.
    stays_on_device = False

    def __init__(
        self,
        model_name: str = "deepsynth/tiny-random",
        adapter: str | None = None,
        weights: Literal["pretrained", "random"] = "pretrained",
        dtype: Dtype = "auto",
        lora: LoraSettings = LoraSettings(),  # noqa: B008  it is frozen, and --help shows its fields
        engine: EngineSettings = EngineSettings(),  # noqa: B008
        generation: GenerationSettings = GenerationSettings(),  # noqa: B008
        optimizer: OptimizerCallable = lambda params: FusedAdamW(params, lr=2e-4),
        schedule: Schedule = "cosine",
        warmup_steps: int = 0,
    ) -> None:
        super().__init__()
        # ``load_from_checkpoint`` gives groups as the dictionaries that a checkpoint holds.
        lora, engine = restore_group(LoraSettings, lora), restore_group(EngineSettings, engine)
        generation = restore_group(GenerationSettings, generation)
        if warmup_steps < 0:
            raise UserError(f"model.warmup_steps is {warmup_steps}; it must be at least 0")
        check_optimizer(optimizer)
        self.model_name = model_name
        self.adapter = adapter
        self.weights = weights
        self.weights_dtype = dtype
        self.lora = lora
        self.engine = engine
        self.generation = generation
        self.optimizer = optimizer
        self.schedule = schedule
        self.warmup_steps = warmup_steps
        self.record_settings(
            model_name=model_name,
            adapter=adapter,
            weights=weights,
            dtype=dtype,
            lora=lora,
            engine=engine,
            generation=generation,
            schedule=schedule,
            warmup_steps=warmup_steps,
        )
        self.model: Any = None
        self.processor: Any = None
        #: What is known of the model's kind; ``None`` until the model is loaded.
        self.family: Family | None = None
        #: What adapters took out of the frozen weights at their start; empty for starts that leave these alone.
        self.lora_start: Factors = {}
        #: Computes the loss of a batch; ``None`` until the model is loaded.
        self.training_forward: TrainingForward | None = None
        self._loaded_dtype: torch.dtype | None = None

    def record_settings(self, **settings: Any) -> None:
        """Keep settings as plain values in ``hparams``, for loggers, checkpoints and the folder of an adapter.

        They are a record: nothing reads them back.
        """
        self.save_hyperparameters(plain_settings(settings))

    def configure_callbacks(self) -> Sequence[Callback] | Callback:
        """Add no callbacks; refuse those that work against the module, before any weights are loaded.

        Raises:
            UserError: with the class, the reason and what to do instead.
        """
        trainer: Any = self.trainer
        if trainer.state.fn == TrainerFn.FITTING:
            check_callbacks(trainer.callbacks)
        return []

    # ------------------------------------------------------------------ weights

    @abstractmethod
    def load_model(self) -> Any:
        """Return the base model with adapters on it, weights loaded, only the adapters trainable."""

    @abstractmethod
    def build_training_forward(self, model: Any) -> TrainingForward:
        """Return what computes the loss of a batch with the loaded model."""

    @property
    def resolved_dtype(self) -> torch.dtype:
        """The dtype of the frozen weights: of those that are loaded, else of those that would be on this device."""
        return self._loaded_dtype or self.dtype_on(self.device.type)

    def dtype_on(self, device_type: str) -> torch.dtype:
        """Return the dtype that the frozen weights will have on a type of device, by ``model.dtype``.

        Args:
            device_type: torch's name, such as ``cuda`` or ``cpu``.
        """
        if self.weights_dtype != "auto":
            dtype: torch.dtype = getattr(torch, self.weights_dtype)
            return dtype
        if device_type != "cuda":
            return torch.float32
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16

    def configure_model(self) -> None:
        """Load the weights, once, where Lightning wants them."""
        if self.model is not None:
            return
        from transformers import AutoProcessor

        check_module(self, self.quantization, self.resolved_dtype)
        self.family = family_of_model(self.model_name)  # refuses what is no model that can be used
        self._check_family(self.family)
        self.processor = load_pretrained(AutoProcessor, self.model_name)
        self.model = self.load_model()
        self._loaded_dtype = self.resolved_dtype  # a module that is moved later keeps the weights that it has
        if self.adapter:
            read_adapter(self.model, Path(self.adapter))
        elif self.TRAINS_ADAPTERS:
            self.lora_start = start_adapters(
                self.model, self.lora, model_name=self.model_name, dtype=self.resolved_dtype
            )
        trainable = sum(p.numel() for p in self.model.parameters() if p.requires_grad)
        total = count_parameters(self.model)
        dtype = str(self.resolved_dtype).removeprefix("torch.")
        kept = dtype if self.quantization == "none" else f"{self.quantization} and {dtype}"
        parts = f"{total:,} parameters in {kept}"
        if self._trains():
            parts = f"{total - trainable:,} frozen parameters in {kept}, {trainable:,} trainable"
            parts += f" ({trainable / total:.2%})"
        rank_zero_info(f"{self.model_name}: {parts}")
        apply_strategy(self, self.model, all_weights=not self.TRAINS_ADAPTERS)
        self.training_forward = self.build_training_forward(self.model)

    def _check_family(self, family: Family) -> None:
        """Refuse settings that ask for what does not work for the family, and say what is left out of the others."""
        trainer = attached_trainer(self)
        sharded = trainer is not None and strategy_name(trainer.strategy) == "fsdp2"
        check_family(family, self.engine, self.generation, quantization=self.quantization, sharded=sharded)
        if note := family.note():
            rank_zero_info(f"{self.model_name}: {note}")

    def _trains(self) -> bool:
        """Return whether a trainer fits the module; without one, whether it is not set to evaluation."""
        try:
            trainer: Any = self.trainer
        except RuntimeError:  # it is not attached to one
            return self.training
        return bool(trainer.state.fn == TrainerFn.FITTING)

    def memory_savings(self, phase: str | None) -> list[str]:
        """Return the settings that would save memory and are not chosen yet, the cheapest first.

        Args:
            phase: of the run, as ``callbacks.vram_monitor.PHASES`` names it.
        """
        found = []
        if phase == "generation":
            now = self.generation.max_new_tokens or "by the longest target"
            found.append(f"lower model.generation.max_new_tokens (now {now})")
        elif phase not in ("load", "validation") and self.engine.activation_memory in ("auto", "none", "selective"):
            found.append("set model.engine.activation_memory=full")
        if self.weights_dtype == "float32":
            found.append("set model.dtype=bfloat16")
        if self.TRAINS_ADAPTERS and self.quantization == "none":
            found.append("set model.quantization=nf4")
        return found

    # ------------------------------------------------------------------ what the model computes

    @abstractmethod
    def generate(self, batch: Batch, deadline: float | None = None) -> list[Generation] | None:
        """Generate the text of each sample of a batch; ``None`` when the deadline cut it short."""

    def generation_context(self) -> AbstractContextManager[None]:
        """Return the context in which the model generates."""
        return nullcontext()

    def in_weights_dtype(self, batch: Batch) -> Batch:
        """Return a batch with values for pixels in the dtype of the weights: without autocast nothing else casts them.

        Of bytes, the table of values is cast: there are never values of another dtype.
        """
        dtype = self.resolved_dtype
        cast = batch.map_tensors(lambda tensor: tensor.to(dtype) if tensor.is_floating_point() else tensor)
        return cast.with_pixel_values()

    def cpu(self) -> Self:
        """Move to the CPU, but at the end of a command.

        A Trainer moves the model when it is done. For 6.5 GiB that takes 5 s, in vain where the process then ends.
        """
        return self if self.stays_on_device else super().cpu()

    def log(self, name: str, value: Any, *args: Any, **kwargs: Any) -> None:
        """Log a value, a number as a tensor of the host.

        Of a number Lightning makes a tensor of the device and reads it there, each time after all that a GPU has been
        given to do. Only what is averaged over processes has to be there.
        """
        if isinstance(value, int | float) and not kwargs.get("sync_dist"):
            value = torch.tensor(value, dtype=torch.float64)
        super().log(name, value, *args, **kwargs)

    def log_training_loss(self, loss: torch.Tensor, batch: Batch, batch_idx: int) -> None:
        """Log ``train/loss`` (), and show it in the progress bar as ``loss`` at the first batch and where it is logged.

        There it is read in the step, while a GPU has the backward pass to come: to read it at the end, as Lightning
        does, would leave the GPU without work. What the bar shows Lightning reads after every batch: so the bar has a
        number of its own.
        """
        if logs_after_batch(self.trainer) or batch_idx == 0:
            loss = loss.cpu()
            self.log("loss", loss, prog_bar=True, logger=False, batch_size=len(batch))
        self.log("train/loss", loss, batch_size=len(batch))

    def compute_loss(self, batch: Batch) -> torch.Tensor:
        """Return the mean loss over the batch's label tokens."""
        assert self.training_forward is not None, "configure_model was called"
        return self.training_forward(self.in_weights_dtype(batch).inputs, batch.moved_from)
