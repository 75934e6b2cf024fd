"""Degradations of the ink: it bleeds, fades, breaks, or speckles."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import cv2
import numpy as np

from deepsynth.data.augmentation.base import (
    BoxArray,
    Degradation,
    ImageArray,
    Limits,
    as_uint8,
    background_color,
    draw,
    fade_to,
    is_light,
    noise_window,
    soft_field,
)


@dataclass(frozen=True)
class InkBleed(Degradation):
    """Let the ink spread into the paper by a pixel.

    Attributes:
        amount: range of how much of the spread is seen, 0 to 1.
    """

    probability: float = 1.0
    amount: tuple[float, float] = (0.2, 0.6)
    key: ClassVar[str] = "ink_bleed"
    limits: ClassVar[Limits] = {"amount": (0.0, 1.0)}

    def __call__(self, image: ImageArray, boxes: BoxArray, rng: np.random.Generator) -> tuple[ImageArray, BoxArray]:
        """Return the page with heavier strokes; boxes stay."""
        amount = draw(rng, self.amount)
        square = np.ones((3, 3), np.uint8)
        spread = cv2.erode(image, square) if is_light(background_color(image)) else cv2.dilate(image, square)
        amount = round(256 * amount) / 256  # exact in float32, on every processor
        return as_uint8(cv2.addWeighted(image, 1 - amount, spread, amount, 0)), boxes


@dataclass(frozen=True)
class InkFade(Degradation):
    """Fade the ink towards the paper's color, unevenly over the page.

    Attributes:
        amount: range within which the faded share lies over the page, 0 to 0.8.
    """

    probability: float = 1.0
    amount: tuple[float, float] = (0.1, 0.5)
    key: ClassVar[str] = "ink_fade"
    limits: ClassVar[Limits] = {"amount": (0.0, 0.8)}

    def __call__(self, image: ImageArray, boxes: BoxArray, rng: np.random.Generator) -> tuple[ImageArray, BoxArray]:
        """Return the page with paler ink; boxes stay."""
        faded = soft_field(rng, image.shape, int(rng.integers(2, 6)), self.amount)
        return fade_to(image, background_color(image), faded), boxes


@dataclass(frozen=True)
class BrokenStrokes(Degradation):
    """Break strokes where specks of the ink are missing.

    Attributes:
        share: range of the page's share that takes no ink, 0 to 0.15.
        amount: how much of the ink is missing there, 0 to 1.
    """

    probability: float = 1.0
    share: tuple[float, float] = (0.01, 0.06)
    amount: float = 0.7
    key: ClassVar[str] = "broken_strokes"
    limits: ClassVar[Limits] = {"share": (0.0, 0.15), "amount": (0.0, 1.0)}

    def __call__(self, image: ImageArray, boxes: BoxArray, rng: np.random.Generator) -> tuple[ImageArray, BoxArray]:
        """Return the page with gaps in its strokes; boxes stay."""
        specks = cv2.GaussianBlur(noise_window(image.shape[:2], rng), (3, 3), 0.8)
        counts = np.cumsum(np.bincount(specks[::4, ::4].ravel(), minlength=256))
        level = int(np.searchsorted(counts, draw(rng, self.share) * counts[-1]))
        missing = cv2.threshold(specks, level, round(255 * self.amount), cv2.THRESH_BINARY_INV)[1]
        return fade_to(image, background_color(image), as_uint8(missing)), boxes


@dataclass(frozen=True)
class SaltAndPepper(Degradation):
    """Scatter white and black specks.

    Attributes:
        share: range of the page's share of specked pixels, 0 to 0.05.
    """

    probability: float = 1.0
    share: tuple[float, float] = (0.0005, 0.004)
    key: ClassVar[str] = "salt_and_pepper"
    limits: ClassVar[Limits] = {"share": (0.0, 0.05)}

    def __call__(self, image: ImageArray, boxes: BoxArray, rng: np.random.Generator) -> tuple[ImageArray, BoxArray]:
        """Return the specked page; boxes stay."""
        height, width = image.shape[:2]
        count = int(draw(rng, self.share) * height * width)
        specked = image.copy()
        rows, columns = rng.integers(height, size=count), rng.integers(width, size=count)
        specked[rows[::2], columns[::2]] = 255
        specked[rows[1::2], columns[1::2]] = 0
        return specked, boxes
