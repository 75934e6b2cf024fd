"""Make transformers' Auto classes know DeepSeek-OCR."""

# mypy: disallow-subclassing-any=False

from __future__ import annotations

from typing import Any

from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    AutoProcessor,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedTokenizerFast,
)
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

# transformers 5.17 asks for torchvision when this name is taken from its top level.
from transformers.models.auto.image_processing_auto import AutoImageProcessor

from deepsynth.models.deepseek_ocr.checkpoint import register_conversion
from deepsynth.models.deepseek_ocr.configuration import DeepseekOcrConfig
from deepsynth.models.deepseek_ocr.image_processing import DeepseekOcrImageProcessor
from deepsynth.models.deepseek_ocr.modeling import DeepseekOcrForConditionalGeneration
from deepsynth.models.deepseek_ocr.processing import DeepseekOcrProcessor, DeepseekVLV2Processor
from deepsynth.models.deepseek_ocr.published import PUBLISHED_MODEL_TYPE, is_deepseek_ocr


class PublishedDeepseekConfig(PreTrainedConfig):
    """Stands for ``deepseek_vl_v2``, a type that several models share, and gives out DeepSeek-OCR's configuration."""

    model_type = PUBLISHED_MODEL_TYPE
    #: transformers' own class of that type, should a later version have one.
    others: Any = None

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """Return DeepSeek-OCR's configuration.

        Raises:
            ValueError: naming the model, when it is another and transformers does not know it either.
        """
        if cls.others is not None and not is_deepseek_ocr(config_dict):
            return cls.others.from_dict(config_dict, **kwargs)
        return DeepseekOcrConfig.from_dict(config_dict, **kwargs)


def register() -> None:
    """Register configuration, model, processor, tokenizer and weight conversion.

    May be called again. Of a later transformers that has these names itself, DeepSeek-OCR's are replaced and
    ``deepseek_vl_v2`` is asked for what is not DeepSeek-OCR.
    """
    # Its get() does not see what is registered.
    known = CONFIG_MAPPING[PUBLISHED_MODEL_TYPE] if PUBLISHED_MODEL_TYPE in CONFIG_MAPPING else None  # noqa: SIM401
    if known is not PublishedDeepseekConfig:
        PublishedDeepseekConfig.others = known
    AutoConfig.register(PUBLISHED_MODEL_TYPE, PublishedDeepseekConfig, exist_ok=True)
    AutoConfig.register(DeepseekOcrConfig.model_type, DeepseekOcrConfig, exist_ok=True)
    AutoModelForImageTextToText.register(DeepseekOcrConfig, DeepseekOcrForConditionalGeneration, exist_ok=True)
    AutoImageProcessor.register(
        DeepseekOcrConfig, image_processor_classes={"pil": DeepseekOcrImageProcessor}, exist_ok=True
    )
    AutoTokenizer.register(DeepseekOcrConfig, fast_tokenizer_class=PreTrainedTokenizerFast, exist_ok=True)
    AutoProcessor.register(DeepseekOcrConfig, DeepseekOcrProcessor, exist_ok=True)
    AutoProcessor.register(PublishedDeepseekConfig, DeepseekVLV2Processor, exist_ok=True)
    register_conversion()
