"""Private parts of transformers that the package relies on, and what differs between 5.17 and 5.24."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch


@cache
def cache_name() -> str:
    """Return what decoders call the keys and values of earlier tokens, as an argument and in their outputs.

    It is ``cache`` in newer releases, where ``past_key_values`` warns until it goes in 5.40.
    """
    from transformers.modeling_outputs import BaseModelOutputWithPast

    return "cache" if "cache" in BaseModelOutputWithPast.__dataclass_fields__ else "past_key_values"


def unsplit_classes(model: Any) -> list[str]:
    """Return the class names of a model's blocks, each of which should stay whole when weights are split.

    transformers lists them for ``device_map``; no public attribute names the blocks of a model.
    """
    return list(model._no_split_modules)


def unify_dtype(model: Any) -> Any:
    """Give routers the dtype of the other weights, and return the model.

    From 5.24 transformers makes and loads the weights of routers in float32, whatever dtype is asked for. Published
    weights have one dtype; so have exports then, and what trains. Products with routers are computed in float32 anyway.

    Args:
        model: of transformers, its weights in memory or on the meta device.
    """
    dtype: torch.dtype = model.dtype
    for name, parameter in model.named_parameters():
        if name.endswith("mlp.gate.weight") and parameter.dtype != dtype:
            parameter.data = parameter.data.to(dtype)
    return model


def attention_implementation(config: Any) -> str | None:
    """Return how a part of a model attends; the attribute is private, and there is no public way to read it."""
    found: str | None = config._attn_implementation
    return found


def set_attention_implementation(config: Any, name: str | None) -> None:
    """Choose how a part of a model attends.

    ``model.set_attn_implementation`` checks and sets all parts of a model, and takes longer than a token.
    """
    config._attn_implementation = name


def experts_implementation(config: Any) -> str | None:
    """Return how routed experts are computed, or ``None``: the attribute is private."""
    found: str | None = getattr(config, "_experts_implementation", None)
    return found


def set_experts_implementation(config: Any, name: str | None) -> None:
    """Choose how routed experts are computed.

    ``model.set_experts_implementation`` checks and sets all parts of a model, and takes longer than a token.
    """
    config._experts_implementation = name


@contextmanager
def implementations(config: Any, *, attention: str, experts: str | None = None) -> Iterator[None]:
    """Have a decoder attend and compute routed experts in these ways, for the block; ``None`` leaves experts alone."""
    before = attention_implementation(config), experts_implementation(config)
    set_attention_implementation(config, attention)
    if experts is not None:
        set_experts_implementation(config, experts)
    try:
        yield
    finally:
        set_attention_implementation(config, before[0])
        if experts is not None:
            set_experts_implementation(config, before[1])


def attention_function(name: str | None) -> Any:
    """Return the function of an implementation of attention; the table is in a module that is not documented."""
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    return ALL_ATTENTION_FUNCTIONS[name]


def register_experts(name: str, function: Any) -> None:
    """Add an implementation of routed experts to the table of transformers, which exports only that of attention."""
    from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

    ALL_EXPERTS_FUNCTIONS.register(name, function)


def are_shared_out(experts: Any) -> bool:
    """Return whether each process has some of the routed experts of a layer; transformers 5.17 does not know it."""
    found: bool = getattr(experts, "_is_expert_parallel", False)
    return found


def grouped_experts(module: Any, hidden: torch.Tensor, indices: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Return the weighted sum of each token's experts (N, H) by transformers' grouped products.

    Args:
        module: with fused experts.
        hidden: (N, H).
        indices: (N, K) experts of each token.
        weights: (N, K) of these in the sum.
    """
    from transformers.integrations.moe import grouped_mm_experts_forward

    found: torch.Tensor = grouped_mm_experts_forward(module, hidden, indices, weights)
    return found


def sdpa_attention(
    module: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor | None, **kwargs: Any
) -> torch.Tensor:
    """Return attention by transformers' own function for torch's, whose module is not documented."""
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    output: torch.Tensor = sdpa_attention_forward(module, query, key, value, mask, **kwargs)[0]
    return output


def register_attention(name: str, function: Any) -> None:
    """Add an implementation of attention, with masks as for torch's; the function of masks is not exported."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    AttentionInterface.register(name, function)
    AttentionMaskInterface.register(name, sdpa_mask)


def register_causal_attention(name: str) -> None:
    """Add torch's attention under a name for which transformers makes no masks, for rows that are causal and no more.

    Where it does make them it first looks whether several sequences share a row, and waits for the device to know.
    """
    from transformers import AttentionInterface
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    AttentionInterface.register(name, sdpa_attention_forward)


def sees_all(config: Any) -> bool:
    """Return whether every token of a decoder attends to all before it, in every layer: no layer has a window.

    transformers' name for windows differs by configuration, and their absence has none.
    """
    kinds = set(getattr(config, "layer_types", None) or ())
    return not getattr(config, "sliding_window", None) and kinds <= {"full_attention"}


def initialize(owner: Any, module: Any) -> None:
    """Give a module's own weights the values that training from the start begins with.

    ``PreTrainedModel.init_weights`` is public, and does it for a whole model at once.

    Args:
        owner: the innermost pretrained model that the module belongs to.
        module: with its weights on a device.
    """
    owner._init_weights(module)


def convert_back(model: Any, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return a state dict under the keys that the model's checkpoints have, by its registered conversion.

    ``save_pretrained`` does so for a model that was loaded with that conversion, which the model keeps in a private
    attribute; a model that was made has none.
    """
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import revert_weight_conversion

    before = getattr(model, "_weight_conversions", None)
    model._weight_conversions = get_model_conversion_mapping(model, add_legacy=False)
    try:
        converted: dict[str, torch.Tensor] = revert_weight_conversion(model, state)
    finally:
        model._weight_conversions = before
    return converted
