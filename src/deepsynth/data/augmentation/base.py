"""The base of every degradation, the checks of its options, and image operations that several share.

Shape legend of the degradation files:
    H, W  height and width of the page in pixels
    n     boxes; a box is (left, top, right, bottom) in pixels, origin at the top left
An image is uint8, either (H, W) for a gray page or (H, W, 3) for RGB: most pages are gray, and one channel costs a
third. A degradation that adds color turns the first into the second.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from functools import cache
from typing import Any, ClassVar

import cv2
import numpy as np
import numpy.typing as npt

from deepsynth.errors import UserError

ImageArray = npt.NDArray[np.uint8]
BoxArray = npt.NDArray[np.float64]
Field = npt.NDArray[np.float64]
Limits = Mapping[str, tuple[float, float]]

_NOISE_TILES = 4  # a page takes a random window of one of these, made once a process: 1 ms instead of 40
_NOISE_TILE_SHAPE = (1536, 4096)
NOISE_SIGMA = 32.0  # of the noise tiles


class Degradation(ABC):
    """One thing that happens to paper, ink, lens or scanner. Leaves are frozen dataclasses of plain numbers.

    Attributes:
        key: the option's name in ``PageAugmenter``, used in messages.
        limits: the least and largest value of each option.
        probability: how often a page gets it, 0 to 1.
    """

    key: ClassVar[str]
    limits: ClassVar[Limits] = {}
    probability: float

    @abstractmethod
    def __call__(self, image: ImageArray, boxes: BoxArray, rng: np.random.Generator) -> tuple[ImageArray, BoxArray]:
        """Return the degraded image, of the same height and width, and the boxes (n, 4) moved along.

        Neither argument is changed in place.
        """

    def __post_init__(self) -> None:
        """Check every option: a number, or where the default is a pair (or ``None``) a pair [from, to] (or ``None``).

        Raises:
            UserError: for a value beyond the class's limits.
        """
        self._check_number("probability", 0.0, 1.0)
        for name, (low, high) in self.limits.items():
            default = getattr(type(self), name)
            if _is_number(default):
                self._check_number(name, low, high)
            elif default is not None or getattr(self, name) is not None:
                self._check_range(name, low, high)

    def _check_number(self, name: str, low: float, high: float) -> None:
        value = getattr(self, name)
        if not _is_number(value) or not low <= value <= high:
            raise UserError(f"augmenter.{self.key}.{name} is {value!r}; it must be {low:g} to {high:g}")

    def _check_range(self, name: str, low: float, high: float) -> None:
        value = getattr(self, name)
        pair = isinstance(value, (tuple, list)) and len(value) == 2 and all(map(_is_number, value))
        if not pair or not low <= value[0] <= value[1] <= high:
            raise UserError(
                f"augmenter.{self.key}.{name} is {value!r}; it must be [from, to] with from <= to, "
                f"within {low:g} to {high:g}"
            )


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def draw(rng: np.random.Generator, bounds: tuple[float, float]) -> float:
    """Draw uniformly from a range."""
    return float(rng.uniform(bounds[0], bounds[1]))


def draw_signed(rng: np.random.Generator, bounds: tuple[float, float]) -> float:
    """Draw a magnitude uniformly from a range, with either sign."""
    return draw(rng, bounds) * (1.0 if rng.random() < 0.5 else -1.0)


def to_rgb(image: ImageArray) -> ImageArray:
    """Return the image as (H, W, 3)."""
    return image if image.ndim == 3 else as_uint8(cv2.cvtColor(image, cv2.COLOR_GRAY2RGB))


def to_gray(image: ImageArray) -> ImageArray:
    """Return the image's luminance as (H, W)."""
    return image if image.ndim == 2 else as_uint8(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY))


def background_color(image: ImageArray) -> tuple[int, ...]:
    """Return the median color of the page's outermost pixels, one number a channel."""
    edges = (image[0, ::8], image[-1, ::8], image[::8, 0], image[::8, -1])
    channels = 1 if image.ndim == 2 else 3
    pixels = np.concatenate([edge.reshape(-1, channels) for edge in edges])
    return tuple(int(value) for value in np.median(pixels, axis=0))


def is_light(color: tuple[int, ...]) -> bool:
    """Return whether a background of this color has dark text."""
    return sum(color) / len(color) >= 128


