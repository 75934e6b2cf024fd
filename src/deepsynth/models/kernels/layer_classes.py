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


#: Layers of other models, by their folder in transformers and their class, and what they compute as: a layer of
#: DeepSeek-OCR-2, the same with both halves of the gate in one matrix (``FusedMLP``), or attention among patches.
_ALIKE = {
    "paddleocr_vl": {
        "PaddleOCRRMSNorm": "TextRMSNorm",
        "PaddleOCRMLP": "TextMLP",
        "PaddleOCRAttention": "TextAttention",
        "PaddleOCRVisionAttention": "PatchAttention",
    },
    "glm_ocr": {
        "GlmOcrRMSNorm": "TextRMSNorm",
        "GlmOcrTextMLP": "FusedMLP",
        "GlmOcrVisionMlp": "TextMLP",
        "GlmOcrVisionAttention": "PatchAttention",
    },
    "qwen2_5_vl": {
        "Qwen2_5_VLRMSNorm": "TextRMSNorm",
        "Qwen2MLP": "TextMLP",
        "Qwen2_5_VLMLP": "TextMLP",
        "Qwen2_5_VLAttention": "TextAttention",
        "Qwen2_5_VLVisionAttention": "PatchAttention",
    },
    "qwen3_vl": {
        "Qwen3VLVisionAttention": "PatchAttention",
    },
}


def computes_as(module: Any, name: str) -> bool:
    """Return whether a layer computes as the one of a name does, by its class or one that it is made from.

    Args:
        module: of any model.
        name: as for :func:`layer_classes`, or one of those that only other models have.
    """
    for own in type(module).__mro__:
        package, _, folder = own.__module__.partition("transformers.models.")
        if not package and folder:
            found = _ALIKE.get(folder.partition(".")[0], {}).get(own.__name__)
            if found is not None:
                return found == name
    return name not in _OTHERS and isinstance(module, layer_classes(name))


_OTHERS = ("FusedMLP", "PatchAttention")
