"""Noise, and where it comes from."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import ClassVar

import numpy as np

from deepsynth.data.augmentation.base import (
    BoxArray,
    Degradation,
    ImageArray,
    add_share,
    as_uint8,
    check_range,
    draw,
    random_window,
)

_NOISE_TILES = 4  # a page takes a random window of one of these, made once a process: 1 ms instead of 40
_NOISE_TILE_SHAPE = (1536, 4096)
_NOISE_TILE_SIGMA = 32.0


@dataclass(frozen=True)
class SensorNoise(Degradation):
    """Add Gaussian noise, each channel its own.

    Attributes:
        sigma: range of the standard deviation in grey levels of 255, 0 to 40.
    """

    probability: float = 1.0
    sigma: tuple[float, float] = (2.0, 8.0)
    key: ClassVar[str] = "sensor_noise"

    def check(self) -> None:
        """Check the sigma."""
        check_range(self, "sigma", 0.0, 40.0)

    def __call__(self, image: ImageArray, boxes: BoxArray, rng: np.random.Generator) -> tuple[ImageArray, BoxArray]:
        """Return the noisy image; boxes stay."""
        strength = draw(rng, self.sigma) / _NOISE_TILE_SIGMA
        flat = np.ascontiguousarray(image).reshape(len(image), -1)  # channels side by side
        noise = noise_window(flat.shape, rng)
        return add_share(flat, noise, strength, 128.0).reshape(image.shape), boxes


def noise_window(shape: tuple[int, ...], rng: np.random.Generator) -> ImageArray:
    """Return noise (rows, columns) around 128 of standard deviation 32, the same for the same draws."""
    return random_window(_noise_tile(int(rng.integers(_NOISE_TILES))), shape, rng)


@cache
def _noise_tile(number: int) -> ImageArray:
    # Seeded by its number alone, so that which page asks first does not matter.
    noise = np.random.default_rng([0x5EED, number]).standard_normal(_NOISE_TILE_SHAPE, dtype=np.float32)
    return as_uint8(np.clip(np.rint(128.0 + _NOISE_TILE_SIGMA * noise), 0, 255).astype(np.uint8))