def shade(image: ImageArray, light: ImageArray) -> ImageArray:
    """Return the image under a light: multiplied by ``light`` (H, W), of which 255 leaves a pixel as it is."""
    return as_uint8(cv2.multiply(image, light if image.ndim == 2 else to_rgb(light), scale=1 / 255))


def fade_to(image: ImageArray, color: tuple[int, ...], share: ImageArray) -> ImageArray:
    """Return the image with ``share`` (H, W) of 255 of each pixel replaced by the color."""
    flat = np.full_like(image, color if image.ndim == 3 else color[0])
    kept = as_uint8(cv2.bitwise_not(share))
    # In bytes, below and above the color apart: 3 ms where cv2.blendLinear takes 10.
    below, above = shade(as_uint8(cv2.subtract(flat, image)), kept), shade(as_uint8(cv2.subtract(image, flat)), kept)
    return as_uint8(cv2.add(cv2.subtract(flat, below), above))


def add_share(image: ImageArray, other: ImageArray, share: float, offset: float = 0.0) -> ImageArray:
    """Return ``image + share * (other - offset)``, saturated; the share is rounded to a 256th.

    Sums of such products are exact in float32, so that processors with and without fused multiplication agree.
    """
    share = round(256 * share) / 256
    return as_uint8(cv2.addWeighted(image, 1.0, other, share, -offset * share))


def soft_field(rng: np.random.Generator, shape: tuple[int, ...], nodes: int, bounds: tuple[float, float]) -> ImageArray:
    """Return a smooth random field (H, W) of ``nodes`` x ``nodes`` hills with values within ``bounds`` of 0 to 1."""
    return enlarge(smooth(rng.uniform(*bounds, size=(nodes, nodes))), shape)


def smooth(field: Field, side: int = 96) -> Field:
    """Return a small square field on ``side`` x ``side`` points, with level ground at each of its own."""
    place = np.linspace(0.0, len(field) - 1.0, side)
    lower = np.minimum(place.astype(int), len(field) - 2)
    share = place - lower
    share = share * share * (3 - 2 * share)
    rows = field[lower] * (1 - share)[:, None] + field[lower + 1] * share[:, None]
    result: Field = rows[:, lower] * (1 - share) + rows[:, lower + 1] * share
    return result


def enlarge(coarse: Field, shape: tuple[int, ...]) -> ImageArray:
    """Return a coarse field of 0 to 1 as (H, W) of 255, by the interpolation that OpenCV computes in integers.

    Its cubic interpolation differs by a level where Intel's library is at hand.
    """
    levels = np.rint(255 * coarse).astype(np.uint8)
    return as_uint8(cv2.resize(levels, (shape[1], shape[0]), interpolation=cv2.INTER_LINEAR_EXACT))


def random_window(tile: ImageArray, shape: tuple[int, ...], rng: np.random.Generator) -> ImageArray:
    """Return a view (rows, columns) of the tile at a random place; the tile repeats where it is too small."""
    repeats = [-(-shape[axis] // tile.shape[axis]) for axis in range(2)]
    if max(repeats) > 1:
        tile = np.tile(tile, repeats)
    top, left = (int(rng.integers(tile.shape[axis] - shape[axis] + 1)) for axis in range(2))
    return tile[top : top + shape[0], left : left + shape[1]]


def noise_window(shape: tuple[int, ...], rng: np.random.Generator) -> ImageArray:
    """Return noise (rows, columns) around 128 of standard deviation 32, the same for the same draws."""
    return random_window(_noise_tile(int(rng.integers(_NOISE_TILES))), shape, rng)


@cache
def _noise_tile(number: int) -> ImageArray:
    # Seeded by its number alone, so that which page asks first does not matter.
    noise = np.random.default_rng([0x5EED, number]).standard_normal(_NOISE_TILE_SHAPE, dtype=np.float32)
    return as_uint8(np.clip(np.rint(128.0 + NOISE_SIGMA * noise), 0, 255).astype(np.uint8))


def as_uint8(array: Any) -> ImageArray:
    """Return an array of OpenCV as uint8 for the type checker; nothing is converted."""
    assert array.dtype == np.uint8
    pixels: ImageArray = array
    return pixels
