"""Qwen3-VL: an encoder at native resolution, features of whose layers the first layers of a dense Qwen3 add."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from deepsynth.models.family import PublishedModel
from deepsynth.models.native_resolution import NativeFamily, pages_only

if TYPE_CHECKING:
    import torch


@cache
def _processor() -> Any:
    from transformers.models.qwen3_vl.processing_qwen3_vl import Qwen3VLProcessor

    return pages_only(Qwen3VLProcessor)


@dataclass(frozen=True, eq=False)
class Qwen3VLFamily(NativeFamily):
    """Qwen3-VL with a dense decoder.

    A feature is what stands in the decoder's input, and behind it what its first layers add (DeepStack, Meng et al.
    2024, https://arxiv.org/abs/2406.04334).
    """

    def processor_class(self) -> Any:
        """Return the class of the processor."""
        return _processor()

    def image_features(self, model: Any, images: Mapping[str, Any]) -> list[torch.Tensor]:
        """Return the features (tokens, H * (1 + layers)) of each image."""
        import torch

        found = self.encode(model, images)
        # transformers 5.17 leaves those of the layers together.
        layers = [part if isinstance(part, torch.Tensor) else torch.cat(part) for part in found.deepstack_features]
        inputs = list(found.pooler_output)
        return list(torch.split(torch.cat([torch.cat(inputs), *layers], dim=-1), [len(image) for image in inputs]))

    def computed_of(self, grids: torch.Tensor, encoder: Any) -> dict[str, Any]:
        """Return what the encoder computes of grids; it resamples learned positions to each image's grid."""
        from transformers.vision_utils import get_vision_interpolation_indices_and_weights

        indices, weights = get_vision_interpolation_indices_and_weights(
            grids,
            num_grid_per_side=encoder.num_grid_per_side,
            mode=encoder.interpolation_mode,
            align_corners=encoder.interpolation_align_corners,
            spatial_merge_size=encoder.config.spatial_merge_size,
        )
        return {**super().computed_of(grids, encoder), "interp_indices": indices, "interp_weights": weights}


FAMILY = Qwen3VLFamily(
    name="qwen3_vl",
    title="Qwen3-VL",
    model_types=("qwen3_vl",),
    architectures=("Qwen3VLForConditionalGeneration",),
    published=(
        PublishedModel("Qwen/Qwen3-VL-2B-Instruct", "2.1 B", "Apache-2.0"),
        PublishedModel("Qwen/Qwen3-VL-4B-Instruct", "4.4 B", "Apache-2.0"),
        PublishedModel("Qwen/Qwen3-VL-8B-Instruct", "8.8 B", "Apache-2.0"),
    ),
    projector=("model.visual.merger", "model.visual.deepstack_merger_list"),
    page_tokens="2145 (1 for 32 x 32 pixels)",
)
