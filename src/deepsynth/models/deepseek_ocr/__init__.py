"""DeepSeek-OCR (the first version) as a native transformers model."""

from __future__ import annotations

# First, so that the registration which follows it (see deepsynth.models) does not meet half of a module below.
import transformers  # noqa: F401

from deepsynth.models.deepseek_ocr.configuration import DeepseekOcrConfig, DeepseekOcrVisionConfig
from deepsynth.models.deepseek_ocr.image_processing import DeepseekOcrImageProcessor, rgb_page
from deepsynth.models.deepseek_ocr.modeling import DeepseekOcrForConditionalGeneration, DeepseekOcrModel
from deepsynth.models.deepseek_ocr.processing import DeepseekOcrProcessor
from deepsynth.models.deepseek_ocr.tiny import tiny_config

__all__ = [
    "DeepseekOcrConfig",
    "DeepseekOcrForConditionalGeneration",
    "DeepseekOcrImageProcessor",
    "DeepseekOcrModel",
    "DeepseekOcrProcessor",
    "DeepseekOcrVisionConfig",
    "rgb_page",
    "tiny_config",
]
