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


def losses_and_gradient(
    logits: torch.Tensor, labels: torch.Tensor, *, gradient: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the cross entropy (N,) of each row, in float32, and the gradients of their sum, in place of the logits.

    liger-kernel's own loss also divides by the number of labels, which it reads from the device.

    Args:
        logits: (N, words), contiguous.
        labels: (N,), contiguous; each counts.
        gradient: whether the gradients are wanted; otherwise the logits stay.
    """
    from liger_kernel.ops.cross_entropy import MAX_FUSED_SIZE, liger_cross_entropy_kernel

    rows, words = logits.shape
    losses = torch.zeros(rows, dtype=torch.float32, device=logits.device)
    unused = {"weight_ptr": None, "z_loss_ptr": None, "token_accuracy_ptr": None, "predicted_tokens_ptr": None}
    counts = {"n_non_ignore": rows, "sum_non_ignore_weight": rows, "weight_sum": 0.0}  # of the mean, not of the sum
    plain = {"ignore_index": -100, "label_smoothing": 0.0, "lse_square_scale": 0.0, "softcap": None, "reduction": "sum"}
    liger_cross_entropy_kernel[(rows,)](
        X_ptr=logits,
        X_stride=logits.stride(0),
        Y_ptr=labels,
        Y_stride=1,
        loss_ptr=losses,
        loss_stride=1,
        token_accuracy_stride=0,
        predicted_tokens_stride=0,
        n_cols=words,
        RETURN_Z_LOSS=False,
        RETURN_TOKEN_ACCURACY=False,
        RETURN_PREDICTED_TOKENS=False,
        HAS_WEIGHT=False,
        HAS_SOFTCAPPING=False,
        HAS_GRADIENTS=gradient,
        BLOCK_SIZE=min(MAX_FUSED_SIZE, 1 << (words - 1).bit_length()),  # a power of two
        num_warps=32,
        **unused,
        **counts,
        **plain,
    )
    return losses, logits
