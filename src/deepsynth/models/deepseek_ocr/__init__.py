"""DeepSeek-OCR (the first version) as a native transformers model."""

from __future__ import annotations

from deepsynth.models.deepseek_ocr.configuration import DeepseekOcrConfig, DeepseekOcrVisionConfig
from deepsynth.models.deepseek_ocr.modeling import DeepseekOcrForConditionalGeneration, DeepseekOcrModel

__all__ = ["DeepseekOcrConfig", "DeepseekOcrForConditionalGeneration", "DeepseekOcrModel", "DeepseekOcrVisionConfig"]
