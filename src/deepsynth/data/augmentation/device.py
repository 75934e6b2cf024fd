"""Degradations by what the page went through: file compression, copier, fax, scanner."""

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
    shade,
    to_gray,
)
from deepsynth.errors import UserError


@dataclass(frozen=True)
class Jpeg(Degradation):
    """Compress and decompress as JPEG.

    Attributes:
        quality: range of libjpeg's quality, 5 to 100.
    """

    probability: float = 1.0
    quality: tuple[float, float] = (40.0, 90.0)
    key: ClassVar[str] = "jpeg"
    limits: ClassVar[Limits] = {"quality": (5.0, 100.0)}

    def __call__(self, image: ImageArray, boxes: BoxArray, rng: np.random.Generator) -> tuple[ImageArray, BoxArray]:
        """Return the image as a JPEG file would give it back; boxes stay."""
        quality = [cv2.IMWRITE_JPEG_QUALITY, round(draw(rng, self.quality))]
        if image.ndim == 2:
            return as_uint8(cv2.imdecode(_encode(image, quality), cv2.IMREAD_GRAYSCALE)), boxes
        decoded = cv2.imdecode(_encode(cv2.cvtColor(image, cv2.COLOR_RGB2BGR), quality), cv2.IMREAD_COLOR)
        return as_uint8(cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB)), boxes


@dataclass(frozen=True)
class Grayscale(Degradation):
    """Lose the color, as a copier without color does."""

    probability: float = 1.0
    key: ClassVar[str] = "grayscale"

    def __call__(self, image: ImageArray, boxes: BoxArray, rng: np.random.Generator) -> tuple[ImageArray, BoxArray]:
        """Return the page in gray; boxes stay."""
        return to_gray(image), boxes


@dataclass(frozen=True)
class InverseVideo(Degradation):
    """Show light for dark and dark for light."""

    probability: float = 1.0
    key: ClassVar[str] = "inverse_video"

    def __call__(self, image: ImageArray, boxes: BoxArray, rng: np.random.Generator) -> tuple[ImageArray, BoxArray]:
        """Return the inverted page; boxes stay."""
        return as_uint8(cv2.bitwise_not(image)), boxes


@dataclass(frozen=True)
class PhotocopyLines(Degradation):
    """Draw the streaks of a scratched drum: upright lines over the whole page, dark or light.

    Attributes:
        count: range of their number, 1 to 20.
        strength: range of how opaque they are, 0 to 0.8.
        width_px: widest line in pixels, 1 to 3.
    """

    probability: float = 1.0
    count: tuple[int, int] = (1, 5)
    strength: tuple[float, float] = (0.1, 0.5)
    width_px: int = 2
    key: ClassVar[str] = "photocopy_lines"
    limits: ClassVar[Limits] = {"count": (1, 20), "strength": (0.0, 0.8), "width_px": (1, 3)}

    def __call__(self, image: ImageArray, boxes: BoxArray, rng: np.random.Generator) -> tuple[ImageArray, BoxArray]:
        """Return the streaked page; boxes stay."""
        width = image.shape[1]
        streaked = image.copy()
        for _ in range(int(rng.integers(self.count[0], self.count[1], endpoint=True))):
            left = int(rng.integers(width))
            strip = streaked[:, left : left + int(rng.integers(1, self.width_px, endpoint=True))]
            level = 0 if rng.random() < 0.7 else 255
            strength = draw(rng, self.strength)
            strip[:] = np.rint(strip * (1 - strength) + level * strength)
        return streaked, boxes


