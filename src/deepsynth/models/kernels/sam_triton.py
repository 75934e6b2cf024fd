"""The Triton kernel of :mod:`deepsynth.models.kernels.sam_attention`."""

# mypy: ignore-errors
# ruff: noqa: ANN001, ANN201  (Triton's functions are no Python functions)
from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def attend(
    states, of_height, of_width, result, scale, heads, height, width,
    QUERIES: tl.constexpr, WIDTH: tl.constexpr, D: tl.constexpr,
):  # fmt: skip
    """Attend within views, with scores of relative heights and widths added.

    One program: QUERIES positions of one head against all keys, a row of positions at a time, so that all keys of a
    step share a height, and every step the widths. Exponentials are of base 2.
    """
    log2e: tl.constexpr = 1.4426950408889634
    positions = height * width
    blocks = tl.cdiv(positions, QUERIES)  # of one head, which follow each other and read the same keys
    pair = (tl.program_id(0) // blocks).to(tl.int64)
    across = heads * D  # numbers of a position's queries, and as many of its keys and of its values
    base = states + (pair // heads) * positions * 3 * across + (pair % heads) * D
    query = (tl.program_id(0) % blocks) * QUERIES + tl.arange(0, QUERIES)
    asked = query < positions
    column = tl.arange(0, WIDTH)
    there = column < width
    d = tl.arange(0, D)
    q = tl.load(base + query[:, None] * (3 * across) + d[None, :], mask=asked[:, None], other=0.0)
    places = of_width + pair * positions * width + query[:, None] * width + column[None, :]
    of_column = tl.load(places, mask=asked[:, None] & there[None, :], other=0.0).to(tl.float32) * log2e
    of_column = tl.where(there[None, :], of_column, -float("inf"))
    of_rows = of_height + pair * positions * height + query
    best = tl.full([QUERIES], -float("inf"), dtype=tl.float32)
    total = tl.zeros([QUERIES], dtype=tl.float32)
    output = tl.zeros([QUERIES, D], dtype=tl.float32)
    for row in range(height):
        key = (row * width + column) * (3 * across)
        k = tl.load(base + across + key[None, :] + d[:, None], mask=there[None, :], other=0.0)
        of_row = tl.load(of_rows + row * positions, mask=asked, other=0.0).to(tl.float32) * log2e
        scores = tl.dot(q, k) * (scale * log2e) + of_column + of_row[:, None]
        most = tl.maximum(best, tl.max(scores, axis=1))
        shares = tl.exp2(scores - most[:, None])
        fade = tl.exp2(best - most)
        total = total * fade + tl.sum(shares, axis=1)
        v = tl.load(base + 2 * across + key[:, None] + d[None, :], mask=there[:, None], other=0.0)
        output = tl.dot(shares.to(v.dtype), v, output * fade[:, None])
        best = most
    output = output / total[:, None]
    written = result + ((pair // heads) * positions + query[:, None]) * across + (pair % heads) * D + d[None, :]
    tl.store(written, output.to(result.dtype.element_ty), mask=asked[:, None])
