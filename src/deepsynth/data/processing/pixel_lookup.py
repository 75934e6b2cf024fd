"""Views and patches of pages as bytes, with the table of the values that a processor gives them.

Hugging Face's processors resize, pad and cut bytes, and scale and normalize at the end. Asked to leave that out, they
give bytes; a table of 256 values a channel then gives their output, bit for bit, on the device of the model. A page of
the mode's own size is not even resized, so it does not need the processor at all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from deepsynth.io.pixels import pixel_values
from deepsynth.models.tokens import ImageLayout

#: Entries of an image's ``info`` that make a processor change its pixels.
_CHANGING_INFO = ("exif", "transparency")
#: Asks a processor for bytes.
AS_BYTES = {"do_rescale": False, "do_normalize": False}


@dataclass(frozen=True)
class ViewTable:
    """How the views of a processor, in one mode, follow from bytes.

    Attributes:
        layout: of the mode.
        values: (3, 256) float32, by channel and byte.
        others: other outputs of the processor for one page of the mode's size, by name; the first dimension is the
            page. ``None`` when such a page does not stay as it is.
    """

    layout: ImageLayout
    values: torch.Tensor
    others: dict[str, torch.Tensor] | None

    def __call__(self, images: Sequence[Image.Image], image_processor: Any) -> dict[str, torch.Tensor]:
        """Return the processor's outputs for V pages, views as bytes: ``pixel_values`` (V, 3 or 1, S, S), ….

        There is one channel when all views are gray.
        """
        if self.others is not None and self._are_views(images):
            planes = np.empty((len(images), 3, *images[0].size), np.uint8)
            for view, image in zip(planes, images, strict=True):
                cv2.split(np.asarray(image), list(view))
            return {
                "pixel_values": gray_or_color(torch.from_numpy(planes)),
                **{name: torch.cat([value] * len(images)) for name, value in self.others.items()},
            }
        outputs = _outputs(image_processor, images, self.layout, **AS_BYTES)
        return {name: gray_or_color(value) if _is_views(value) else value for name, value in outputs.items()}

    def _are_views(self, images: Sequence[Image.Image]) -> bool:
        """Return whether all images are upright RGB pages of the mode's size."""
        side = self.layout.base_size
        return all(
            image.mode == "RGB"
            and image.size == (side, side)
            and not any(name in image.info for name in _CHANGING_INFO)
            for image in images
        )


@dataclass(frozen=True)
class PatchTable:
    """How the patches of a processor follow from bytes.

    Attributes:
        values: (3, 256) float32, by channel and byte, where patches are pictures; (3, F, 256) where they are rows of
            three channels of F frames.
        side: of a patch, pixels.
    """

    values: torch.Tensor
    side: int

    def pack(self, patches: torch.Tensor) -> torch.Tensor:
        """Return patches as :func:`deepsynth.io.pixels.look_up` takes them: (P, 3 or 1, S, S), 1 when all are gray.

        Args:
            patches: bytes as the processor gives them, which may be numbers of any type.
        """
        planes = patches.view(len(patches), 3, -1, self.side, self.side)[:, :, 0].to(torch.uint8).numpy()
        gray = np.array_equal(planes[:, 0], planes[:, 1]) and np.array_equal(planes[:, 0], planes[:, 2])
        return torch.from_numpy(planes[:, :1] if gray else planes).contiguous()


