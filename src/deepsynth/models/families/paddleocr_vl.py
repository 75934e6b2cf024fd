"""PaddleOCR-VL: a SigLIP encoder at native resolution and the dense ERNIE-4.5-0.3B."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from deepsynth.metrics.otsl import OTSL_TOKENS
from deepsynth.models.family import PublishedModel
from deepsynth.models.native_resolution import NativeFamily

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, eq=False)
class PaddleOcrVLFamily(NativeFamily):
    """PaddleOCR-VL, which merges patches behind the encoder, and resamples learned positions to each image's grid."""

    def computed_of(self, grids: torch.Tensor, encoder: Any) -> dict[str, Any]:
        """Return what the encoder computes of grids; its patches stand row after row."""
        from transformers.vision_utils import get_vision_interpolation_indices_and_weights, get_vision_position_ids

        places = encoder.vision_model.embeddings
        indices, weights = get_vision_interpolation_indices_and_weights(
            grids,
            num_grid_per_side=places.num_grid_per_side,
            mode=places.interpolation_mode,
            align_corners=places.interpolation_align_corners,
        )
        return {
            **super().computed_of(grids, encoder),
            "position_ids": get_vision_position_ids(grids, 1),
            "interp_indices": indices,
            "interp_weights": weights,
        }


FAMILY = PaddleOcrVLFamily(
    name="paddleocr_vl",
    title="PaddleOCR-VL",
    model_types=("paddleocr_vl",),
    architectures=("PaddleOCRVLForConditionalGeneration",),
    published=(
        PublishedModel("PaddlePaddle/PaddleOCR-VL-1.6", "0.9 B", "Apache-2.0"),
        PublishedModel("PaddlePaddle/PaddleOCR-VL-1.5", "0.9 B", "Apache-2.0"),
        PublishedModel("PaddlePaddle/PaddleOCR-VL", "0.9 B", "Apache-2.0"),
    ),
    # https://huggingface.co/PaddlePaddle/PaddleOCR-VL; those of formulas and charts are for what was cut out.
    prompts={"transcribe": "<image>\nOCR:", "table": "<image>\nTable Recognition:"},
    # https://arxiv.org/abs/2510.14528
    tables="otsl",
    markup=OTSL_TOKENS,
    repeatable=("<ecel>", "<lcel>", "<ucel>", "<xcel>"),
    page_tokens="1260 (1 for 28 x 28 pixels, at most 1280)",
    projector=("model.projector",),
)
