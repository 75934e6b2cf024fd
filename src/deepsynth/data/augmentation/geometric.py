"""Degradations that move the page: a skewed feed, a camera at an angle, a curled or rippled sheet.

Each draws a :class:`~deepsynth.data.augmentation.geometry.Mapping`; ``PageAugmenter`` composes those of one page, so
that its pixels are resampled once. No text leaves the page: what would is shifted back in, and the page shrunk where
that does not do.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from deepsynth.data.augmentation.base import (
    BoxArray,
    Degradation,
    ImageArray,
    Limits,
    background_color,
    draw,
    draw_signed,
)
from deepsynth.data.augmentation.geometry import Displacement, Homography, Mapping, Points, about_center, warp


class GeometricDegradation(Degradation):
    """A degradation that moves pixels and changes none otherwise."""

    @abstractmethod
    def mapping(self, width: int, height: int, rng: np.random.Generator) -> Mapping:
        """Draw where the points of a page of this size in pixels go."""

    def surroundings(self, rng: np.random.Generator) -> int | None:
        """Draw the gray level of what lies around the page; ``None`` is more paper."""
        return None

    def __call__(self, image: ImageArray, boxes: BoxArray, rng: np.random.Generator) -> tuple[ImageArray, BoxArray]:
        """Return the moved image and boxes."""
        return move(image, boxes, [(self, rng)])


def move(
    image: ImageArray, boxes: BoxArray, steps: Sequence[tuple[GeometricDegradation, np.random.Generator]]
) -> tuple[ImageArray, BoxArray]:
    """Return the image and boxes moved by several degradations in order, the pixels resampled once."""
    height, width = image.shape[:2]
    mappings = [step.mapping(width, height, rng) for step, rng in steps]
    levels = [level for step, rng in steps if (level := step.surroundings(rng)) is not None]
    fill = (levels[-1],) * (1 if image.ndim == 2 else 3) if levels else background_color(image)
    return warp(image, boxes, mappings, fill)


@dataclass(frozen=True)
class Rotation(GeometricDegradation):
    """Turn the page about its center, either way.

    Attributes:
        degrees: range of the angle, 0 to 15.
    """

    probability: float = 1.0
    degrees: tuple[float, float] = (0.2, 2.0)
    key: ClassVar[str] = "rotation"
    limits: ClassVar[Limits] = {"degrees": (0.0, 15.0)}

    def mapping(self, width: int, height: int, rng: np.random.Generator) -> Mapping:
        """Draw the turn."""
        angle = np.deg2rad(draw_signed(rng, self.degrees))
        return about_center([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]], width, height)


@dataclass(frozen=True)
class Skew(GeometricDegradation):
    """Shear the page sideways or upwards, as an uneven paper feed does.

    Attributes:
        degrees: range of the shear angle, 0 to 10.
    """

    probability: float = 1.0
    degrees: tuple[float, float] = (0.2, 1.5)
    key: ClassVar[str] = "skew"
    limits: ClassVar[Limits] = {"degrees": (0.0, 10.0)}

    def mapping(self, width: int, height: int, rng: np.random.Generator) -> Mapping:
        """Draw the shear."""
        shear = np.tan(np.deg2rad(draw_signed(rng, self.degrees)))
        sideways = rng.random() < 0.5
        return about_center([[1, shear], [0, 1]] if sideways else [[1, 0], [shear, 1]], width, height)


@dataclass(frozen=True)
class Perspective(GeometricDegradation):
    """Look at the page from an angle: each corner moves inwards by its own amount.

    Attributes:
        shift: range of the corners' moves, as a share of the page's sides, 0 to 0.2.
        desk: range of the gray level of the desk around the page, 0 to 255; ``null`` shows more paper.
    """

    probability: float = 1.0
    shift: tuple[float, float] = (0.0, 0.04)
    desk: tuple[float, float] | None = None
    key: ClassVar[str] = "perspective"
    limits: ClassVar[Limits] = {"shift": (0.0, 0.2), "desk": (0.0, 255.0)}

    def surroundings(self, rng: np.random.Generator) -> int | None:
        """Draw the gray level of the desk."""
        return None if self.desk is None else round(draw(rng, self.desk))

    def mapping(self, width: int, height: int, rng: np.random.Generator) -> Mapping:
        """Draw the corners."""
        inwards = np.array([[1, 1], [-1, 1], [-1, -1], [1, -1]])
        corners = np.array([[0, 0], [1, 0], [1, 1], [0, 1]])
        moved = corners + inwards * rng.uniform(*self.shift, size=(4, 2))
        return Homography(_square_to_quad(corners * [width, height], moved * [width, height]))


def _square_to_quad(before: Points, after: Points) -> Points:
    """Return the homography (3, 3) that takes four points to four others: eight linear equations."""
    rows, right = [], []
    for (x, y), (u, v) in zip(before, after, strict=True):
        rows += [[x, y, 1, 0, 0, 0, -u * x, -u * y], [0, 0, 0, x, y, 1, -v * x, -v * y]]
        right += [u, v]
    solution = np.linalg.solve(np.array(rows, dtype=np.float64), np.array(right, dtype=np.float64))
    matrix: Points = np.append(solution, 1.0).reshape(3, 3)
    return matrix


@dataclass(frozen=True)
class PageCurl(GeometricDegradation):
    """Bend the page towards a spine at its left or right: lines rise or fall and letters narrow near it.

    Attributes:
        height: range of the rise at the spine, as a share of the page's height, 0 to 0.06.
        reach: range of the distance from the spine within which most of the bend lies, as a share of the width,
            0.1 to 0.5.
    """

    probability: float = 1.0
    height: tuple[float, float] = (0.005, 0.025)
    reach: tuple[float, float] = (0.15, 0.35)
    key: ClassVar[str] = "page_curl"
    limits: ClassVar[Limits] = {"height": (0.0, 0.06), "reach": (0.1, 0.5)}

    def mapping(self, width: int, height: int, rng: np.random.Generator) -> Mapping:
        """Draw the bend."""
        rise = draw_signed(rng, self.height) * height
        reach = draw(rng, self.reach) * width
        narrowing = min(abs(rise), 0.4 * reach)  # the sheet is not stretched; its slope stays below 0.9
        left = rng.random() < 0.5

        def offset(points: Points) -> Points:
            distance = np.maximum(points[:, 0] if left else width - points[:, 0], 0.0)
            bend = np.exp(-distance / reach)
            towards = 1.0 if left else -1.0
            return np.stack([-towards * narrowing * bend, rise * bend], axis=1)

        return Displacement(offset)


@dataclass(frozen=True)
class Ripple(GeometricDegradation):
    """Ripple the page elastically, as damp paper does: two slow waves across it.

    Attributes:
        amplitude: range of the largest move, as a share of the page's smaller side, 0 to 0.01.
        wavelength: range of the waves' lengths, as a share of the page's smaller side, 0.2 to 2.
    """

    probability: float = 1.0
    amplitude: tuple[float, float] = (0.0005, 0.003)
    wavelength: tuple[float, float] = (0.25, 0.8)
    key: ClassVar[str] = "ripple"
    limits: ClassVar[Limits] = {"amplitude": (0.0, 0.01), "wavelength": (0.2, 2.0)}

    def mapping(self, width: int, height: int, rng: np.random.Generator) -> Mapping:
        """Draw the waves."""
        side = min(width, height)
        amplitude = draw(rng, self.amplitude) * side
        lengths = rng.uniform(*self.wavelength, size=(2, 2)) * side
        phases = rng.uniform(0.0, 2 * np.pi, size=(2, 2))

        def offset(points: Points) -> Points:
            moves = [
                np.sin(2 * np.pi * points[:, 0] / lengths[axis, 0] + phases[axis, 0])
                + np.sin(2 * np.pi * points[:, 1] / lengths[axis, 1] + phases[axis, 1])
                for axis in range(2)
            ]
            return amplitude / 2 * np.stack(moves, axis=1)

        return Displacement(offset)
