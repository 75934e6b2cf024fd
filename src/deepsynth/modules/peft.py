"""The PEFT-standard backend: transformers loads the model, peft adapts it."""

from __future__ import annotations

from typing import Any, get_args

import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_info

from deepsynth.distributed.ranks import seed_as_rank_zero
from deepsynth.distributed.strategy import loading_device
from deepsynth.models.lora import lora_config
from deepsynth.models.quantization.nf4_experts import Nf4Experts, adapter_class, expert_parameters
from deepsynth.models.quantization.quantize import Kind, Quantization, mark_for_peft, quantize, require_bitsandbytes
from deepsynth.models.quantization.weight_table import format_weight_table, weight_table
from deepsynth.models.random_weights import fill_with_random_weights
from deepsynth.models.registry import family_of, load_pretrained
from deepsynth.modules.base import DeepSynthModule, Dtype


class PeftModule(DeepSynthModule):
    """Loads through transformers' AutoModelForImageTextToText and adapts with peft.

    Args:
        model_name: a built-in model, a local folder or a Hub repository.
        quantization: of the frozen weights: ``nf4`` (4 bits, linear layers and routed experts), ``int8`` (linear layers
            alone) or ``none``. It needs bitsandbytes. Layers are quantised one at a time, on the device; embeddings,
            head, router and norms keep ``dtype``.
        double_quantization: keep the scales of nf4 in 8 bits: 0.4 bits less for each weight.
        compute_dtype: of products with dequantised weights; ``auto`` is ``dtype``.
        quantize_vision: quantise the vision encoder's linear layers as well, as bitsandbytes does by default.
        **kwargs: see :class:`DeepSynthModule`.

    Raises:
        ValueError: for settings out of range, with the key.
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
            raise ValueError(f"model.quantization is {quantization!r}; there are {', '.join(get_args(Kind))}")

    @property
    def quantization(self) -> Quantization | None:
        """How the frozen weights are quantised, if they are."""
        h = self.hparams
        if h["quantization"] == "none":
            return None
        dtype = self.resolved_dtype if h["compute_dtype"] == "auto" else getattr(torch, h["compute_dtype"])
        return Quantization(h["quantization"], h["double_quantization"], dtype, h["quantize_vision"])

    def load_model(self) -> Any:
        """Return a ``PeftModel`` on this process's device, the base frozen in its dtype, the adapters in float32.

        Raises:
            ValueError: for a model that cannot be loaded, or a package that is missing, with the way out.
        """
        from peft import get_peft_model

        base = self._load_base()
        base.requires_grad_(False)
        h = self.hparams
        with expert_parameters(base):
            config = lora_config(
                base,
                self.scope,
                rank=h["lora_rank"],
                alpha=h["lora_alpha"] or 2 * h["lora_rank"],
                dropout=h["lora_dropout"],
                rslora=h["rslora"],
                dora=h["dora"],
                init=h["lora_init"],
                base_model_name=h["model_name"],
            )
            if config.target_parameters and h["quantization"] == "nf4":
                config._register_custom_module({Nf4Experts: adapter_class()})
            base.name_or_path = h["model_name"]  # peft copies it into the adapter: a name, not a path of this machine
            # Adapters begin the same in every backend and precision, however many numbers loading drew.
            with torch.device("cpu"), torch.random.fork_rng(devices=[]):
                torch.default_generator.manual_seed(torch.initial_seed() % 2**32)
                model = get_peft_model(base, config)
        # from_pretrained leaves eval mode, in which dropout and recomputation would be skipped in silence.
        return model.train()

    def _load_base(self) -> Any:
        from transformers import AutoConfig, AutoModelForImageTextToText

        name, how = self.hparams["model_name"], self.quantization
        if how is not None:
            require_bitsandbytes(how.kind)
        config = load_pretrained(AutoConfig, name)
        family_of(config)  # refuses other architectures, with the list
        kwargs: dict[str, Any] = {
            "dtype": self.resolved_dtype,
            "attn_implementation": self._attention(config),
        }
        if self.hparams["experts_implementation"]:
            kwargs["experts_implementation"] = self.hparams["experts_implementation"]

        def quantize_layer(layer: torch.nn.Module, prefix: str) -> None:
            if how is not None:
                quantize(layer, how, self.device, prefix)

        if self.hparams["weights"] == "random":
            with torch.device("meta"):
                model = AutoModelForImageTextToText.from_config(config, **kwargs)
            seed_as_rank_zero()
            fill_with_random_weights(model, self.device, quantize_layer)
            rank_zero_info(f"{name}: random weights (model.weights=random)")
        elif how is None:
            model = load_pretrained(AutoModelForImageTextToText, name, config=config, **kwargs)
            model.to(loading_device(self))
        else:
            # In the computer's memory first: the device sees one unquantised layer at a time.
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
        chosen: str = self.hparams["attn_implementation"]
        if not chosen.startswith("flash_attention_"):
            return chosen
        import transformers.utils

        version = chosen.removeprefix("flash_attention_")
        package = "flash-attn" if version == "2" else f"flash-attn-{version}"
        # Of 3 there is no package to install; it is built from flash-attention's source.
        how = "build it from flash-attention's folder hopper" if version == "3" else f"pip install {package}"
        if not getattr(transformers.utils, f"is_flash_attn_{version}_available")():
            raise ValueError(
                f"model.attn_implementation is {chosen}, but {package} is not installed or there is no GPU; "
                f"{how}, or use model.attn_implementation=sdpa"
            )
        return {"": "sdpa", "vision_config": "sdpa", "text_config": chosen}
