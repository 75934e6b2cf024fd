"""transformers from 5.17 to 5.24: what the cache is called, and the dtype of routers."""

from __future__ import annotations

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
