"""Images in, square views out: PIL alone, byte for byte what the published code makes.

    V  images   N  tiles of all images   S  side of a global view   S' side of a tile (pixels)

Every output can be joined along its first dimension with those of other samples.
"""

# mypy: disallow-subclassing-any=False

from __future__ import annotations

from functools import partial
from typing import Any, ClassVar

import numpy as np
from PIL import Image, ImageOps
from transformers import BatchFeature
from transformers.image_processing_utils import BaseImageProcessor
from transformers.processing_utils import ImagesKwargs

from deepsynth.errors import UserError
from deepsynth.io.images import to_rgb
from deepsynth.models.tokens import ImageLayout


class DeepseekOcrImageProcessorKwargs(ImagesKwargs, total=False):  # type: ignore[call-arg]
    """What a call may change; the attributes of :class:`DeepseekOcrImageProcessor` say what each is."""

    crop_to_patches: bool
    tile_size: int
    min_patches: int
    max_patches: int
    stretch: bool


class DeepseekOcrImageProcessor(BaseImageProcessor):
    """Make the views of DeepSeek-OCR; :meth:`ImageLayout.processor_kwargs` gives the arguments of a mode.

    Attributes:
        size: side of the global view, as ``height`` and ``width`` (equal), pixels.
        crop_to_patches: cut images with a side beyond ``tile_size`` into tiles besides the global view.
        tile_size: side of a tile, pixels.
        min_patches: fewest tiles.
        max_patches: most tiles.
        stretch: resize the global view to the square instead of padding it with ``image_mean``.
        do_normalize: give values; otherwise the bytes that they stand for.
        image_mean: subtracted from each channel, of 1.
        image_std: divides each channel.
    """

    valid_kwargs = DeepseekOcrImageProcessorKwargs
    model_input_names: ClassVar[list[str]] = ["pixel_values", "pixel_values_local", "num_local_patches", "patches_grid"]
    resample = Image.Resampling.BICUBIC
    size: ClassVar[dict[str, int]] = {"height": 1024, "width": 1024}
    crop_to_patches = True
    tile_size = 640
    min_patches = 2
    max_patches = 9
    stretch = False
    do_normalize = True
    image_mean: ClassVar[list[float]] = [0.5, 0.5, 0.5]
    image_std: ClassVar[list[float]] = [0.5, 0.5, 0.5]

    def __init__(self, **kwargs: Any) -> None:
        """Take the class's defaults for what is not given."""
        super().__init__(**kwargs)
        self._set_attributes(**kwargs)

    def process_image(self, image: Any, **kwargs: Any) -> Image.Image:
        """Return the image as an upright RGB page; see :func:`deepsynth.io.images.to_rgb`."""
        if isinstance(image, Image.Image):
            return to_rgb(image)
        array = np.asarray(image)
        if array.dtype != np.uint8 or array.ndim != 3 or array.shape[-1] != 3:
            raise ValueError(
                f"an image came as an array {array.shape} of {array.dtype}; want PIL, or uint8 (height, width, 3)"
            )
        return to_rgb(Image.fromarray(array))

    def _preprocess(
        self,
        images: list[Image.Image],
        size: Any,
        crop_to_patches: bool,
        tile_size: int,
        min_patches: int,
        max_patches: int,
        stretch: bool,
        do_normalize: bool,
        image_mean: list[float],
        image_std: list[float],
        return_tensors: Any = None,
        **kwargs: Any,
    ) -> BatchFeature:
        """Return the views of all images.

        ``pixel_values`` (V, 3, S, S), ``num_local_patches`` (V,), ``patches_grid`` (V, 2), columns first, and, if there
        are tiles, ``pixel_values_local`` (N, 3, S', S').
        """
        if size.height != size.width:
            raise UserError(f"size is {size.height} x {size.width}; it must be a square, as the global view is")
        # Grids alone are asked for, so the encoder's patches do not matter.
        layout = ImageLayout(
            "deepseek_ocr", size.height, tile_size if crop_to_patches else None, min_patches, max_patches, patch_size=1
        )
        background = tuple(int(mean * 255) for mean in image_mean)
        views: list[Image.Image] = []
        tiles: list[Image.Image] = []
        counts: list[int] = []
        grids: list[list[int]] = []
        for image in images:
            columns, rows = layout.tile_grid(*image.size)
            cut = _tiles(image, columns, rows, tile_size) if (columns, rows) != (1, 1) else []
            views.append(_global_view(image, size.height, stretch, background))
            tiles.extend(cut)
            counts.append(len(cut))
            grids.append([columns, rows])
        pixels = partial(_normalized, mean=image_mean, std=image_std) if do_normalize else _planes
        data: dict[str, Any] = {
            "pixel_values": pixels(views),
            "num_local_patches": np.array(counts),
            "patches_grid": np.array(grids),
        }
        if tiles:
            data["pixel_values_local"] = pixels(tiles)
        return BatchFeature(data, tensor_type=return_tensors)


def _global_view(image: Image.Image, side: int, stretch: bool, background: tuple[int, ...]) -> Image.Image:
    """Fit the image into a square of ``side`` pixels.

    Raises:
        ValueError: when the image is so long that its short side would vanish.
    """
    short, long = sorted(image.size)
    if round(short * side / long) < 1:
        raise UserError(
            f"an image of {image.width} x {image.height} pixels is too long for a view of {side} x {side}: "
            "its short side would vanish; cut it into pages"
        )
    if image.size == (side, side):
        return image
    if stretch:
        return image.resize((side, side), Image.Resampling.BICUBIC)
    return ImageOps.pad(image, (side, side), Image.Resampling.BICUBIC, color=background)


def _tiles(image: Image.Image, columns: int, rows: int, side: int) -> list[Image.Image]:
    """Resize the image to the grid and cut it, row by row."""
    resized = image.resize((columns * side, rows * side), Image.Resampling.BICUBIC)
    return [
        resized.crop((column * side, row * side, (column + 1) * side, (row + 1) * side))
        for row in range(rows)
        for column in range(columns)
    ]


def _normalized(views: list[Image.Image], mean: list[float], std: list[float]) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Return views of equal size as (V, 3, height, width) in float32: each byte has one value, looked up."""
    scaled = np.arange(256, dtype=np.float32)[:, None] / np.float32(255)
    table: np.ndarray[Any, Any] = (scaled - np.array(mean, np.float32)) / np.array(std, np.float32)
    pixels = np.empty((len(views), 3, views[0].height, views[0].width), np.float32)
    for view, values in zip(views, pixels, strict=True):
        array = np.asarray(view)
        for channel in range(3):
            np.take(table[:, channel], array[..., channel], out=values[channel], mode="clip")
    return pixels


def _planes(views: list[Image.Image]) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Return views of equal size as (V, 3, height, width) bytes."""
    return np.stack([np.asarray(view).transpose(2, 0, 1) for view in views])
