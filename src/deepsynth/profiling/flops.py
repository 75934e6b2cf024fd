"""How many floating-point operations a batch takes, and how many a second a device could do."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

#: Dense tensor-core peaks in bfloat16 (float16 where the chip has no bfloat16) with float32 accumulation, TFLOP/s, by a
#: part of the device's name, the longer names first. From NVIDIA's data sheets; those with sparsity are halved.
PEAK_TFLOPS: dict[str, float] = {
    "B200": 2250.0,
    "GH200": 989.4,
    "H200 NVL": 835.5,
    "H200": 989.4,
    "H100 NVL": 835.5,
    "H100 PCIe": 756.0,
    "H100": 989.4,
    "A100": 312.0,
    "A40": 149.7,
    "A10G": 70.0,
    "A10": 125.0,
    "L40S": 362.0,
    "L40": 181.0,
    "L4": 121.0,
    "RTX A6000": 154.8,
    "RTX 4090": 165.2,
    "RTX 3090": 71.0,
    "V100": 125.0,
    "T4": 65.0,
}


def peak_flops(device_name: str, dtype: torch.dtype) -> float | None:
    """Return the FLOP/s that a device could do at most; ``None`` when that is not known.

    Args:
        device_name: as :func:`torch.cuda.get_device_name` gives it.
        dtype: of the weights; only for the 16-bit types is there one answer.
    """
    if dtype not in (torch.bfloat16, torch.float16):
        return None
    words = device_name.replace("-", " ")
    return next((peak * 1e12 for name, peak in PEAK_TFLOPS.items() if f" {name} " in f" {words} "), None)


def flop_counter() -> FlopCounterMode:
    """Return PyTorch's counter of matrix products, convolutions and attention, grouped products of experts included."""
    # The operator is private in PyTorch and may be gone in another release; then there is nothing of it to count.
    grouped = getattr(torch.ops.aten, "_grouped_mm", None)
    return FlopCounterMode(display=False, custom_mapping={grouped: _grouped_mm_flop} if grouped is not None else {})


def _grouped_mm_flop(a: Any, b: Any, *args: Any, **kwargs: Any) -> int:
    """Return the FLOPs of ``_grouped_mm`` from the shapes of its operands: rows or columns are dealt out to groups.

    (T, K) x (E, K, N), (M, T) x (T, N) summed per group, (E, M, K) x (E, K, N), or (E, M, K) x (K, T).
    """
    groups = a[0] if len(a) == len(b) == 3 else 1
    return int(2 * groups * a[-2] * a[-1] * b[-1])
