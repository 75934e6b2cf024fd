"""What a notebook shows of an object with an image."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from deepsynth.io.notebook import ShownAsPng


class Shown(ShownAsPng):
    __slots__ = ("image",)

    def __init__(self, image: Image.Image) -> None:
        self.image = image


def test_it_is_shown_without_loss() -> None:
    pixels = np.arange(4 * 5 * 3, dtype=np.uint8).reshape(4, 5, 3)
    with Image.open(io.BytesIO(Shown(Image.fromarray(pixels))._repr_png_())) as found:
        assert found.format == "PNG"
        assert np.array_equal(np.asarray(found), pixels)
