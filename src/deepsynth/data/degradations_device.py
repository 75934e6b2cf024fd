"""Degradations by what the page went through: file compression, copier, fax, scanner."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import cv2
import numpy as np

from deepsynth.data.degradations import (
    BoxArray,
    Degradation,
    ImageArray,
    as_uint8,
    check_range,
    draw,
)


@dataclass(frozen=True)
class Jpeg(Degradation):
    """Compress and decompress as JPEG.

    Attributes:
        quality: range of libjpeg's quality, 5 to 100.
    """

    probability: float = 1.0
    quality: tuple[float, float] = (40.0, 90.0)
    key: ClassVar[str] = "jpeg"

    def check(self) -> None:
        """Check the quality."""
        check_range(self, "quality", 5.0, 100.0)

    def __call__(
        self, image: ImageArray, boxes: BoxArray, rng: np.random.Generator
    ) -> tuple[ImageArray, BoxArray]:
        """Return the image as a JPEG file would give it back; boxes stay."""
        quality = [cv2.IMWRITE_JPEG_QUALITY, round(draw(rng, self.quality))]
        if image.ndim == 2:
            return as_uint8(cv2.imdecode(_encode(image, quality), cv2.IMREAD_GRAYSCALE)), boxes
        decoded = cv2.imdecode(_encode(cv2.cvtColor(image, cv2.COLOR_RGB2BGR), quality), cv2.IMREAD_COLOR)
        return as_uint8(cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB)), boxes


def _encode(image: ImageArray, quality: list[int]) -> ImageArray:
    done, data = cv2.imencode(".jpg", image, quality)
    if not done:
        raise RuntimeError(f"OpenCV {cv2.__version__} cannot write JPEG")
    return as_uint8(data)
