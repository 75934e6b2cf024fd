"""LoRA's two products on few rows, as when a model writes: in one kernel on CUDA, in plain torch elsewhere.

    N  rows      I, O  inputs and outputs of the layer      r  LoRA rank

For a token of 16 texts torch takes four kernels that have next to nothing to do.
"""

from __future__ import annotations

import torch

from deepsynth.models.expert_kernels import block_of, by_triton

#: Up to so many rows; each 16 of them read both factors.
_FEW_ROWS = 64


def add_product(base: torch.Tensor, x: torch.Tensor, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """Return ``base + x A^T B^T``, and what is in ``base`` may be lost; for reading, without gradients.

    Args:
        base: (..., O), which nobody else reads.
        x: (..., I) in the same dtype.
        left: A (r, I) in the same dtype.
        right: B (O, r) in the same dtype, times the scale.
    """
    rank, inputs = left.shape
    rows, flat = x.reshape(-1, inputs), base.reshape(-1, base.shape[-1])
    halves = x.dtype in (torch.bfloat16, torch.float16) and base.dtype == left.dtype == x.dtype
    if not (0 < len(rows) <= _FEW_ROWS and rank <= 128 and halves and base.is_contiguous() and by_triton(x)):
        return torch.addmm(flat, rows @ left.T, right.T).view(base.shape)
    from deepsynth.models.adapter_triton import add_product as kernel

    outputs, columns = flat.shape[1], 64
    read = min(max(block_of(inputs), 16), 128 if rank <= 32 else 32)  # at once; small GPUs have 100 kB for all stages
    kernel[(-(-outputs // columns), -(-len(rows) // 16))](
        flat, rows.contiguous(), left.contiguous(), right.contiguous(), len(rows), inputs, outputs, rank,
        ROWS=16, RANK=max(block_of(rank), 16), INPUTS=read, OUTPUTS=columns,
        num_warps=4, num_stages=4,
    )  # fmt: skip
    return base
