"""Attention among the patches of an image, or of its windows, for images that are of different sizes.

    P  patches of all images     Q  heads     D  width of a head     S  segments: images or windows

transformers attends to one segment after the other: thousands of small products a layer where an encoder has windows,
and for each layer the device is waited for. Here segments of one length are attended to together, and on CUDA in 16
bits those of different lengths by one kernel. Queries and keys are rotated by one kernel there.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from torch.nn import functional
from torch.nn.attention.varlen import varlen_attn

from deepsynth.compat import liger_kernel
from deepsynth.compat.transformers import attention_implementation
from deepsynth.models.kernels import decoder
from deepsynth.models.kernels.fast_forward import FastForward
from deepsynth.models.kernels.layer_classes import computes_as

#: The paths by the names that users see.
ATTENTION, NORM, GATE = "patch attention", f"vision {decoder.NORM}", f"vision {decoder.GATE}"
PATHS = (ATTENTION, NORM, GATE)
_LIKE_THE_DECODER = {decoder.NORM: NORM, decoder.GATE: GATE}
_FLASH_DTYPES = (torch.bfloat16, torch.float16)


def fast_forward_for(module: Any) -> FastForward | None:
    """Return the faster forward of a module of the vision encoder, if there is one."""
    if computes_as(module, "PatchAttention"):
        return _ATTENTION if attention_implementation(module.config) == "sdpa" else None
    found = decoder.fast_forward_for(module)
    path = _LIKE_THE_DECODER.get(found.path) if found is not None else None
    return found._replace(path=path) if found is not None and path is not None else None


def why_unused(path: str, count: int, weight: torch.Tensor, *, training: bool) -> str:
    """Return why a path is not used, and an empty text when it is.

    Args:
        path: one of :data:`PATHS`.
        count: of the modules that it is for.
        weight: of the model, on its device.
        training: for training, not for generation.
    """
    if path == ATTENTION:
        return "" if count else "patches attend by another implementation than sdpa"
    return decoder.why_unused(path.removeprefix("vision "), count, weight, training=training).replace(
        "the decoder", "the vision encoder"
    )


def fits(tower: torch.nn.Module) -> bool:
    """Return whether an encoder attends among patches."""
    return any(computes_as(module, "PatchAttention") for module in tower.modules())


@lru_cache(maxsize=4)
def _lengths(bounds: torch.Tensor) -> tuple[int, ...]:
    """Return the lengths of segments; the device is waited for once, not in every layer that has the same tensor."""
    return tuple(bounds.diff().tolist())


def attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    bounds: torch.Tensor,
    scaling: float,
    longest: int | None = None,
) -> torch.Tensor:
    """Return the attention of each patch to all of its segment, (P, Q, D).

    Args:
        query: (P, Q, D), and so are key and value.
        key: see ``query``.
        value: see ``query``.
        bounds: (S + 1,) int32, where each segment begins, and P.
        scaling: of the products, before the softmax.
        longest: length of the longest segment, where it is known; else the device is waited for.
    """
    segments, longest = len(bounds) - 1, longest or max(_lengths(bounds))
    if segments * longest == len(query):  # all are of that length
        shape = (segments, longest, *query.shape[1:])
        return _together(query.reshape(shape), key.reshape(shape), value.reshape(shape), scaling).flatten(0, 1)
    if query.is_cuda and query.dtype in _FLASH_DTYPES:
        found = varlen_attn(query, key, value, bounds, bounds, longest, longest, scale=scaling)
        assert isinstance(found, torch.Tensor)
        return found
    lengths = _lengths(bounds)
    output = torch.empty_like(query) if not torch.is_grad_enabled() else torch.zeros_like(query)
    sizes = torch.tensor(lengths, device=query.device)
    for length in sorted(set(lengths)):
        places = bounds[:-1][sizes == length].long()[:, None] + torch.arange(length, device=query.device)
        own = _together(query[places], key[places], value[places], scaling)
        output = output.index_put((places,), own)
    return output


def _together(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float) -> torch.Tensor:
    """Return the attention within segments of one length, (S, length, Q, D)."""
    query, key, value = (part.transpose(1, 2) for part in (query, key, value))
    return functional.scaled_dot_product_attention(query, key, value, scale=scaling).transpose(1, 2)


def _rotate(
    query: torch.Tensor, key: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return queries and keys (P, Q, D) rotated by angles (P, D), in float32 as transformers does."""
    if query.is_cuda and liger_kernel.is_installed() and not torch.compiler.is_compiling():
        if torch.is_grad_enabled():  # it works in place, on what recomputation may have kept
            query, key = query.clone(), key.clone()
        query, key = (part[None].transpose(1, 2) for part in (query, key))
        rotated = liger_kernel.rotate(query, key, cos[None].float(), sin[None].float())
        query, key = (part.transpose(1, 2)[0] for part in rotated)
        return query, key
    cos, sin = cos[:, None].float(), sin[:, None].float()
    query, key = (_turn(part.float(), cos, sin).to(part.dtype) for part in (query, key))
    return query, key


def _turn(states: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    left, right = states.chunk(2, dim=-1)
    return states * cos + torch.cat((-right, left), dim=-1) * sin


def _attend(
    self: Any,
    hidden_states: torch.Tensor,
    cu_seqlens: torch.Tensor,
    position_embeddings: tuple[torch.Tensor, torch.Tensor],
    max_seqlen: int | None = None,
    **kwargs: Any,
) -> Any:
    """Return what transformers' layer returns: (P, Q * D), and no weights where it gives them beside that."""
    whole = hasattr(self, "qkv")
    if whole:
        query, key, value = self.qkv(hidden_states).unflatten(-1, (3, self.num_heads, -1)).unbind(1)
    else:
        shape = (self.num_heads, -1)
        query, key, value = (
            projection(hidden_states).unflatten(-1, shape) for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
    if hasattr(self, "q_norm"):
        query, key = self.q_norm(query), self.k_norm(key)
    query, key = _rotate(query, key, *position_embeddings)
    output = attend(query, key, value, cu_seqlens, self.scaling, max_seqlen).reshape(len(hidden_states), -1)
    return self.proj(output) if whole else (self.out_proj(output), None)


_ATTENTION = FastForward(ATTENTION, _attend, _attend)
