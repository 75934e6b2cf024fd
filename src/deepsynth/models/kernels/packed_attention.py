"""Attention within each of several sequences that share one row.

    Q  heads     T  tokens of the row     D  width of a head

transformers would build a (T, T) mask for a packed row, and attention would compute what the mask then throws away: the
square of the sum of the lengths, not the sum of their squares.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch.nn import functional as F
from torch.nn.attention.varlen import varlen_attn

from deepsynth.compat.transformers import register_attention, sdpa_attention

#: Its name in transformers' table of attention functions.
NAME = "sdpa_packed"

_FLASH_DTYPES = (torch.bfloat16, torch.float16)
#: torch 2.11 has the function; its way to say causal is newer.
_HAS_WINDOW = "window_size" in inspect.signature(varlen_attn).parameters


def packed_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    cu_seq_lens_q: torch.Tensor | None = None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Return causal attention within each sequence, (1, T, Q, D); without boundaries, transformers' own attention.

    Args:
        module: the attention layer.
        query: (1, Q, T, D), and so are key and value, but for fewer heads where several of queries share one.
        key: see ``query``.
        value: see ``query``.
        attention_mask: not looked at when there are boundaries.
        cu_seq_lens_q: (sequences + 1,) int32, where each begins, and T.
        scaling: of the products, before the softmax.
        dropout: of the weights.
        **kwargs: with boundaries ``max_length_q``, tokens of the longest, and, if that is not all before them,
            ``visible``: for each sequence what its tokens see, (1, 1, tokens, tokens), or ``None`` for all; else for
            transformers' own attention.
    """
    if cu_seq_lens_q is None:
        output = sdpa_attention(module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs)
        return output, None
    visible: list[torch.Tensor | None] | None = kwargs.get("visible")
    if visible is None and query.is_cuda and query.dtype in _FLASH_DTYPES and _HAS_WINDOW and not dropout:
        bounds, longest = cu_seq_lens_q, kwargs["max_length_q"]
        shared = query.shape[1] // key.shape[1]
        if shared > 1:
            key, value = key.repeat_interleave(shared, 1), value.repeat_interleave(shared, 1)
        q, k, v = (tensor[0].transpose(0, 1) for tensor in (query, key, value))
        packed = varlen_attn(q, k, v, bounds, bounds, longest, longest, scale=scaling, window_size=(-1, 0))
        assert isinstance(packed, torch.Tensor)
        return packed[None], None
    lengths = cu_seq_lens_q.diff().tolist()
    gqa = query.shape[1] != key.shape[1]
    sequences = zip(*(torch.split(tensor, lengths, dim=2) for tensor in (query, key, value)), strict=True)
    parts = [
        F.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, dropout_p=dropout, scale=scaling, is_causal=mask is None, enable_gqa=gqa
        )
        for (q, k, v), mask in zip(sequences, visible or [None] * len(lengths), strict=True)
    ]
    return torch.cat(parts, dim=2).transpose(1, 2), None


def register() -> None:
    """Make transformers know the function; in generation it takes the masks that SDPA takes."""
    register_attention(NAME, packed_attention)


def boundaries(position_ids: torch.Tensor) -> torch.Tensor:
    """Return (sequences + 1,) int32, where the sequences of a packed row (1, T) begin, and T."""
    starts = (position_ids[0] == 0).nonzero()[:, 0]
    end = torch.tensor([position_ids.shape[1]], device=starts.device)
    return torch.cat([starts, end]).to(torch.int32)
