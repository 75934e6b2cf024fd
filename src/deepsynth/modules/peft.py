"""The PEFT-standard backend: transformers loads the model, peft adapts it."""

from __future__ import annotations

from typing import Any, get_args

import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_info

from deepsynth.distributed.ranks import seed_as_rank_zero
from deepsynth.distributed.strategy import loading_device
from deepsynth.errors import UserError
from deepsynth.models.lora import lora_config
from deepsynth.models.quantization.nf4_experts import Nf4Experts, adapter_class, expert_parameters
from deepsynth.models.quantization.quantize import Kind, Quantization, mark_for_peft, quantize, require_bitsandbytes
from deepsynth.models.quantization.weight_table import format_weight_table, weight_table
from deepsynth.models.random_weights import fill_with_random_weights
from deepsynth.models.registry import family_of, load_pretrained
from deepsynth.modules.base import DeepSynthModule
from deepsynth.modules.settings import Dtype


class PeftModule(DeepSynthModule):
    """Loads through transformers' AutoModelForImageTextToText and adapts with peft.

    Args:
        model_name: a built-in model, a local folder or a Hub repository.
        quantization: of the frozen weights: ``nf4`` (4 bits, linear layers and routed experts), ``int8`` (linear layers
            alone) or ``none``. It needs bitsandbytes. Layers are quantized one at a time, on the device; embeddings,
            head, router and norms keep ``dtype``.
        double_quantization: keep the scales of nf4 in 8 bits: 0.4 bits less for each weight.
        compute_dtype: of products with dequantized weights; ``auto`` is ``dtype``.
        quantize_vision: quantise the vision encoder's linear layers as well, as bitsandbytes does by default.
        **kwargs: see :class:`DeepSynthModule`.

    Raises:
        UserError: for settings out of range, with the key.
    """

    def __init__(
        self,
        model_name: str = "deepsynth/tiny-random",
        *,
        quantization: Kind = "none",
        double_quantization: bool = True,
        compute_dtype: Dtype = "auto",
        quantize_vision: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(model_name, **kwargs)
        if quantization not in get_args(Kind):
            raise UserError(f"model.quantization is {quantization!r}; it must be {', '.join(get_args(Kind))}")
        self.quantization = quantization
        self.double_quantization = double_quantization
        self.compute_dtype = compute_dtype
        self.quantize_vision = quantize_vision
        self.record_settings(
            quantization=quantization,
            double_quantization=double_quantization,
            compute_dtype=compute_dtype,
            quantize_vision=quantize_vision,
        )

    def _how_to_quantize(self) -> Quantization | None:
        """Return how the frozen weights are quantized; ``None`` when they are not."""
        if self.quantization == "none":
            return None
        dtype = self.resolved_dtype if self.compute_dtype == "auto" else getattr(torch, self.compute_dtype)
        return Quantization(self.quantization, self.double_quantization, dtype, self.quantize_vision)

    def load_model(self) -> Any:
        """Return a ``PeftModel`` on this process's device, the base frozen in its dtype, the adapters in float32.

        Raises:
            UserError: for a model that cannot be loaded, or a package that is missing, with the way out.
        """
        from peft import get_peft_model

        base = self._load_base()
        base.requires_grad_(False)
        with expert_parameters(base):
            config = lora_config(base, self.lora, base_model_name=self.model_name)
            if config.target_parameters and self.quantization == "nf4":
                config._register_custom_module({Nf4Experts: adapter_class()})
            base.name_or_path = self.model_name  # peft copies it into the adapter: a name, not a path of this machine
            # Adapters begin the same in every backend and precision, however many numbers loading drew.
            with torch.device("cpu"), torch.random.fork_rng(devices=[]):
                torch.default_generator.manual_seed(torch.initial_seed() % 2**32)
                model = get_peft_model(base, config)
        # from_pretrained leaves eval mode, in which dropout and recomputation would be skipped in silence.
        return model.train()

    def _load_base(self) -> Any:
        from transformers import AutoConfig, AutoModelForImageTextToText

        name, how = self.model_name, self._how_to_quantize()
        if how is not None:
            require_bitsandbytes(how.kind)
        config = load_pretrained(AutoConfig, name)
        family_of(config)  # refuses other architectures, with the list
        kwargs: dict[str, Any] = {
            "dtype": self.resolved_dtype,
            "attn_implementation": self._attention(config),
        }
        if self.engine.experts_implementation:
            kwargs["experts_implementation"] = self.engine.experts_implementation

        def quantize_layer(layer: torch.nn.Module, prefix: str) -> None:
            if how is not None:
                quantize(layer, how, self.device, prefix)

        if self.weights == "random":
            with torch.device("meta"):
                model = AutoModelForImageTextToText.from_config(config, **kwargs)
            seed_as_rank_zero()
            fill_with_random_weights(model, self.device, quantize_layer)
            rank_zero_info(f"{name}: random weights (model.weights=random)")
        elif how is None:
            model = load_pretrained(AutoModelForImageTextToText, name, config=config, **kwargs)
            model.to(loading_device(self))
        else:
            # In the computer's memory first: the device sees one unquantized layer at a time.
            with torch.device("cpu"):
                model = load_pretrained(AutoModelForImageTextToText, name, config=config, **kwargs)
            quantize(model, how, self.device)
            model.to(self.device)
        if how is not None:
            mark_for_peft(model, how)
            rank_zero_info(format_weight_table(weight_table(model, self.resolved_dtype)))
        return model

    def _attention(self, config: Any) -> str | dict[str, str]:
        """Return the implementation by part of the model: flash attention is for the decoder alone."""
        chosen = self.engine.attn_implementation
        if not chosen.startswith("flash_attention_"):
            return chosen
        import transformers.utils

        version = chosen.removeprefix("flash_attention_")
        package = "flash-attn" if version == "2" else f"flash-attn-{version}"
        # Of 3 there is no package to install; it is built from flash-attention's source.
        how = "build it from flash-attention's folder hopper" if version == "3" else f"pip install {package}"
        if not getattr(transformers.utils, f"is_flash_attn_{version}_available")():
            raise UserError(
                f"model.engine.attn_implementation is {chosen}, but {package} is not installed or there is no GPU; "
                f"{how}, or use model.engine.attn_implementation=sdpa"
            )
        return {"": "sdpa", "vision_config": "sdpa", "text_config": chosen}
