"""Degradations of the paper: its texture, stains, and the print on its back."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import ClassVar

import cv2
import numpy as np

from deepsynth.data.augmentation.base import (
    BoxArray,
    Degradation,
    ImageArray,
    Limits,
    add_share,
    as_uint8,
    background_color,
    draw,
    enlarge,
    is_light,
    random_window,
    shade,
    smooth,
    to_gray,
    to_rgb,
)

_TEXTURES = 4  # a page takes a random window of one of these, made once a process: 1 ms instead of 100
_TEXTURE_SIDE = 1536


@dataclass(frozen=True)
class PaperTexture(Degradation):
    """Show the paper's grain: fibres and clouds, darker than white.

    Attributes:
        depth: range of how much darker the darkest grain is, 0 to 0.4.
    """

    probability: float = 1.0
    depth: tuple[float, float] = (0.03, 0.15)
    key: ClassVar[str] = "paper_texture"
    limits: ClassVar[Limits] = {"depth": (0.0, 0.4)}

    def __call__(self, image: ImageArray, boxes: BoxArray, rng: np.random.Generator) -> tuple[ImageArray, BoxArray]:
        """Return the page on the paper; boxes stay."""
        depth = draw(rng, self.depth)
        grain = random_window(_texture(int(rng.integers(_TEXTURES))), image.shape[:2], rng)
        light = np.rint(255 - depth * np.arange(255, -1, -1)).astype(np.uint8)
        return shade(image, as_uint8(cv2.LUT(grain, light))), boxes


@dataclass(frozen=True)
class Stains(Degradation):
    """Stain the paper: brownish blots and rings through which the text is read.

    Attributes:
        count: range of their number, 1 to 10.
        size: range of their radius, as a share of the page's smaller side, 0.01 to 0.4.
        depth: range of how much darker they are, 0 to 0.5.
    """

    probability: float = 1.0
    count: tuple[int, int] = (1, 3)
    size: tuple[float, float] = (0.03, 0.15)
    depth: tuple[float, float] = (0.05, 0.3)
    key: ClassVar[str] = "stains"
    limits: ClassVar[Limits] = {"count": (1, 10), "size": (0.01, 0.4), "depth": (0.0, 0.5)}

    def __call__(self, image: ImageArray, boxes: BoxArray, rng: np.random.Generator) -> tuple[ImageArray, BoxArray]:
        """Return the stained page, in color; boxes stay."""
        height, width = image.shape[:2]
        stained = to_rgb(image)
        for _ in range(int(rng.integers(self.count[0], self.count[1], endpoint=True))):
            radius = draw(rng, self.size) * min(height, width)
            depth = draw(rng, self.depth)
            light = _stain(rng, height, width, radius)
            # Coffee takes most of the blue and least of the red.
            channels = [
                cv2.LUT(light, np.rint(255 - depth * part * np.arange(255, -1, -1)).astype(np.uint8))
                for part in (0.6, 0.8, 1.0)
            ]
            stained = as_uint8(cv2.multiply(stained, cv2.merge(channels), scale=1 / 255))
        return stained, boxes


@dataclass(frozen=True)
class BleedThrough(Degradation):
    """Let the print of the back show through: mirrored, moved, blurred and faint.

    Attributes:
        strength: range of the back's ink against the front's, 0 to 0.3.
        blur_px: standard deviation of its blur in pixels, 0.5 to 5.
    """

    probability: float = 1.0
    strength: tuple[float, float] = (0.04, 0.15)
    blur_px: float = 1.2
    key: ClassVar[str] = "bleed_through"
    limits: ClassVar[Limits] = {"strength": (0.0, 0.3), "blur_px": (0.5, 5.0)}

    def __call__(self, image: ImageArray, boxes: BoxArray, rng: np.random.Generator) -> tuple[ImageArray, BoxArray]:
        """Return the page with its own mirror image behind it; boxes stay."""
        height, width = image.shape[:2]
        strength = draw(rng, self.strength)
        gray = to_gray(image)
        paper = background_color(gray)[0]
        back = cv2.GaussianBlur(cv2.flip(gray, 1), (0, 0), self.blur_px)
        down, right = (int(rng.integers(-side // 8, side // 8 + 1)) for side in (height, width))
        move = np.array([[1, 0, right], [0, 1, down]], dtype=np.float64)
        back = cv2.warpAffine(back, move, (width, height), flags=cv2.INTER_NEAREST, borderValue=paper)
        sign = 1 if is_light((paper,)) else -1  # ink darkens light paper and lightens dark
        ink = cv2.subtract(paper, back) if sign > 0 else cv2.subtract(back, paper)
        ink = ink if image.ndim == 2 else to_rgb(as_uint8(ink))
        return add_share(image, as_uint8(ink), -sign * strength), boxes


@cache
def _texture(number: int) -> ImageArray:
    # Seeded by its number alone, so that which page asks first does not matter. The sum of four octaves of noise.
    rng = np.random.default_rng([0x9A9E6, number])
    side = _TEXTURE_SIDE
    total = np.zeros((side, side), np.int32)
    for nodes, weight in ((8, 50), (48, 20), (384, 25), (side, 35)):
        octave = rng.random((nodes, nodes))
        total += weight * enlarge(smooth(octave) if nodes < 48 else octave, (side, side)).astype(np.int32)
    low, high = int(total.min()), int(total.max())
    return as_uint8((255 * (total - low) // (high - low)).astype(np.uint8))


def _stain(rng: np.random.Generator, height: int, width: int, radius: float) -> ImageArray:
    """Return the light through one stain (H, W): 255 beside it, less within, least at its rim. Drawn at a quarter."""
    scale = 4
    rows, columns = -(-height // scale), -(-width // scale)
    center = rng.uniform(0, 1, size=2) * [columns, rows]
    angles = np.linspace(0, 2 * np.pi, 48, endpoint=False)
    waves = [rng.uniform(0, 0.12) * np.sin(k * angles + rng.uniform(0, 2 * np.pi)) for k in (2, 3, 5)]
    rim = center + (radius / scale * (1 + np.sum(waves, axis=0)))[:, None] * np.stack(
        [np.cos(angles), np.sin(angles)], axis=1
    )
    light = np.full((rows, columns), 255, np.uint8)
    outline = np.rint(rim).astype(np.int32)
    cv2.fillPoly(light, [outline], int(rng.integers(60, 180)))
    cv2.polylines(light, [outline], True, 0, max(1, round(radius / scale / 12)))
    light = cv2.GaussianBlur(light, (0, 0), max(0.6, radius / scale / 30))
    return as_uint8(cv2.resize(light, (width, height), interpolation=cv2.INTER_LINEAR))
