"""Attention of a packed row, and of rows that are not packed, against torch's own with a mask made by hand."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from deepsynth.models.kernels.packed_attention import boundaries, packed_attention

TOKENS = 10


def inputs(rows: int = 1) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(rows, 2, TOKENS, 8, generator=generator) for _ in range(3)]


def test_without_boundaries_the_mask_is_followed() -> None:
    query, key, value = inputs(rows=2)
    mask = torch.ones(2, 1, TOKENS, TOKENS, dtype=torch.bool).tril()
    mask[1, :, :, :4] = False  # the padding at the left of a prompt
    mask[1, :, :4, :4] = torch.eye(4, dtype=torch.bool)
    output, _ = packed_attention(torch.nn.Module(), query, key, value, mask)
    wanted = F.scaled_dot_product_attention(query, key, value, attn_mask=mask).transpose(1, 2)
    torch.testing.assert_close(output, wanted)
    causal = F.scaled_dot_product_attention(query, key, value, is_causal=True).transpose(1, 2)
    torch.testing.assert_close(output[0], causal[0])
    assert not torch.allclose(output[1], causal[1])


def test_with_boundaries_no_sequence_sees_another() -> None:
    query, key, value = inputs()
    positions = torch.tensor([[0, 1, 2, 0, 0, 1, 2, 3, 4, 5]])
    bounds = boundaries(positions)
    assert bounds.tolist() == [0, 3, 4, 10]
    sequence = torch.tensor([0] * 3 + [1] + [2] * 6)
    mask = (sequence[:, None] == sequence) & torch.ones(TOKENS, TOKENS, dtype=torch.bool).tril()
    for scaling in (None, 0.1):
        output, _ = packed_attention(
            torch.nn.Module(), query, key, value, None, cu_seq_lens_q=bounds, scaling=scaling, max_length_q=6
        )
        wanted = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scaling).transpose(1, 2)
        torch.testing.assert_close(output, wanted)


def test_heads_of_keys_are_shared_and_what_is_visible_is_followed() -> None:
    generator = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(1, heads, TOKENS, 8, generator=generator) for heads in (4, 2, 2))
    bounds = torch.tensor([0, 4, 10], dtype=torch.int32)
    causal = torch.ones(6, 6, dtype=torch.bool).tril()
    window = causal & ~causal.tril(-3)  # three tokens, the one that looks included
    mask = torch.block_diag(torch.ones(4, 4).tril(), window.float()).bool()
    visible = [None, window[None, None]]
    output, weights = packed_attention(
        torch.nn.Module(), query, key, value, None, cu_seq_lens_q=bounds, max_length_q=6, visible=visible
    )
    wanted = F.scaled_dot_product_attention(
        query, key.repeat_interleave(2, 1), value.repeat_interleave(2, 1), attn_mask=mask
    )
    torch.testing.assert_close(output, wanted.transpose(1, 2))
    assert weights is None


def test_weights_are_dropped_as_often_as_asked() -> None:
    query, key, value = inputs()
    bounds = torch.tensor([0, TOKENS], dtype=torch.int32)
    ones = torch.ones_like(value)

    def of_ones(dropout: float) -> torch.Tensor:
        torch.manual_seed(0)
        return packed_attention(
            torch.nn.Module(), query, key, ones, None, cu_seq_lens_q=bounds, max_length_q=TOKENS, dropout=dropout
        )[0]

    torch.testing.assert_close(of_ones(0.0), torch.ones(1, TOKENS, 2, 8))
    assert (of_ones(0.9) - 1).abs().max() > 0.5
