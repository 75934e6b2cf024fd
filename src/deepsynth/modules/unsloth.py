"""Unsloth's backend: FastVisionModel loads, patches and adapts the model.

Unsloth compiles and fuses classes of ``transformers.models``. DeepSeek-OCR-2 has its class there; DeepSeek-OCR is this
package's own class around the same decoder, whose layers Unsloth compiles one by one and does not fuse.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch import Callback
from lightning.pytorch.utilities.rank_zero import rank_zero_info

from deepsynth.errors import UserError
from deepsynth.generation import Implementation
from deepsynth.lazy_imports import install_command
from deepsynth.models.engine.training_forward import TrainingForward
from deepsynth.models.family import Family
from deepsynth.models.lora import lora_config
from deepsynth.models.quantization.quantize import Kind
from deepsynth.models.quantization.weight_table import format_weight_table, weight_table
from deepsynth.models.random_weights import fill_with_random_weights
from deepsynth.models.registry import load_pretrained, resolve_model_name
from deepsynth.modules.base import DeepSynthModule
from deepsynth.types import Batch
from deepsynth.unsloth_import import prepare_environment

#: Engine settings that Unsloth replaces: the allowed values, and what Unsloth does instead.
_OWN: dict[str, tuple[tuple[Any, ...], str]] = {
    "attn_implementation": (("sdpa",), "chooses attention itself"),
    "experts_implementation": ((None,), "chooses the experts' kernels itself"),
    "kernels": (("auto",), "has its own kernels"),
    "loss": (("auto", "plain"), "fuses head and loss itself"),
    "activation_memory": (("auto", "none", "full", "offload"), "recomputes whole layers"),
    "memory_budget_gib": ((None,), "measures no steps"),
    "vision_cache": (("none",), "encodes images in its forward pass"),
    "vision_chunk": ((None,), "encodes all images together"),
    "compile": (("auto", "none"), "compiles by itself"),
    "cuda_graphs": (("auto", False), "compiles by itself"),
}
_CHECKPOINTING: dict[str, bool | str] = {"auto": "unsloth", "offload": "unsloth", "full": True, "none": False}


class UnslothModule(DeepSynthModule):
    """Loads and adapts with Unsloth's FastVisionModel, on a GPU.

    ``engine.activation_memory`` chooses its checkpointing: ``auto`` and ``offload`` are Unsloth's own, which keeps
    inputs of layers in the computer's memory (from 512 tokens on); ``full`` is torch's; ``none`` keeps all.

    Args:
        model_name: a built-in model, a local folder or a Hub repository.
        quantization: of the frozen weights: ``nf4`` (4 bits), ``int8`` or ``none``. The vision encoder keeps
            its 16 bits.
        max_seq_length: longest row of image and text tokens.
        lora_targets: ``scope`` for the layers that the ``lora`` settings name, as in PeftModule; ``auto`` for those
            that Unsloth chooses, in vision if ``lora.vision`` is set.
        **kwargs: see :class:`ModelModule`.

    Raises:
        UserError: for settings out of range, or that Unsloth does not have, with the key.
    """

    AUTO_GENERATION: Implementation = "transformers"

    def __init__(
        self,
        model_name: str = "deepsynth/tiny-random",
        *,
        quantization: Kind = "none",
        max_seq_length: int = 8192,
        lora_targets: Literal["scope", "auto"] = "scope",
        **kwargs: Any,
    ) -> None:
        super().__init__(model_name, **kwargs)
        if max_seq_length < 1:
            raise UserError(f"model.max_seq_length is {max_seq_length}; it must be at least 1 token")
        for name, value in asdict(self.engine).items():
            allowed, instead = _OWN.get(name, ((value,), ""))
            if value not in allowed:
                raise UserError(
                    f"model.engine.{name} is {value!r}, but Unsloth {instead}; it must be "
                    f"{' or '.join(map(repr, allowed))}, or use model.class_path=PeftModule"
                )
        self.lora.check_base(quantization=quantization, weights=self.weights, adapter=self.adapter)
        self.quantization = quantization
        self.max_seq_length = max_seq_length
        self.lora_targets = lora_targets
        self.record_settings(quantization=quantization, max_seq_length=max_seq_length, lora_targets=lora_targets)

    def configure_callbacks(self) -> Sequence[Callback] | Callback:
        """Refuse a machine without a GPU before any document is read; Lightning asks this first.

        Raises:
            UserError: without a GPU, with the way out.
        """
        require_accelerator()
        return super().configure_callbacks()

    # ------------------------------------------------------------------ weights

    def load_model(self) -> Any:
        """Return Unsloth's peft model on this process's GPU, only the adapters trainable, in training mode.

        Raises:
            UserError: without a GPU or without Unsloth, and for a model that cannot be loaded, with the way out.
        """
        unsloth = import_unsloth()
        from transformers import AutoConfig, AutoModelForImageTextToText

        name = self.model_name
        if not type(load_pretrained(AutoConfig, name)).__module__.startswith("transformers."):
            rank_zero_info(
                f"{name} is DeepSynth's own class: Unsloth compiles its layers one by one, and fuses nothing"
            )
        checkpointing = _CHECKPOINTING[self.engine.activation_memory]
        # Lightning has made the GPU the default device, which no loader expects.
        with torch.device("cpu"), self._folder() as folder:
            with self._refusal():
                base, _ = unsloth.FastVisionModel.from_pretrained(
                    model_name=folder,
                    max_seq_length=self.max_seq_length,
                    dtype=self.resolved_dtype,
                    load_in_4bit=self.quantization == "nf4",
                    load_in_8bit=self.quantization == "int8",
                    load_in_16bit=self.quantization == "none",
                    device_map={"": self.device.index or 0} if self.device.type == "cuda" else {"": self.device.type},
                    use_gradient_checkpointing=checkpointing,
                    use_exact_model_name=True,  # the user's weights, not Unsloth's repository for that name
                    trust_remote_code=False,
                    auto_model=AutoModelForImageTextToText,  # what the published config.json names is remote code
                    offload_embedding=False,  # Lightning moves the model as a whole
                    random_state=torch.initial_seed() % 2**32,
                )
            base.requires_grad_(False)
            if self.quantization != "none":
                self._check_quantized(base)
                rank_zero_info(format_weight_table(weight_table(base, self.resolved_dtype)))
            model = unsloth.FastVisionModel.get_peft_model(
                base, use_gradient_checkpointing=checkpointing, **self._adapter_arguments(base)
            )
        model.peft_config["default"].base_model_name_or_path = name  # a name, not a path of this machine
        unsloth.FastVisionModel.for_training(model)
        return model

    @contextmanager
    def _refusal(self) -> Iterator[None]:
        """Say in one line that the installed Unsloth does not load the model: it has no list that could be asked.

        Raises:
            UserError: with the family, Unsloth's own words and the module that takes it.
        """
        try:
            yield
        except (UserError, torch.OutOfMemoryError):
            raise
        except (ImportError, NotImplementedError, RuntimeError, ValueError, KeyError) as error:
            family = "this model" if self.family is None else self.family.title
            reason = " ".join(str(error).split())[:300]
            raise UserError(
                f"model_name is {self.model_name!r}, but the installed Unsloth does not load {family} "
                f"({type(error).__name__}: {reason}); use model.class_path=PeftModule"
            ) from error

    def _check_family(self, family: Family) -> None:
        """Refuse a family that is known not to work; the features of this package's engine are none of Unsloth's."""
        family.refuse("unsloth", "model.class_path is UnslothModule", "use model.class_path=PeftModule")

    def _check_quantized(self, base: Any) -> None:
        """Refuse a model that Unsloth left in 16 bits; Unsloth itself only prints a line."""
        bits = 4 if self.quantization == "nf4" else 8
        if not getattr(base, f"is_loaded_in_{bits}bit", False):
            raise UserError(
                f"model.quantization is {self.quantization}, but Unsloth loaded 16 bits, as it does where "
                f"bitsandbytes does not work on this GPU; {install_command('gpu')}, or use model.quantization=none"
            )

    def _adapter_arguments(self, base: Any) -> dict[str, Any]:
        """Return the arguments of ``get_peft_model``; LoRA scopes are checked as in PeftModule."""
        config = lora_config(base, self.lora, base_model_name=self.model_name)
        arguments = {
            "r": self.lora.rank,
            "lora_alpha": self.lora.scale,
            "lora_dropout": self.lora.dropout,
            "use_rslora": self.lora.rslora,
            "use_dora": self.lora.dora,
            "init_lora_weights": config.init_lora_weights,
            "random_state": torch.initial_seed() % 2**32,  # as PeftModule seeds its adapters
        }
        if self.lora_targets == "auto":
            return {**arguments, "finetune_vision_layers": self.lora.vision}
        # An empty list, not None: with None Unsloth infers experts from the names of other layers.
        return {
            **arguments,
            "target_modules": config.target_modules if isinstance(config.target_modules, str) else [],
            "target_parameters": list(config.target_parameters or []),
        }

    @contextmanager
    def _folder(self) -> Iterator[str]:
        """Yield the folder or repository to load; random weights are written to a temporary one first."""
        name = self.model_name
        if self.weights != "random":
            yield resolve_model_name(name)
            return
        from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor

        with tempfile.TemporaryDirectory(prefix="deepsynth-") as folder:
            with torch.device("meta"):
                config = load_pretrained(AutoConfig, name)
                model = AutoModelForImageTextToText.from_config(config, dtype=self.resolved_dtype)
            fill_with_random_weights(model, self.device)
            # transformers lets the first of several processes write alone, but each has its own folder here.
            model.should_save_on_this_rank = bool
            model.save_pretrained(folder)
            load_pretrained(AutoProcessor, name).save_pretrained(folder)
            del model
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
            rank_zero_info(f"{name}: random weights (model.weights=random), in {Path(folder).name} while they load")
            yield folder

    # ------------------------------------------------------------------ training and generation

    def build_training_forward(self, model: Any) -> TrainingForward:
        """Return a training forward pass that leaves the layers to Unsloth and adds only the loss."""
        self.training_engine.leave_to_backend()
        return TrainingForward(model, loss="plain")

    def compute_loss(self, batch: Batch) -> torch.Tensor:
        """Return the mean loss over the batch's label tokens.

        Raises:
            UserError: for packed rows, whose samples Unsloth's attention would not keep apart.
        """
        if "position_ids" in batch.tokens:
            raise UserError("the batch is packed, which UnslothModule does not train; turn packing of data off")
        return super().compute_loss(batch)

    @contextmanager
    def generation_context(self) -> Iterator[None]:
        """Switch to Unsloth's inference mode, and restore the previous mode afterwards."""
        unsloth = import_unsloth()
        training = self.model.training
        unsloth.FastVisionModel.for_inference(self.model)
        try:
            yield
        finally:
            unsloth.FastVisionModel.for_training(self.model)
            self.model.train(training)


def has_accelerator() -> bool:
    """Return whether torch has a GPU that Unsloth could use."""
    return torch.cuda.is_available()


_WAY_OUT = f"{install_command('unsloth')} on a machine with a GPU, or use model.class_path=PeftModule"


def require_accelerator() -> None:
    """Refuse a machine without a GPU.

    Raises:
        UserError: with the way out.
    """
    if not has_accelerator():
        raise UserError(f"UnslothModule needs a GPU, and torch finds none; {_WAY_OUT}")


def import_unsloth() -> Any:
    """Return the package ``unsloth``.

    Raises:
        UserError: without a GPU, without the package, or when it does not load, with the way out.
    """
    require_accelerator()
    prepare_environment(os.environ)
    try:
        import unsloth
    except (ImportError, NotImplementedError, RuntimeError) as error:
        raise UserError(f"UnslothModule cannot load Unsloth ({type(error).__name__}: {error}); {_WAY_OUT}") from error
    return unsloth
