"""Features of images that are rows of patches, each with its own grid.

    V  images     P  patches of all of them     H  width of the decoder

They are encoded some at a time: all patches of a large batch together need more memory than they save time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

#: Patches that vision encodes together, by type of device: enough to fill a GPU, and no more than a CPU has in its
#: caches.
PATCHES_AT_ONCE = {"cuda": 32768, "cpu": 4096}


def split_by_image(pixels: torch.Tensor, grids: Sequence[Sequence[int]]) -> list[torch.Tensor]:
    """Return the patches (height, width, ...) of each of V images.

    Args:
        pixels: (P, ...) of all images.
        grids: patches of each in time (1), height and width.
    """
    parts = torch.split(pixels, [time * height * width for time, height, width in grids])
    return [
        part.view(time * height, width, *part.shape[1:])
        for part, (time, height, width) in zip(parts, grids, strict=True)
    ]


def encode_patches(
    encode: Callable[[dict[str, torch.Tensor]], list[torch.Tensor]],
    images: Sequence[torch.Tensor],
    grids: torch.Tensor,
    *,
    at_once: int | None = None,
) -> list[torch.Tensor]:
    """Return the features (tokens, H) of each image, encoded some at a time.

    Args:
        encode: returns the features of images from ``pixel_values`` (P, ...) and ``image_grid_thw`` (V, 3).
        images: as :func:`split_by_image` returns them.
        grids: (V, 3) of these images, on the host.
        at_once: most images that are encoded together; by default by :data:`PATCHES_AT_ONCE`.
    """
    features: list[torch.Tensor] = []
    for first, last in _chunks([image.shape[0] * image.shape[1] for image in images], images, at_once):
        pixels = torch.cat([image.flatten(0, 1) for image in images[first:last]])
        features += encode({"pixel_values": pixels, "image_grid_thw": grids[first:last]})
    return features


def _chunks(sizes: Sequence[int], images: Sequence[torch.Tensor], at_once: int | None) -> list[tuple[int, int]]:
    """Return the first image of each chunk and the one behind its last."""
    most = PATCHES_AT_ONCE.get(images[0].device.type, PATCHES_AT_ONCE["cpu"]) if images else 0
    chunks, first, patches = [], 0, 0
    for index, size in enumerate(sizes):
        full = patches + size > most if at_once is None else index - first >= at_once
        if index > first and full:
            chunks.append((first, index))
            first, patches = index, 0
        patches += size
    return [*chunks, (first, len(sizes))] if sizes else []
