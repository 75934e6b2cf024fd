"""Pixel values of pages that have the size of the model's view, by table lookup instead of computation.

A page of the mode's own size is not resized, so each value of its view depends on one byte alone. The Hugging Face
processor is run once on a page with all bytes; 256 values a channel then give its output, bit for bit, in a fifth to a
tenth of its time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from deepsynth.models.tokens import ImageLayout

#: Entries of an image's ``info`` that make a processor change its pixels.
_CHANGING_INFO = ("exif", "transparency")


@dataclass(frozen=True)
class ViewTable:
    """Outputs of a processor for pages of one size.

    Attributes:
        side: side of the pages in pixels.
        values: (3, 256) float32, by channel and byte.
        others: other outputs of the processor for one page, by name; the first dimension is the page.
    """

    side: int
    values: npt.NDArray[np.float32]
    others: dict[str, torch.Tensor]

    def serves(self, images: Sequence[Image.Image]) -> bool:
        """Return whether all images are upright RGB pages of the size."""
        return all(
            image.mode == "RGB"
            and image.size == (self.side, self.side)
            and not any(name in image.info for name in _CHANGING_INFO)
            for image in images
        )

    def __call__(self, images: Sequence[Image.Image]) -> dict[str, torch.Tensor]:
        """Return the processor's outputs for V pages that it :meth:`serves`: ``pixel_values`` (V, 3, S, S), …."""
        pixels = np.empty((len(images), 3, self.side, self.side), np.float32)
        for view, image in zip(pixels, images, strict=True):
            _look_up(self.values, np.asarray(image), view)
        return {
            "pixel_values": torch.from_numpy(pixels),
            **{name: torch.cat([value] * len(images)) for name, value in self.others.items()},
        }


def view_table(image_processor: Any, layout: ImageLayout) -> ViewTable | None:
    """Return the table of an image processor in a mode, ``None`` when its views do not follow from single bytes.

    Args:
        image_processor: image processor of Hugging Face.
        layout: image layout of the mode.
    """
    side = layout.base_size
    if layout.tile_grid(side, side) != (1, 1):
        return None
    rng = np.random.default_rng(0)
    # Every byte in every channel, in an order that no resampling leaves as it is.
    probe = np.stack([rng.permutation(np.resize(np.arange(256), side * side)) for _ in range(3)], axis=-1)
    probe = probe.reshape(side, side, 3).astype(np.uint8)
    outputs = image_processor(images=[Image.fromarray(probe)], return_tensors="pt", **layout.processor_kwargs())
    view = outputs["pixel_values"].numpy()
    if view.shape != (1, 3, side, side) or view.dtype != np.float32:
        return None
    values = np.empty((3, 256), np.float32)
    for channel in range(3):
        values[channel, probe[..., channel]] = view[0, channel]
    found = np.empty_like(view[0])
    _look_up(values, probe, found)
    if not np.array_equal(found, view[0]):
        return None
    return ViewTable(side, values, {name: value for name, value in outputs.items() if name != "pixel_values"})


def _look_up(values: npt.NDArray[np.float32], page: npt.NDArray[np.uint8], view: npt.NDArray[np.float32]) -> None:
    """Write the view (3, S, S) of a page (S, S, 3)."""
    for channel in range(3):
        np.take(values[channel], page[..., channel], out=view[channel], mode="clip")
