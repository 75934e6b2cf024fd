"""Unlimited-OCR's views by PIL alone; transformers has its image processor, of the same name, for torchvision only."""

# mypy: disallow-subclassing-any=False

from __future__ import annotations

from typing import Any

from PIL import Image
from transformers import BatchFeature

from deepsynth.models.deepseek_ocr.image_processing import DeepseekOcrImageProcessor, DeepseekOcrImageProcessorKwargs


class UnlimitedOcrImageProcessorKwargs(DeepseekOcrImageProcessorKwargs, total=False):  # type: ignore[call-arg]
    """What a call may change; the attributes of :class:`UnlimitedOcrImageProcessor` say what each is."""

    maximum_pad_value: int


class UnlimitedOcrImageProcessor(DeepseekOcrImageProcessor):
    """Make the views of Unlimited-OCR: those of DeepSeek-OCR, with up to 32 tiles.

    Attributes:
        maximum_pad_value: a global view without tiles is stretched up to this side, and padded beyond, pixels.
    """

    valid_kwargs = UnlimitedOcrImageProcessorKwargs
    max_patches = 32
    maximum_pad_value = 640

    def _preprocess(
        self, images: list[Image.Image], *args: Any, maximum_pad_value: int = 640, **kwargs: Any
    ) -> BatchFeature:
        """Return the views of all images; see :class:`DeepseekOcrImageProcessor`."""
        side = max(kwargs["size"].height, kwargs["size"].width)
        stretches = not kwargs["crop_to_patches"] and side <= maximum_pad_value
        return super()._preprocess(images, *args, **{**kwargs, "stretch": stretches})

    def to_dict(self) -> dict[str, Any]:
        """Return the settings under the names of transformers' image processor, which reads them as well."""
        return {name: value for name, value in super().to_dict().items() if name != "stretch"}
