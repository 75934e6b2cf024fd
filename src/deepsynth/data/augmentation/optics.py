"""Degradations of the camera: blur of three kinds, lost resolution, sensor noise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import cv2
import numpy as np
import numpy.typing as npt

from deepsynth.data.augmentation.base import (
    NOISE_SIGMA,
    BoxArray,
    Degradation,
    ImageArray,
    Limits,
    add_share,
    as_uint8,
    draw,
    noise_window,
)

Kernel = npt.NDArray[Any]


@dataclass(frozen=True)
class GaussianBlur(Degradation):
    """Blur evenly, as cheap optics do.

    Attributes:
        sigma_px: range of the standard deviation in pixels, 0 to 3.
    """

    probability: float = 1.0
    sigma_px: tuple[float, float] = (0.3, 0.8)
    key: ClassVar[str] = "gaussian_blur"
    limits: ClassVar[Limits] = {"sigma_px": (0.0, 3.0)}

    def __call__(self, image: ImageArray, boxes: BoxArray, rng: np.random.Generator) -> tuple[ImageArray, BoxArray]:
        """Return the blurred image; boxes stay."""
        sigma = draw(rng, self.sigma_px)
        if sigma < 0.1:
            return image, boxes
        size = 2 * int(np.ceil(2.5 * sigma)) + 1
        return as_uint8(cv2.GaussianBlur(image, (size, size), sigma, borderType=cv2.BORDER_REPLICATE)), boxes


@dataclass(frozen=True)
class MotionBlur(Degradation):
    """Blur along a line, as a moving hand does.

    Attributes:
        length_px: range of the line's length in pixels, 1 to 25.
    """

    probability: float = 1.0
    length_px: tuple[float, float] = (2.0, 5.0)
    key: ClassVar[str] = "motion_blur"
    limits: ClassVar[Limits] = {"length_px": (1.0, 25.0)}

    def __call__(self, image: ImageArray, boxes: BoxArray, rng: np.random.Generator) -> tuple[ImageArray, BoxArray]:
        """Return the blurred image; boxes stay."""
        length, angle = draw(rng, self.length_px), rng.uniform(0, np.pi)
        return _convolve(image, _line_kernel(length, angle)), boxes


@dataclass(frozen=True)
class DefocusBlur(Degradation):
    """Blur as a lens out of focus: each point becomes a disk.

    Attributes:
        radius_px: range of the disk's radius in pixels, 0 to 8.
    """

    probability: float = 1.0
    radius_px: tuple[float, float] = (0.6, 1.6)
    key: ClassVar[str] = "defocus_blur"
    limits: ClassVar[Limits] = {"radius_px": (0.0, 8.0)}

    def __call__(self, image: ImageArray, boxes: BoxArray, rng: np.random.Generator) -> tuple[ImageArray, BoxArray]:
        """Return the blurred image; boxes stay."""
        return _convolve(image, _disk_kernel(draw(rng, self.radius_px))), boxes


@dataclass(frozen=True)
class ResolutionLoss(Degradation):
    """Sample the page at a lower resolution and enlarge it again.

    Attributes:
        scale: range of the lower resolution as a share of the page's, 0.25 to 1.
    """

    probability: float = 1.0
    scale: tuple[float, float] = (0.6, 0.9)
    key: ClassVar[str] = "resolution_loss"
    limits: ClassVar[Limits] = {"scale": (0.25, 1.0)}

    def __call__(self, image: ImageArray, boxes: BoxArray, rng: np.random.Generator) -> tuple[ImageArray, BoxArray]:
        """Return the coarser image; boxes stay."""
        height, width = image.shape[:2]
        scale = draw(rng, self.scale)
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        # Area sampling takes 14 ms at 1024 x 1024 where bilinear takes 2; above one half they look alike.
        small = cv2.resize(image, size, interpolation=cv2.INTER_LINEAR if scale > 0.5 else cv2.INTER_AREA)
        return as_uint8(cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR)), boxes


@dataclass(frozen=True)
class SensorNoise(Degradation):
    """Add Gaussian noise, each channel its own.

    Attributes:
        sigma: range of the standard deviation in gray levels of 255, 0 to 40.
    """

    probability: float = 1.0
    sigma: tuple[float, float] = (2.0, 8.0)
    key: ClassVar[str] = "sensor_noise"
    limits: ClassVar[Limits] = {"sigma": (0.0, 40.0)}

    def __call__(self, image: ImageArray, boxes: BoxArray, rng: np.random.Generator) -> tuple[ImageArray, BoxArray]:
        """Return the noisy image; boxes stay."""
        strength = draw(rng, self.sigma) / NOISE_SIGMA
        flat = np.ascontiguousarray(image).reshape(len(image), -1)  # channels side by side
        noise = noise_window(flat.shape, rng)
        return add_share(flat, noise, strength, 128.0).reshape(image.shape), boxes


def _convolve(image: ImageArray, kernel: Kernel) -> ImageArray:
    """Return the image under a kernel of sum 1, whose weights are rounded to 256ths.

    With whole numbers float32 is exact, so that processors agree; a quarter is added so that none lies at a half.
    """
    whole = np.rint(256 * kernel).astype(np.float32)
    whole[whole.shape[0] // 2, whole.shape[1] // 2] += 256 - whole.sum()
    sums = cv2.filter2D(image, cv2.CV_32F, whole, delta=0.25, borderType=cv2.BORDER_REPLICATE)
    return as_uint8(cv2.convertScaleAbs(sums, alpha=1 / 256))


def _line_kernel(length: float, angle: float) -> Kernel:
    """Return a kernel of sum 1 that averages along a line, sampled finely so that short lines have their length too."""
    half = int(np.ceil(length / 2))
    kernel = np.zeros((2 * half + 1, 2 * half + 1), np.float32)
    samples = 16 * half
    # Rounding to whole pixels spreads by the variance of a pixel, 1/12, that of the line being length**2 / 12.
    along = ((np.arange(samples) + 0.5) / samples - 0.5) * np.sqrt(length**2 - 1)
    np.add.at(
        kernel,
        (np.rint(half + along * np.sin(angle)).astype(int), np.rint(half + along * np.cos(angle)).astype(int)),
        1.0,
    )
    kernel /= kernel.sum()
    return kernel


def _disk_kernel(radius: float) -> Kernel:
    """Return a kernel of sum 1 that averages over a disk, each cell by the share that lies within (8 x 8 samples)."""
    half = int(np.ceil(radius))
    side = 2 * half + 1
    centers = (np.arange(side * 8) + 0.5) / 8 - side / 2
    inside = (centers[:, None] ** 2 + centers[None, :] ** 2 <= max(radius, 0.5) ** 2).astype(np.float32)
    kernel: Kernel = inside.reshape(side, 8, side, 8).sum(axis=(1, 3))
    kernel /= kernel.sum()
    return kernel
