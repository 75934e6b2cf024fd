"""liger-kernel's operations, called in one place: their arguments are positions in a list, which changes with releases.

Its modules would replace those of transformers; the functions under them, which are used here, are not documented.
"""

from __future__ import annotations

import importlib.util
from functools import cache

import torch


@cache
def is_installed() -> bool:
    """Return whether liger-kernel is installed."""
    return importlib.util.find_spec("liger_kernel") is not None


def rms_norm(hidden: torch.Tensor, weight: torch.Tensor, epsilon: float) -> torch.Tensor:
    """Return the root-mean-square norm of ``hidden`` (..., H), as in Llama: scaled in the dtype of ``hidden``."""
    from liger_kernel.ops.rms_norm import LigerRMSNormFunction

    offset, casting = 0.0, "llama"
    in_place = False  # what comes from above may be a residual's gradient as well
    normalized: torch.Tensor = LigerRMSNormFunction.apply(hidden, weight, epsilon, offset, casting, in_place)
    return normalized


def silu_product(gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    """Return ``silu(gate) * up``."""
    from liger_kernel.ops.swiglu import LigerSiLUMulFunction

    product: torch.Tensor = LigerSiLUMulFunction.apply(gate, up)
    return product


def rotate(
    query: torch.Tensor, key: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Rotate queries and keys (B, heads, T, D) by their positions, in place, and return them."""
    from liger_kernel.ops.rope import LigerRopeFunction

    rotated: tuple[torch.Tensor, torch.Tensor] = LigerRopeFunction.apply(query, key, cos, sin)
    return rotated


def linear_cross_entropy(
    hidden: torch.Tensor, weight: torch.Tensor, labels: torch.Tensor, *, budget: int
) -> torch.Tensor:
    """Return the mean cross entropy of ``hidden @ weight.T`` (N, words), a chunk of rows at a time.

    Args:
        hidden: (N, H).
        weight: (words, H).
        labels: (N,).
        budget: how many times the memory of ``hidden`` the logits of a chunk may take.
    """
    from liger_kernel.transformers.functional import liger_fused_linear_cross_entropy

    loss: torch.Tensor = liger_fused_linear_cross_entropy(hidden, weight, labels, chunk_mem_const=budget)
    return loss
