"""Degradations at the borders of a scanned book, and its scan in one bit a pixel."""

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
    noise_window,
    shade,
    to_gray,
)
from deepsynth.data.augmentation.geometric import GeometricDegradation
from deepsynth.data.augmentation.geometry import Homography, Mapping


@dataclass(frozen=True)
class ScannerBackground(GeometricDegradation):
    """Lay the page smaller on the scanner's black glass, at any place of it.

    Attributes:
        scale: range of the page's size, as a share of the image, 0.5 to 1.
        level: range of the gray level of the background, 0 to 255.
    """

    probability: float = 1.0
    scale: tuple[float, float] = (0.8, 0.96)
    level: tuple[float, float] = (0.0, 30.0)
    key: ClassVar[str] = "scanner_background"
    limits: ClassVar[Limits] = {"scale": (0.5, 1.0), "level": (0.0, 255.0)}

    def mapping(self, width: int, height: int, rng: np.random.Generator) -> Mapping:
        """Draw the size and the place."""
        scale = draw(rng, self.scale)
        left, top = rng.uniform(0.0, 1.0, size=2) * (1 - scale) * [width, height]
        return Homography(np.array([[scale, 0.0, left], [0.0, scale, top], [0.0, 0.0, 1.0]]))

    def surroundings(self, rng: np.random.Generator) -> int | None:
        """Draw the gray level of the background."""
        return round(draw(rng, self.level))


@dataclass(frozen=True)
class NeighborPage(Degradation):
    """Show a part of the neighboring page at the left or right, behind the dark fold, never reaching a word.

    Attributes:
        size: range of its width with the fold, as a share of the margin, 0.1 to 0.95.
        fold: range of how dark the fold is, 0 to 1.
    """

    probability: float = 1.0
    size: tuple[float, float] = (0.4, 0.9)
    fold: tuple[float, float] = (0.4, 0.95)
    key: ClassVar[str] = "neighbor_page"
    limits: ClassVar[Limits] = {"size": (0.1, 0.95), "fold": (0.0, 1.0)}

    def __call__(self, image: ImageArray, boxes: BoxArray, rng: np.random.Generator) -> tuple[ImageArray, BoxArray]:
        """Return the page with a part of its neighbor; boxes stay."""
        height, width = image.shape[:2]
        at_left = bool(rng.random() < 0.5)
        room = boxes[:, 0].min() if at_left else width - boxes[:, 2].max()
        reach = int(room * draw(rng, self.size))
        strip_width = round(0.65 * reach)
        if strip_width < 4:
            return image, boxes
        # Its lines are parts of the page's own, upside down, so that they have its type and say nothing of it.
        donor = image[::-1, ::-1]
        start = int(rng.integers(width // 4, max(width // 4 + 1, width // 2)))
        strip = donor[:, start : start + strip_width]
        result = image.copy()
        if at_left:
            result[:, : strip.shape[1]] = strip
        else:
            result[:, width - strip.shape[1] :] = strip
        profile = np.zeros(width)
        middle = strip_width + 0.15 * reach
        distance = np.abs(np.arange(width) + 0.5 - middle) / (0.2 * reach)
        profile = draw(rng, self.fold) * np.clip(1.0 - distance, 0.0, 1.0) ** 0.5
        light = np.rint(255 * (1 - (profile if at_left else profile[::-1]))).astype(np.uint8)
        return shade(result, np.ascontiguousarray(np.broadcast_to(light, (height, width)))), boxes


@dataclass(frozen=True)
class BorderSpecks(Degradation):
    """Scatter black specks and smears along the borders, as bitonal scans of books have them, never on a word.

    Attributes:
        depth: range of how far they reach from a border, as a share of the page's side, 0 to 0.3.
        share: range of the share of black at the border itself, 0 to 0.9.
    """

    probability: float = 1.0
    depth: tuple[float, float] = (0.01, 0.06)
    share: tuple[float, float] = (0.1, 0.6)
    key: ClassVar[str] = "border_specks"
    limits: ClassVar[Limits] = {"depth": (0.0, 0.3), "share": (0.0, 0.9)}

    def __call__(self, image: ImageArray, boxes: BoxArray, rng: np.random.Generator) -> tuple[ImageArray, BoxArray]:
        """Return the page with specks along one to three borders; boxes stay."""
        height, width = image.shape[:2]
        grain = cv2.GaussianBlur(noise_window((height, width), rng), (0, 0), float(rng.uniform(1.0, 3.0)))
        ranks = np.cumsum(np.bincount(grain[::4, ::4].ravel(), minlength=256))
        quantile = (ranks / ranks[-1])[grain]  # 0 to 1, even over the page
        share = draw(rng, self.share)
        allowed = np.zeros((height, width))
        columns, rows = np.arange(width) + 0.5, np.arange(height)[:, None] + 0.5
        for side in rng.permutation(4)[: int(rng.integers(1, 4))]:
            reach = max(1.0, draw(rng, self.depth) * (width if side in (0, 2) else height))
            distance = (columns, rows, width - columns, height - rows)[side]
            allowed = np.maximum(allowed, share * np.clip(1.0 - distance / reach, 0.0, 1.0))
        black = quantile < allowed
        for left, top, right, bottom in np.rint(boxes).astype(int):
            black[max(0, top - 2) : bottom + 2, max(0, left - 2) : right + 2] = False
        result = image.copy()
        result[black] = 0
        return result, boxes


@dataclass(frozen=True)
class Bitonal(Degradation):
    """Scan in black and white at full resolution, with the rough edges that a threshold leaves.

    Attributes:
        threshold: range of the level below which a pixel is black, as a share of the paper's, 0.2 to 0.9.
        roughness: range of the noise that decides at edges, as a standard deviation of gray levels, 0 to 60.
    """

    probability: float = 1.0
    threshold: tuple[float, float] = (0.45, 0.7)
    roughness: tuple[float, float] = (0.0, 25.0)
    key: ClassVar[str] = "bitonal"
    limits: ClassVar[Limits] = {"threshold": (0.2, 0.9), "roughness": (0.0, 60.0)}

    def __call__(self, image: ImageArray, boxes: BoxArray, rng: np.random.Generator) -> tuple[ImageArray, BoxArray]:
        """Return the page in black and white; boxes stay."""
        gray = to_gray(image)
        paper = max(background_color(gray)[0], int(np.percentile(gray[::4, ::4], 80)))
        level = draw(rng, self.threshold) * paper
        noise = cv2.GaussianBlur(noise_window(gray.shape, rng), (3, 3), 0.7).astype(np.float32) - 128.0
        rough = noise * (draw(rng, self.roughness) / max(1.0, float(noise.std())))
        return as_uint8(np.where(gray + rough < level, 0, 255).astype(np.uint8)), boxes
