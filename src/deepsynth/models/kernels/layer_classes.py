"""Layers of transformers that are the same in DeepSeek-OCR-2 and Unlimited-OCR, which has copies of its classes."""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from typing import Any


@cache
def layer_classes(name: str) -> tuple[type[Any], ...]:
    """Return both models' classes of a layer; the second is not in every release of transformers.

    Args:
        name: behind the name of the model, such as ``TextMLP``.
    """
    from transformers.models.deepseek_ocr2 import modeling_deepseek_ocr2 as second

    found = [getattr(second, f"DeepseekOcr2{name}")]
    if find_spec("transformers.models.unlimited_ocr"):
        from transformers.models.unlimited_ocr import modeling_unlimited_ocr as unlimited

        found.append(getattr(unlimited, f"UnlimitedOcr{name}"))
    return tuple(found)
