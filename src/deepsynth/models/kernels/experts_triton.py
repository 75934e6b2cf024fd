"""Triton kernels of :mod:`deepsynth.models.kernels.experts`; one program for each row or token, sums in float32."""

# mypy: ignore-errors
# ruff: noqa: ANN001, ANN201  (Triton's functions are no Python functions)
from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def score(hidden, router, logits, width, number, EXPERTS: tl.constexpr, BLOCK: tl.constexpr):
    """Multiply states of tokens by the router's rows, in float32.

    A program for each token and few experts: a token's alone would wait for one read of the router after the other.
    """
    token = tl.program_id(0).to(tl.int64)
    expert = tl.program_id(1) * EXPERTS + tl.arange(0, EXPERTS)
    there = expert < number
    found = tl.zeros([EXPERTS], dtype=tl.float32)
    for start in range(0, width, BLOCK):
        column = start + tl.arange(0, BLOCK)
        within = column < width
        state = tl.load(hidden + token * width + column, mask=within, other=0.0).to(tl.float32)
        both = there[:, None] & within[None, :]
        row = tl.load(router + expert[:, None] * width + column[None, :], mask=both, other=0.0).to(tl.float32)
        found += tl.sum(row * state[None, :], axis=1)
    tl.store(logits + token * number + expert, found, mask=there)


@triton.jit
def choose(logits, indices, weights, number, chosen, scale, EXPERTS: tl.constexpr):
    """Choose a token's experts by the softmax of its scores, the best first, and weigh them by ``scale`` times it."""
    token = tl.program_id(0).to(tl.int64)
    expert = tl.arange(0, EXPERTS)
    scores = tl.load(logits + token * number + expert, mask=expert < number, other=-float("inf"))
    scores = tl.exp(scores - tl.max(scores, axis=0))
    scores = scores / tl.sum(scores, axis=0)
    for place in range(chosen):
        best = tl.argmax(scores, axis=0)
        tl.store(indices + token * chosen + place, best.to(tl.int64))
        tl.store(weights + token * chosen + place, tl.max(scores, axis=0) * scale)
        scores = tl.where(expert == best, -1.0, scores)


@triton.jit
def route(indices, tokens, order, places, ends, rows, chosen, number, ROWS: tl.constexpr, EXPERTS: tl.constexpr):
    """Sort (token, expert) pairs by expert, tokens in their order; ``ends`` are where each expert's rows end."""
    pair = tl.arange(0, ROWS)
    there = pair < rows
    own = tl.load(indices + pair, mask=there, other=number)
    before = (own[None, :] < own[:, None]) | ((own[None, :] == own[:, None]) & (pair[None, :] < pair[:, None]))
    place = tl.sum(before.to(tl.int32), axis=1)
    tl.store(places + pair, place.to(tl.int64), mask=there)
    tl.store(order + place, pair.to(tl.int64), mask=there)
    tl.store(tokens + place, (pair // chosen).to(tl.int64), mask=there)
    expert = tl.arange(0, EXPERTS)
    tl.store(ends + expert, tl.sum((own[None, :] <= expert[:, None]).to(tl.int32), axis=1), mask=expert < number)


@triton.jit
def gate(gate_up, result, width, BLOCK: tl.constexpr):
    """Compute ``silu(first half) * second half`` of a row."""
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    mask = columns < width
    first = tl.load(gate_up + row * 2 * width + columns, mask=mask, other=0.0).to(tl.float32)
    second = tl.load(gate_up + row * 2 * width + width + columns, mask=mask, other=0.0)
    # Rounded between the two as torch rounds between its two operations.
    silu = (first * tl.sigmoid(first)).to(second.dtype)
    tl.store(result + row * width + columns, silu * second, mask=mask)


@triton.jit
def gate_backward(inner_grad, gate_up, weights, result, weights_grad, width, BLOCK: tl.constexpr):
    """Compute the gradients of a gated row and of the row's weight, from that of the weighted product."""
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    mask = columns < width
    first = tl.load(gate_up + row * 2 * width + columns, mask=mask, other=0.0).to(tl.float32)
    second = tl.load(gate_up + row * 2 * width + width + columns, mask=mask, other=0.0).to(tl.float32)
    grad = tl.load(inner_grad + row * width + columns, mask=mask, other=0.0).to(tl.float32)
    sigmoid = tl.sigmoid(first)
    silu = first * sigmoid
    tl.store(weights_grad + row, tl.sum(grad * silu * second, axis=0))
    grad = grad * tl.load(weights + row)
    kind = result.dtype.element_ty
    place = result + row * 2 * width + columns
    tl.store(place, (grad * second * (sigmoid + silu * (1.0 - sigmoid))).to(kind), mask=mask)
    tl.store(place + width, (grad * silu).to(kind), mask=mask)


@triton.jit
def combine(rows, places, weights, result, chosen, width, WEIGHTED: tl.constexpr, BLOCK: tl.constexpr):
    """Add up the rows of a token's experts in float32, weighted or not."""
    token = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    mask = columns < width
    total = tl.zeros([BLOCK], dtype=tl.float32)
    for number in range(chosen):
        place = tl.load(places + token * chosen + number).to(tl.int64)
        row = tl.load(rows + place * width + columns, mask=mask, other=0.0).to(tl.float32)
        if WEIGHTED:
            row = row * tl.load(weights + token * chosen + number)
        total += row
    tl.store(result + token * width + columns, total.to(result.dtype.element_ty), mask=mask)
