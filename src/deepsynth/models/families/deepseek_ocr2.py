"""DeepSeek-OCR-2: SAM and a Qwen2 encoder with learned queries, the same decoder, in transformers' classes."""

from __future__ import annotations

from deepsynth.models.family import PublishedModel
from deepsynth.models.tokens import MODES
from deepsynth.models.view_family import ViewFamily

FAMILY = ViewFamily(
    name="deepseek_ocr2",
    title="DeepSeek-OCR-2",
    model_types=("deepseek_ocr2",),
    architectures=("DeepseekOcr2ForConditionalGeneration",),
    published=(PublishedModel("deepseek-community/DeepSeek-OCR-2", "3.4 B", "Apache-2.0"),),
    modes=MODES["deepseek_ocr2"],
)
