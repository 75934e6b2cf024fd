"""Make transformers' Auto classes load Unlimited-OCR without torchvision, and by its published model type."""

# mypy: disallow-subclassing-any=False

from __future__ import annotations

from typing import Any

from transformers import AutoConfig, PreTrainedConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING
from transformers.utils import is_torchvision_available

MODEL_TYPE = "unlimited_ocr"
PUBLISHED_MODEL_TYPE = "unlimited-ocr"


class PublishedUnlimitedOcrConfig(PreTrainedConfig):
    """Stands for the type that the published files have, and gives out transformers' own configuration."""

    model_type = PUBLISHED_MODEL_TYPE

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """Return transformers' configuration of Unlimited-OCR, which knows the fields of the published one."""
        native: Any = CONFIG_MAPPING[MODEL_TYPE]
        return native.from_dict({**config_dict, "model_type": MODEL_TYPE}, **kwargs)


def register() -> None:
    """Register what transformers lacks; nothing where it does not have the model. May be called again."""
    if MODEL_TYPE not in CONFIG_MAPPING:
        return
    if PUBLISHED_MODEL_TYPE not in CONFIG_MAPPING:
        AutoConfig.register(PUBLISHED_MODEL_TYPE, PublishedUnlimitedOcrConfig)
    if not is_torchvision_available():
        from deepsynth.models.unlimited_ocr.image_processing import UnlimitedOcrImageProcessor

        # AutoImageProcessor.register would keep what transformers has, which is no class without torchvision.
        IMAGE_PROCESSOR_MAPPING.register(CONFIG_MAPPING[MODEL_TYPE], {"pil": UnlimitedOcrImageProcessor}, exist_ok=True)
