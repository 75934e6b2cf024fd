"""What surrounds the products of routed experts, in one pass over memory each on CUDA and in plain torch elsewhere.

    N  tokens      K  experts of a token      S  N * K rows, sorted by expert      H, I  widths of model and expert

All of it moves memory and computes next to nothing, so that it takes as long as it has passes.
"""

from __future__ import annotations

import functools
import importlib.util
from typing import Any, NamedTuple

import torch
from torch.nn import functional

#: Up to so many rows are sorted by comparing each with each, in one kernel: 42 tokens of DeepSeek-OCR.
_FEW_ROWS = 256
#: Up to so many tokens choose their experts in two kernels; each of them reads the whole router.
_FEW_TOKENS = 64
#: Experts that one program scores.
_SCORED = 2


def has_triton() -> bool:
    """Return whether Triton is installed, as it is with torch for CUDA on Linux."""
    return importlib.util.find_spec("triton") is not None


def choose_experts(
    hidden: torch.Tensor, router: torch.Tensor, chosen: int, scale: float
) -> tuple[torch.Tensor, torch.Tensor] | None:
    """Return experts (N, K) of few tokens and their weights (N, K), in two kernels; ``None`` where none is for it.

    Args:
        hidden: (N, H).
        router: (E, H).
        chosen: K, those with the largest share of the softmax over E, which is computed in float32.
        scale: of their weights.
    """
    if not 0 < len(hidden) <= _FEW_TOKENS or not by_triton(hidden) or torch.is_grad_enabled():
        return None
    indices = torch.empty(len(hidden), chosen, dtype=torch.long, device=hidden.device)
    weights = torch.empty(len(hidden), chosen, dtype=torch.float32, device=hidden.device)
    number, width = router.shape
    logits = torch.empty(len(hidden), number, dtype=torch.float32, device=hidden.device)
    _kernels()["score"][(len(hidden), -(-number // _SCORED))](
        hidden.contiguous(), router, logits, width, number, EXPERTS=_SCORED, BLOCK=min(block_of(width), 1024)
    )
    _kernels()["choose"][(len(hidden),)](
        logits, indices, weights, number, chosen, scale, EXPERTS=block_of(number), num_warps=1
    )
    return indices, weights


class Routing(NamedTuple):
    """Which rows there are, sorted by expert.

    Attributes:
        tokens: (S,) of each row.
        order: (S,) place of each row among the pairs of token and expert, as the tokens stand.
        places: (N, K) the other way round: where each pair's row is.
        ends: (E,) int32, where each expert's rows end.
    """

    tokens: torch.Tensor
    order: torch.Tensor
    places: torch.Tensor
    ends: torch.Tensor


def sort_by_expert(indices: torch.Tensor, number: int) -> Routing:
    """Return the rows of tokens that go to the experts ``indices`` (N, K), of so many experts (E)."""
    chosen, rows = indices.shape[1], indices.numel()
    if 0 < rows <= _FEW_ROWS and by_triton(indices):
        tokens, order, places = (torch.empty(rows, dtype=torch.long, device=indices.device) for _ in range(3))
        ends = torch.empty(number, dtype=torch.int32, device=indices.device)
        _kernels()["route"][(1,)](
            indices.contiguous(), tokens, order, places, ends, rows, chosen, number,
            ROWS=block_of(rows), EXPERTS=block_of(number),
        )  # fmt: skip
        return Routing(tokens, order, places.view(-1, chosen), ends)
    experts, order = torch.sort(indices.reshape(-1), stable=True)
    places = torch.empty_like(order).scatter_(0, order, torch.arange(rows, device=order.device))
    return Routing(order // chosen, order, places.view(-1, chosen), ends_of(experts, number))


def ends_of(groups: torch.Tensor, number: int) -> torch.Tensor:
    """Return (number,) int32, where the rows of each group end, from the sorted groups of all rows (S,)."""
    return torch.searchsorted(groups, torch.arange(number, device=groups.device), right=True).to(torch.int32)


def gated_product(gate_up: torch.Tensor) -> torch.Tensor:
    """Return ``silu(gate) * up`` (S, I) of both (S, 2 * I)."""
    if not by_triton(gate_up):
        first, second = gate_up.chunk(2, dim=-1)
        return functional.silu(first) * second
    rows, width = len(gate_up), gate_up.shape[1] // 2
    result = gate_up.new_empty(rows, width)
    if rows:
        _kernels()["gate"][(rows,)](gate_up, result, width, BLOCK=block_of(width))
    return result


def gated_product_backward(
    inner_grad: torch.Tensor, gate_up: torch.Tensor, weights: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the gradients of ``gate_up`` (S, 2 * I) and of ``weights`` (S,).

    Args:
        inner_grad: (S, I), of what the last product saw, for a weight of 1.
        gate_up: (S, 2 * I), as :func:`gated_product` took it.
        weights: (S,) float32 of each row in its token's sum.
    """
    rows, width = inner_grad.shape
    if not by_triton(gate_up):
        first, second = gate_up.float().chunk(2, dim=-1)
        sigmoid = first.sigmoid()
        silu, of_row = first * sigmoid, inner_grad.float()
        weights_grad = (of_row * silu * second).sum(-1)
        of_row = of_row * weights[:, None]
        both = torch.cat([of_row * second * (sigmoid + silu * (1 - sigmoid)), of_row * silu], dim=-1)
        return both.to(gate_up.dtype), weights_grad
    result = torch.empty_like(gate_up)
    weights_grad = weights.new_empty(rows)
    if rows:
        _kernels()["gate_backward"][(rows,)](
            inner_grad, gate_up, weights, result, weights_grad, width, BLOCK=block_of(width)
        )
    return result, weights_grad


def sum_of_experts(rows: torch.Tensor, places: torch.Tensor, weights: torch.Tensor | None = None) -> torch.Tensor:
    """Return for each token the sum of its rows (N, H), added in float32.

    Args:
        rows: (S, H) sorted by expert.
        places: (N, K), where each token's rows are.
        weights: (N, K) float32 of the rows in the sum; by default 1.
    """
    count, chosen = places.shape
    if not by_triton(rows):
        own = rows[places.reshape(-1)].view(count, chosen, -1).float()
        own = own if weights is None else own * weights[..., None]
        return own.sum(dim=1).to(rows.dtype)
    result = rows.new_empty(count, rows.shape[1])
    if count:
        _kernels()["combine"][(count,)](
            rows, places, places if weights is None else weights, result, chosen, rows.shape[1],
            WEIGHTED=weights is not None, BLOCK=block_of(rows.shape[1]),
        )  # fmt: skip
    return result


def by_triton(tensor: torch.Tensor) -> bool:
    """Return whether operations on a tensor like this one are left to kernels of ours."""
    # What is compiled is left to the compiler, which fuses the plain operations by itself.
    return tensor.is_cuda and not torch.compiler.is_compiling() and has_triton()


def block_of(width: int) -> int:
    """Return the power of two that holds so many numbers."""
    return 1 << (width - 1).bit_length()


@functools.cache
def _kernels() -> dict[str, Any]:
    """Return the Triton kernels; Triton is imported when there is work for it."""
    from deepsynth.models.kernels import experts_triton

    return {
        name: getattr(experts_triton, name) for name in ("score", "choose", "route", "gate", "gate_backward", "combine")
    }
