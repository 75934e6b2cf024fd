"""Make transformers' Auto classes know DeepSeek-OCR.

Names that transformers has itself are left to it: its classes are what others load. The environment variable
``DEEPSYNTH_OWN_CLASSES=1`` asks for this package's all the same. One line says which of the two a process uses.
"""

# mypy: disallow-subclassing-any=False

from __future__ import annotations

import logging
import os
from functools import cache
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

from deepsynth.errors import UserError
from deepsynth.models.deepseek_ocr.checkpoint import register_conversion
from deepsynth.models.deepseek_ocr.configuration import DeepseekOcrConfig
from deepsynth.models.deepseek_ocr.image_processing import DeepseekOcrImageProcessor
from deepsynth.models.deepseek_ocr.modeling import DeepseekOcrForConditionalGeneration
from deepsynth.models.deepseek_ocr.processing import DeepseekOcrProcessor, DeepseekVLV2Processor
from deepsynth.models.deepseek_ocr.published import PUBLISHED_MODEL_TYPE, is_deepseek_ocr

log = logging.getLogger(__name__)

#: Set to 1, this package's classes are used for names that transformers has too.
OWN_CLASSES = "DEEPSYNTH_OWN_CLASSES"


class PublishedDeepseekConfig(PreTrainedConfig):
    """Stands for ``deepseek_vl_v2``, a type that several models share, and gives out DeepSeek-OCR's configuration."""

    model_type = PUBLISHED_MODEL_TYPE
    #: transformers' own class of that type, which this one was asked to replace.
    others: Any = None

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """Return DeepSeek-OCR's configuration.

        Raises:
            ValueError: naming the model, when it is another and transformers does not know it either.
            UserError: where transformers' classes stand for DeepSeek-OCR, which do not read this format.
        """
        if cls.others is not None and not is_deepseek_ocr(config_dict):
            return cls.others.from_dict(config_dict, **kwargs)
        config = DeepseekOcrConfig.from_dict(config_dict, **kwargs)
        if DeepseekOcrConfig.model_type in names_of_transformers() and not asked_for_own_classes():
            raise UserError(
                "config.json is DeepSeek-OCR in its published format, and this transformers has classes of its own "
                f"for the model, but none for the format; set {OWN_CLASSES}=1 to load it with DeepSynth's classes"
            )
        return config


def asked_for_own_classes() -> bool:
    """Return whether this package's classes are to replace those of transformers."""
    return os.environ.get(OWN_CLASSES) == "1"


def names_of_transformers() -> list[str]:
    """Return the model types of DeepSeek-OCR that the installed transformers has itself, or anybody has registered."""
    own = {DeepseekOcrConfig.model_type: DeepseekOcrConfig, PUBLISHED_MODEL_TYPE: PublishedDeepseekConfig}
    # Its get() does not see what is registered.
    found = {name: CONFIG_MAPPING[name] for name in own if name in CONFIG_MAPPING}
    return [name for name, config in found.items() if config is not own[name]]


def register() -> None:
    """Register configuration, model, processor, tokenizer and weight conversion under the names that are free.

    May be called again. Where ``DEEPSYNTH_OWN_CLASSES`` is 1, names of transformers are replaced, and
    ``deepseek_vl_v2`` is asked for what is not DeepSeek-OCR.
    """
    taken = names_of_transformers()
    own = asked_for_own_classes()
    if taken:
        name_classes_once(tuple(taken), own)
    if own or PUBLISHED_MODEL_TYPE not in taken:
        if PUBLISHED_MODEL_TYPE in taken:
            PublishedDeepseekConfig.others = CONFIG_MAPPING[PUBLISHED_MODEL_TYPE]
        AutoConfig.register(PUBLISHED_MODEL_TYPE, PublishedDeepseekConfig, exist_ok=True)
        AutoProcessor.register(PublishedDeepseekConfig, DeepseekVLV2Processor, exist_ok=True)
    if not own and DeepseekOcrConfig.model_type in taken:
        return
    AutoConfig.register(DeepseekOcrConfig.model_type, DeepseekOcrConfig, exist_ok=True)
    AutoModelForImageTextToText.register(DeepseekOcrConfig, DeepseekOcrForConditionalGeneration, exist_ok=True)
    AutoImageProcessor.register(
        DeepseekOcrConfig, image_processor_classes={"pil": DeepseekOcrImageProcessor}, exist_ok=True
    )
    AutoTokenizer.register(DeepseekOcrConfig, fast_tokenizer_class=PreTrainedTokenizerFast, exist_ok=True)
    AutoProcessor.register(DeepseekOcrConfig, DeepseekOcrProcessor, exist_ok=True)
    register_conversion()


@cache
def name_classes_once(taken: tuple[str, ...], own: bool) -> None:
    """Log whose classes this process uses."""
    names = " and ".join(taken)
    if own:
        log.warning("DeepSynth's classes replace those that transformers has for %s (%s=1)", names, OWN_CLASSES)
    else:
        log.warning("transformers' own classes are used for %s; %s=1 uses DeepSynth's", names, OWN_CLASSES)
