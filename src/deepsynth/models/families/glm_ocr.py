"""GLM-OCR: the CogViT encoder at native resolution and the dense GLM-0.5B."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any

from deepsynth.models.family import PublishedModel, Scope, decoder_scopes
from deepsynth.models.native_resolution import NativeFamily, pages_only

if TYPE_CHECKING:
    from collections.abc import Mapping


@cache
def _processor() -> Any:
    from transformers.models.glm46v.processing_glm46v import Glm46VProcessor

    return pages_only(Glm46VProcessor)


@dataclass(frozen=True, eq=False)
class GlmOcrFamily(NativeFamily):
    """GLM-OCR, whose layers have both halves of the gate in one matrix."""

    lora: Mapping[Scope, str] = field(
        default_factory=lambda: decoder_scopes(r"model\.language_model\.layers\.\d+", "gate_up_proj|down_proj")
    )

    def processor_class(self) -> Any:
        """Return the class of the processor."""
        return _processor()


FAMILY = GlmOcrFamily(
    name="glm_ocr",
    title="GLM-OCR",
    model_types=("glm_ocr",),
    architectures=("GlmOcrForConditionalGeneration",),
    published=(PublishedModel("zai-org/GLM-OCR", "0.9 B", "MIT"),),
    # https://huggingface.co/zai-org/GLM-OCR; "Formula Recognition:" is for a formula that was cut out.
    prompts={"transcribe": "<image>\nText Recognition:", "table": "<image>\nTable Recognition:"},
)
