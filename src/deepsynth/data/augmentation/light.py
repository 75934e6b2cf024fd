"""Degradations of the light: shadows, uneven light, a color cast."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import cv2
import numpy as np

from deepsynth.data.augmentation.base import (
    BoxArray,
    Degradation,
    Field,
    ImageArray,
    Limits,
    as_uint8,
    draw,
    draw_signed,
    enlarge,
    shade,
    to_rgb,
)

_FIELD_NODES = 96  # light changes slowly: fields are computed on so many points a side and enlarged


@dataclass(frozen=True)
class Shadow(Degradation):
    """Cast the soft-edged shadow of a hand or a device over a part of the page.

    Attributes:
        depth: range of how much darker the shadow is, 0 to 0.7.
        softness: range of the width of its edge, as a share of the page's smaller side, 0.01 to 0.5.
    """

    probability: float = 1.0
    depth: tuple[float, float] = (0.1, 0.4)
    softness: tuple[float, float] = (0.05, 0.25)
    key: ClassVar[str] = "shadow"
    limits: ClassVar[Limits] = {"depth": (0.0, 0.7), "softness": (0.01, 0.5)}

    def __call__(self, image: ImageArray, boxes: BoxArray, rng: np.random.Generator) -> tuple[ImageArray, BoxArray]:
        """Return the shadowed page; boxes stay."""
        depth, softness = draw(rng, self.depth), draw(rng, self.softness)
        across, down = _directions(rng.uniform(0, 2 * np.pi))
        beyond_edge = (across + draw_signed(rng, (0.0, 0.1)) * np.sin(3 * down) - rng.uniform(-0.3, 0.3)) / softness
        return shade(image, enlarge(1 - depth * np.clip(0.5 + beyond_edge, 0, 1), image.shape)), boxes


@dataclass(frozen=True)
class UnevenLight(Degradation):
    """Light the page from one side, or from the middle.

    Attributes:
        depth: range of how much darker the darkest place is, 0 to 0.7.
    """

    probability: float = 1.0
    depth: tuple[float, float] = (0.1, 0.4)
    key: ClassVar[str] = "uneven_light"
    limits: ClassVar[Limits] = {"depth": (0.0, 0.7)}

    def __call__(self, image: ImageArray, boxes: BoxArray, rng: np.random.Generator) -> tuple[ImageArray, BoxArray]:
        """Return the unevenly lit page; boxes stay."""
        depth = draw(rng, self.depth)
        across, down = _directions(rng.uniform(0, 2 * np.pi))
        if rng.random() < 0.5:
            distance = across + 0.5
        else:
            distance = 2 * ((across - rng.uniform(-0.25, 0.25)) ** 2 + (down - rng.uniform(-0.25, 0.25)) ** 2)
        return shade(image, enlarge(1 - depth * np.clip(distance, 0, 1), image.shape)), boxes


@dataclass(frozen=True)
class ColorCast(Degradation):
    """Tint the page by light that is not white: yellowish as a lamp's, or bluish as the sky's.

    Attributes:
        strength: range of how much the weakest channel loses, 0 to 0.5.
    """

    probability: float = 1.0
    strength: tuple[float, float] = (0.03, 0.2)
    key: ClassVar[str] = "color_cast"
    limits: ClassVar[Limits] = {"strength": (0.0, 0.5)}

    def __call__(self, image: ImageArray, boxes: BoxArray, rng: np.random.Generator) -> tuple[ImageArray, BoxArray]:
        """Return the tinted page, in color; boxes stay."""
        strength = draw(rng, self.strength)
        warm, green = rng.random() < 0.6, rng.uniform(0.2, 0.6)  # lamps and skies lie between yellow and blue
        losses = strength * np.array([0.0, green, 1.0] if warm else [1.0, green, 0.0])
        gains = np.arange(256)[:, None] * (1 - losses)
        table = np.rint(gains).astype(np.uint8).reshape(1, 256, 3)
        return as_uint8(cv2.LUT(to_rgb(image), table)), boxes


def _directions(angle: float) -> tuple[Field, Field]:
    """Return two coordinates of the page, -0.5 to 0.5 and more in the corners, turned by the angle: coarse, float64."""
    x, y = np.meshgrid(np.linspace(-0.5, 0.5, _FIELD_NODES), np.linspace(-0.5, 0.5, _FIELD_NODES))
    cos, sin = np.cos(angle), np.sin(angle)
    return x * cos + y * sin, y * cos - x * sin
