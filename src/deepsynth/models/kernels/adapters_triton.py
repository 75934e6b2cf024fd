"""The Triton kernel of adapters on few rows; see :func:`deepsynth.models.kernels.adapters.add_product`."""

# mypy: ignore-errors
# ruff: noqa: ANN001, ANN201  (Triton's functions are no Python functions)
from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def add_product(
    base, x, left, right, rows, inputs, outputs, rank,
    ROWS: tl.constexpr, RANK: tl.constexpr, INPUTS: tl.constexpr, OUTPUTS: tl.constexpr,
):  # fmt: skip
    """Add ``x @ left.T @ right.T`` to ``base`` in place.

    One program: OUTPUTS columns of ROWS rows. Each recomputes the narrow product, which costs less than another kernel.
    """
    row = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    there = row < rows
    r = tl.arange(0, RANK)
    of_rank = r < rank
    narrow = tl.zeros([ROWS, RANK], dtype=tl.float32)
    for start in range(0, inputs, INPUTS):
        i = start + tl.arange(0, INPUTS)
        within = i < inputs
        states = tl.load(x + row[:, None] * inputs + i[None, :], mask=there[:, None] & within[None, :], other=0.0)
        factor = tl.load(left + r[None, :] * inputs + i[:, None], mask=of_rank[None, :] & within[:, None], other=0.0)
        narrow = tl.dot(states, factor, narrow)
    o = tl.program_id(0) * OUTPUTS + tl.arange(0, OUTPUTS)
    wide = o < outputs
    factor = tl.load(right + o[None, :] * rank + r[:, None], mask=of_rank[:, None] & wide[None, :], other=0.0)
    place = base + row[:, None] * outputs + o[None, :]
    mask = there[:, None] & wide[None, :]
    kind = base.dtype.element_ty
    # Rounded between the two products as torch rounds between its two operations.
    found = tl.load(place, mask=mask, other=0.0).to(tl.float32) + tl.dot(narrow.to(kind), factor)
    tl.store(place, found.to(kind), mask=mask)
