"""Loading of a base model by transformers, quantized or not, with pretrained or random weights."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_info

from deepsynth.distributed.ranks import seed_as_rank_zero
from deepsynth.distributed.strategy import loading_device
from deepsynth.errors import UserError
from deepsynth.models.family import Family
from deepsynth.models.quantization.quantize import Quantization, mark_for_peft, quantize, require_bitsandbytes
from deepsynth.models.quantization.weight_table import format_weight_table, weight_table
from deepsynth.models.random_weights import fill_with_random_weights
from deepsynth.models.registry import family_of, load_pretrained
from deepsynth.modules.model_module import ModelModule
from deepsynth.modules.settings import Attention


def load_base(module: ModelModule, quantization: Quantization | None) -> Any:
    """Return the base model of a module on the device of its process, without adapters.

    Args:
        module: whose settings say which model, weights, dtype and implementations.
        quantization: of the weights; ``None`` leaves them in the module's dtype.

    Raises:
        UserError: for a model that cannot be loaded, or a package that is missing, with the way out.
    """
    from transformers import AutoConfig, AutoModelForImageTextToText

    name = module.model_name
    if quantization is not None:
        require_bitsandbytes(quantization.kind)
    config = load_pretrained(AutoConfig, name)
    kwargs: dict[str, Any] = {
        "dtype": module.resolved_dtype,
        "attn_implementation": attention_by_part(module.engine.attn_implementation, family_of(config)),
    }
    if chosen := module.engine.experts_implementation:
        if _has_experts(config):
            kwargs["experts_implementation"] = chosen
        else:
            rank_zero_info(f"{name} has no routed experts: model.engine.experts_implementation={chosen} does nothing")

    def quantize_layer(layer: torch.nn.Module, prefix: str) -> None:
        if quantization is not None:
            quantize(layer, quantization, module.device, prefix)

    if module.weights == "random":
        with torch.device("meta"):
            model = AutoModelForImageTextToText.from_config(config, **kwargs)
        seed_as_rank_zero()
        fill_with_random_weights(model, module.device, quantize_layer)
        rank_zero_info(f"{name}: random weights (model.weights=random)")
    elif quantization is None:
        model = load_pretrained(AutoModelForImageTextToText, name, config=config, **kwargs)
        model.to(loading_device(module))
    else:
        # In the computer's memory first: the device sees one unquantized layer at a time.
        with torch.device("cpu"):
            model = load_pretrained(AutoModelForImageTextToText, name, config=config, **kwargs)
        quantize(model, quantization, module.device)
        model.to(module.device)
    if quantization is not None:
        mark_for_peft(model, quantization)
        rank_zero_info(format_weight_table(weight_table(model, module.resolved_dtype)))
    return model


def _has_experts(config: Any) -> bool:
    """Return whether the decoder has routed experts, by the names that transformers' configurations give them.

    Its classes without experts refuse to be told how to compute them.
    """
    text = config.get_text_config()
    return any(getattr(text, name, None) for name in ("n_routed_experts", "num_experts", "num_local_experts"))


def attention_by_part(chosen: Attention, family: Family) -> str | dict[str, str] | None:
    """Return transformers' ``attn_implementation``: flash attention is for the decoder alone.

    It is ``None``, for transformers to choose, where sdpa is asked for and some part does not have it.

    Raises:
        UserError: when the package of the chosen implementation is not installed, with the way out.
    """
    if not chosen.startswith("flash_attention_"):
        return chosen if chosen != "sdpa" or family.has_sdpa else None
    from transformers import utils

    available, package = {
        "flash_attention_2": (utils.is_flash_attn_2_available, "flash-attn"),
        "flash_attention_3": (utils.is_flash_attn_3_available, "flash-attn-3"),
        "flash_attention_4": (utils.is_flash_attn_4_available, "flash-attn-4"),
    }[chosen]
    # Of 3 there is no package to install; it is built from flash-attention's source.
    how = "build it from flash-attention's folder hopper" if package == "flash-attn-3" else f"pip install {package}"
    if not available():
        raise UserError(
            f"model.engine.attn_implementation is {chosen}, but {package} is not installed or there is no GPU; "
            f"{how}, or use model.engine.attn_implementation=sdpa"
        )
    return {"": "sdpa", "vision_config": "sdpa", "text_config": chosen}
