"""DeepSeek-OCR (the first version) as a native transformers model."""

from __future__ import annotations

from deepsynth.models.deepseek_ocr.configuration import DeepseekOcrConfig, DeepseekOcrVisionConfig
from deepsynth.models.deepseek_ocr.image_processing import DeepseekOcrImageProcessor
from deepsynth.models.deepseek_ocr.modeling import DeepseekOcrForConditionalGeneration, DeepseekOcrModel
from deepsynth.models.deepseek_ocr.processing import DeepseekOcrProcessor

__all__ = [
    "DeepseekOcrConfig",
    "DeepseekOcrForConditionalGeneration",
    "DeepseekOcrImageProcessor",
    "DeepseekOcrModel",
    "DeepseekOcrProcessor",
    "DeepseekOcrVisionConfig",
]
