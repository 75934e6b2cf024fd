"""Qwen2.5-VL: an encoder with windows at native resolution and a dense Qwen2.5."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from deepsynth.models.family import PublishedModel
from deepsynth.models.native_resolution import NativeFamily, pages_only

if TYPE_CHECKING:
    import torch


@cache
def _processor() -> Any:
    from transformers.models.qwen2_5_vl.processing_qwen2_5_vl import Qwen2_5_VLProcessor

    return pages_only(Qwen2_5_VLProcessor)


@dataclass(frozen=True, eq=False)
class Qwen25VLFamily(NativeFamily):
    """Qwen2.5-VL, and the OCR models that are fine-tuned from it."""

    def processor_class(self) -> Any:
        """Return the class of the processor."""
        return _processor()

    def computed_of(self, grids: torch.Tensor, encoder: Any) -> dict[str, Any]:
        """Return what the encoder computes of grids; it attends within windows too."""
        from transformers.vision_utils import get_vision_window_index

        vision = encoder.config
        order, bounds = get_vision_window_index(grids, vision.spatial_merge_size, vision.window_size, vision.patch_size)
        return {
            **super().computed_of(grids, encoder),
            "window_index": order,
            "cu_window_seqlens": bounds,
            "max_window_seqlen": int(bounds.diff().max()),
        }


FAMILY = Qwen25VLFamily(
    name="qwen2_5_vl",
    title="Qwen2.5-VL",
    model_types=("qwen2_5_vl",),
    architectures=("Qwen2_5_VLForConditionalGeneration",),
    published=(
        PublishedModel("Qwen/Qwen2.5-VL-3B-Instruct", "3.8 B", "Qwen Research License"),
        PublishedModel("Qwen/Qwen2.5-VL-7B-Instruct", "8.3 B", "Apache-2.0"),
    ),
)
