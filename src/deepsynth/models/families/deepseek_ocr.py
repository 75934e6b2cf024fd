"""DeepSeek-OCR: SAM and CLIP, a decoder of experts, in this package's own classes."""

from __future__ import annotations

from deepsynth.models.family import PublishedModel
from deepsynth.models.tokens import MODES
from deepsynth.models.view_family import ViewFamily

FAMILY = ViewFamily(
    name="deepseek_ocr",
    title="DeepSeek-OCR",
    model_types=("deepseek_ocr",),
    architectures=("DeepseekOcrForConditionalGeneration", "DeepseekOCRForCausalLM"),
    published=(PublishedModel("deepseek-ai/DeepSeek-OCR", "3.3 B", "MIT"),),
    modes=MODES["deepseek_ocr"],
)
