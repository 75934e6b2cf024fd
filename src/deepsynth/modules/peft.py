"""The PEFT-standard backend: transformers loads the model, peft adapts it."""

from __future__ import annotations

from typing import Any, get_args

import torch

from deepsynth.compat.peft import register_custom_module
from deepsynth.errors import UserError
from deepsynth.models.lora import lora_config
from deepsynth.models.quantization.nf4_experts import Nf4Experts, adapter_class, expert_parameters
from deepsynth.models.quantization.quantize import Kind, Quantization
from deepsynth.modules.base import DeepSynthModule
from deepsynth.modules.loading import load_base
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
        quantize_vision: quantize the vision encoder's linear layers as well, as bitsandbytes does by default.
        **kwargs: see :class:`ModelModule`.

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
        self.lora.check_base(quantization=quantization, weights=self.weights, adapter=self.adapter)
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

        base = load_base(self, self._how_to_quantize())
        base.requires_grad_(False)
        with expert_parameters(base):
            config = lora_config(base, self.lora, base_model_name=self.model_name)
            if config.target_parameters and self.quantization == "nf4":
                register_custom_module(config, Nf4Experts, adapter_class())
            base.name_or_path = self.model_name  # peft copies it into the adapter: a name, not a path of this machine
            # Adapters begin the same in every backend and precision, however many numbers loading drew.
            with torch.device("cpu"), torch.random.fork_rng(devices=[]):
                torch.default_generator.manual_seed(torch.initial_seed() % 2**32)
                model = get_peft_model(base, config)
        # from_pretrained leaves eval mode, in which dropout and recomputation would be skipped in silence.
        return model.train()