def patch_table(image_processor: Any) -> PatchTable | None:
    """Return the table of an image processor that gives patches, ``None`` when they do not follow from single bytes.

    It is tried on a page of whole blocks, whose every byte is kept, and on one that is resized.

    Args:
        image_processor: image processor of Hugging Face.
    """
    block, side = image_processor.patch_size * image_processor.merge_size, int(image_processor.patch_size)
    rng, table = np.random.default_rng(0), None
    whole: dict[str, Any] = {"do_resize": False}
    for height, width, resize in ((8 * block, 12 * block, whole), (9 * block + 5, 10 * block - 3, {})):
        image = [Image.fromarray(rng.permuted(np.resize(np.arange(256, dtype=np.uint8), (height, width, 3)), axis=0))]
        expected, found = (_tensors(image_processor, image, **resize, **options) for options in ({}, AS_BYTES))
        patches, wanted = found.get("pixel_values"), expected["pixel_values"]
        if patches is None or wanted.dtype != torch.float32:
            return None
        if table is None:
            pictures = patches.reshape(len(patches), 3, -1, side, side).to(torch.uint8)
            values = _values(pictures.numpy(), wanted.view(pictures.shape).numpy())
            frames = pictures.shape[2]
            is_row = patches.dim() == 2
            table = PatchTable(values[:, None].repeat(1, frames, 1) if is_row else values, side)
        again = pixel_values({**found, "pixel_values": table.pack(patches)}, table.values)
        if again.keys() != expected.keys() or not all(torch.equal(again[name], expected[name]) for name in again):
            return None
    return table


def gray_or_color(views: torch.Tensor) -> torch.Tensor:
    """Return views (V, 3, S, S) as (V, 1, S, S) when their channels are equal."""
    for red, green, blue in views.numpy():
        if cv2.norm(red, green, cv2.NORM_INF) or cv2.norm(red, blue, cv2.NORM_INF):
            return views
    return views[:, :1]


def view_table(image_processor: Any, layout: ImageLayout) -> ViewTable | None:
    """Return the table of an image processor in a mode, ``None`` when its views do not follow from single bytes.

    It is tried on two pages: of the mode's size, and of a shape that is resized, padded and, in a mode with tiles, cut.

    Args:
        image_processor: image processor of Hugging Face.
        layout: image layout of the mode.
    """
    side = layout.base_size
    rng = np.random.default_rng(0)
    # Every byte in every channel, in an order that no resampling leaves as it is.
    page = np.stack([rng.permutation(np.resize(np.arange(256), side * side)) for _ in range(3)], axis=-1)
    page = page.reshape(side, side, 3).astype(np.uint8)
    long = (layout.tile_size or 128) + 2
    other = rng.integers(0, 256, (long // 2, long, 3), dtype=np.uint8)
    values: torch.Tensor | None = None
    others: dict[str, torch.Tensor] | None = None
    for probe in (page, other):
        image = [Image.fromarray(probe)]
        expected = _outputs(image_processor, image, layout)
        found = _outputs(image_processor, image, layout, **AS_BYTES)
        views = found.get("pixel_values")
        if views is None or not _is_views(views) or expected["pixel_values"].dtype != torch.float32:
            return None
        if values is None:
            values = _values(views.numpy(), expected["pixel_values"].numpy())
            stays = len(found.get("pixel_values_local", ())) == 0
            if stays and np.array_equal(views[0].numpy(), page.transpose(2, 0, 1)):
                others = {name: value for name, value in expected.items() if name != "pixel_values"}
        found = pixel_values(found, values)
        if found.keys() != expected.keys() or not all(torch.equal(found[name], expected[name]) for name in found):
            return None
    assert values is not None
    return ViewTable(layout, values, others)


def _outputs(
    image_processor: Any, images: Sequence[Image.Image], layout: ImageLayout, **options: bool
) -> dict[str, torch.Tensor]:
    return _tensors(image_processor, images, **layout.processor_kwargs(), **options)


def _tensors(image_processor: Any, images: Sequence[Image.Image], **options: Any) -> dict[str, torch.Tensor]:
    outputs = image_processor(images=list(images), return_tensors="pt", **options)
    return {name: torch.as_tensor(value) for name, value in outputs.items()}


def _is_views(value: torch.Tensor) -> bool:
    return value.dtype == torch.uint8 and value.dim() == 4 and value.shape[1] == 3


def _values(views: npt.NDArray[np.uint8], expected: npt.NDArray[np.float32]) -> torch.Tensor:
    """Return (3, 256): a value that each byte of a channel has become."""
    values = np.empty((3, 256), np.float32)
    for channel in range(3):
        values[channel, views[:, channel]] = expected[:, channel]
    return torch.from_numpy(values)