@dataclass(frozen=True)
class ScannerEdges(Degradation):
    """Darken the margins where the scanner's lid shows, never reaching a word.

    Attributes:
        size: range of the dark band's width, as a share of the page's side, 0 to 0.1.
        darkness: range of how much darker it is, 0 to 1.
    """

    probability: float = 1.0
    size: tuple[float, float] = (0.003, 0.025)
    darkness: tuple[float, float] = (0.4, 0.95)
    key: ClassVar[str] = "scanner_edges"
    limits: ClassVar[Limits] = {"size": (0.0, 0.1), "darkness": (0.0, 1.0)}

    def __call__(self, image: ImageArray, boxes: BoxArray, rng: np.random.Generator) -> tuple[ImageArray, BoxArray]:
        """Return the page with dark edges on one to three sides; boxes stay."""
        height, width = image.shape[:2]
        light = np.full((height, width), 255, np.uint8)
        room = (boxes[:, 0].min(), boxes[:, 1].min(), width - boxes[:, 2].max(), height - boxes[:, 3].max())
        for side in rng.permutation(4)[: int(rng.integers(1, 4))]:
            length = height if side % 2 == 0 else width
            widest = draw(rng, self.size) * (width if side % 2 == 0 else height)
            level = round(255 * (1 - draw(rng, self.darkness)))
            # The band's inner edge runs aslant; a pixel is kept to the next word.
            ends = np.minimum(widest * rng.uniform(0.3, 1.0, size=2), max(room[side] - 1.0, 0.0))
            depths = np.linspace(ends[0], ends[1], length)
            band = light if side % 2 == 0 else light.T
            band = band if side < 2 else band[:, ::-1]
            reach = int(np.ceil(ends.max()))
            band[:, :reach][np.arange(reach) + 1 <= depths[:, None]] = level
        return shade(image, light), boxes


@dataclass(frozen=True)
class Fax(Degradation):
    """Send the page by fax: fewer scan lines, one bit a pixel, some lines disturbed.

    Attributes:
        scale: range of the resolution as a share of the page's, 0.4 to 1.
        threshold: range of the level below which a pixel is black, as a share of the way from ink to paper, 0.2 to 0.9.
        bad_lines: range of the number of disturbed scan lines, 0 to 20.
    """

    probability: float = 1.0
    scale: tuple[float, float] = (0.7, 1.0)
    threshold: tuple[float, float] = (0.5, 0.7)
    bad_lines: tuple[int, int] = (0, 3)
    key: ClassVar[str] = "fax"
    limits: ClassVar[Limits] = {"scale": (0.4, 1.0), "threshold": (0.2, 0.9), "bad_lines": (0, 20)}

    def __call__(self, image: ImageArray, boxes: BoxArray, rng: np.random.Generator) -> tuple[ImageArray, BoxArray]:
        """Return the page in black and white; boxes stay."""
        gray = to_gray(image)
        height, width = gray.shape
        lines = max(1, round(height * draw(rng, self.scale)))
        sent = cv2.resize(gray, (width, lines), interpolation=cv2.INTER_LINEAR)
        paper, ink = background_color(gray)[0], _ink_level(gray)
        level = ink + draw(rng, self.threshold) * (paper - ink)
        sent = cv2.threshold(sent, level, 255, cv2.THRESH_BINARY)[1]
        for _ in range(int(rng.integers(self.bad_lines[0], self.bad_lines[1], endpoint=True))):
            row = int(rng.integers(lines))
            sent[row] = np.roll(sent[row], int(rng.integers(-3, 4)))
        return as_uint8(cv2.resize(sent, (width, height), interpolation=cv2.INTER_NEAREST)), boxes


def _ink_level(gray: ImageArray) -> float:
    """Return the level of the ink: the page's extreme, at least 80 from the paper so that a blank page stays blank."""
    paper = background_color(gray)[0]
    counts = np.cumsum(np.bincount(gray[::2, ::2].ravel(), minlength=256))
    darkest, lightest = np.searchsorted(counts, [0.005 * counts[-1], 0.995 * counts[-1]])
    if paper - darkest >= lightest - paper:
        return float(min(darkest, paper - 80))
    return float(max(lightest, paper + 80))


def _encode(image: ImageArray, quality: list[int]) -> ImageArray:
    done, data = cv2.imencode(".jpg", image, quality)
    if not done:
        raise UserError(f"OpenCV {cv2.__version__} cannot write JPEG; install opencv-python-headless with pip")
    return as_uint8(data)
