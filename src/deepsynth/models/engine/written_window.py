"""Attention to the whole prompt and to a window over what was written behind it, as Unlimited-OCR generates.

    B  rows     T  tokens of a row     W  tokens of the window, the one that looks included

transformers' own forward pass of such a model has no window: it takes all tokens that it is given for a prompt. Only
its ``generate`` has one. Here a text is trained as it is generated: a token of the target sees the prompt, which ends
at the first label, and the last W tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from deepsynth.compat.transformers import attention_implementation
from deepsynth.errors import UserError
from deepsynth.models.engine.token_places import TokenPlaces, moved
from deepsynth.models.kernels import packed_attention


def visible(labels: torch.Tensor, window: int, device: torch.device | None = None) -> torch.Tensor | None:
    """Return what each token sees, (B, 1, T, T) of bool, queries before keys; ``None`` where that is all before it.

    Args:
        labels: (B, T), -100 where nothing is learned; tokens from the first label on are the target's.
        window: W.
        device: of the mask, by default that of the labels. Labels on the host are read without waiting for a GPU.
    """
    length = labels.shape[1]
    places = torch.arange(length, device=labels.device)
    learned = labels != -100
    begins = torch.where(learned, places, length).amin(1)  # of the target; T without one
    ends = torch.where(learned, places, -1).amax(1)
    if not bool((ends - begins > window).any()):  # the last token predicts nothing
        return None
    device = device or labels.device
    begins, places = moved(begins, device), torch.arange(length, device=device)
    query, key = places[:, None], places[None]
    return ((key <= query) & ((key < begins[:, None, None]) | (query - key < window)))[:, None]


def attention_inputs(
    config: Any, places: TokenPlaces, window: int, packing: dict[str, Any], like: torch.Tensor
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the masks of a decoder by the kind of its layers, and its other inputs, with the window.

    Args:
        config: of the decoder.
        places: of the batch's tokens.
        window: W.
        packing: what else the decoder takes for a packed row; empty for others.
        like: in the dtype and on the device of what the decoder computes.

    Raises:
        UserError: for flash attention and a target that is longer than the window.
    """
    implementation = attention_implementation(config)
    labels, device = places.labels, like.device
    assert labels is not None, "find_places kept them"
    mask: torch.Tensor | None
    if packing:
        parts = [visible(part, window, device) for part in torch.split(labels, list(places.lengths), dim=1)]
        if implementation == packed_attention.NAME:
            mask = like.new_empty(1, 1, 0, 0)  # four axes: transformers shall build no mask
            packing = {**packing, "visible": parts} if any(part is not None for part in parts) else packing
        elif implementation == "eager" or any(part is not None for part in parts):
            mask = _blocks(parts, places.lengths, device)
        else:
            mask = None
    else:
        mask = visible(labels, window, device)
    if mask is not None and implementation is not None and "flash" in implementation:
        raise UserError(
            f"model.engine.attn_implementation is {implementation}, which has no window over what was written; use sdpa"
        )
    if implementation == "eager":
        mask = _blocks([None], [labels.shape[1]], device) if mask is None else mask
        mask = _additive(mask, like.dtype)
    return dict.fromkeys(set(config.layer_types), mask), packing


def whole_mask(config: Any, inputs: dict[str, torch.Tensor], window: int, dtype: torch.dtype) -> dict[str, Any]:
    """Return the masks by the kind of layers for a model's own forward pass, which knows of packing what they say.

    Args:
        config: of the decoder.
        inputs: of the model, with labels (B, T), or with ``position_ids`` and labels (1, T) of a packed row.
        window: W.
        dtype: of what the decoder computes.
    """
    labels = inputs["labels"]
    if "position_ids" not in inputs:
        places = TokenPlaces(labels, 0, labels=labels)  # the mask needs no more of them
        return attention_inputs(config, places, window, {}, labels.new_empty(0, dtype=dtype))[0]
    lengths = packed_attention.boundaries(inputs["position_ids"]).diff().tolist()
    mask = _blocks([visible(part, window) for part in torch.split(labels, lengths, dim=1)], lengths, labels.device)
    if attention_implementation(config) == "eager":
        mask = _additive(mask, dtype)
    return dict.fromkeys(set(config.layer_types), mask)


def _additive(mask: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    return torch.where(mask, 0.0, torch.finfo(dtype).min).to(dtype)


def _blocks(parts: Sequence[torch.Tensor | None], lengths: Sequence[int], device: torch.device) -> torch.Tensor:
    """Return the mask of sequences in one row, (1, 1, T, T); of those without a mask, all that is before is seen."""
    mask = torch.zeros(sum(lengths), sum(lengths), dtype=torch.bool, device=device)
    start = 0
    for part, length in zip(parts, lengths, strict=True):
        own = mask[start : start + length, start : start + length]
        own.copy_(torch.ones_like(own).tril() if part is None else part[0, 0])
        start += length
    return mask[None, None]
