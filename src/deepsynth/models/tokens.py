"""How many tokens an image takes: the one count that everything else uses.

The renderer's budget, the processor's prompt, the collator and the model's check before it scatters image features
all ask :class:`ImageLayout`. Nothing here imports torch, transformers or PIL.

An encoder turns a square view of ``S`` pixels into ``n x n`` features, ``n = ceil((S // patch_size) / downsample)``.

* DeepSeek-OCR writes features row by row and ends every row with a newline, then one separator: a view alone takes
  ``n (n + 1) + 1`` tokens, and ``C x R`` tiles of ``m x m`` features add ``m R (m C + 1)``.
* Unlimited-OCR counts as DeepSeek-OCR, with more tiles.
* DeepSeek-OCR-2 has no newlines: ``n^2 + 1`` tokens, and ``m^2`` for every tile.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from math import ceil, isqrt
from typing import Any, Literal, get_args

from deepsynth.errors import UserError

ViewFamily = Literal["deepseek_ocr", "deepseek_ocr2", "unlimited_ocr"]


class Layout(ABC):
    """How an image becomes tokens of a prompt: the count on which renderer, processor and model agree."""

    @abstractmethod
    def tokens(self, width: int, height: int) -> int:
        """Return the number of image tokens of an image of ``width`` x ``height`` pixels."""

    @property
    @abstractmethod
    def longest_side(self) -> int:
        """Longest side in pixels at which an image loses nothing."""

    @property
    @abstractmethod
    def page_side(self) -> int:
        """Side of the square pages that are drawn where the user chooses no size, pixels."""

    def check(self, mode: str) -> None:  # noqa: B027  # most models serve every mode
        """Refuse a mode that the model behind the processor cannot serve."""

    @abstractmethod
    def processor_kwargs(self) -> dict[str, Any]:
        """Return what the family's Hugging Face image processor must be called with."""


class CountedLayout(Layout):
    """A layout that nothing is known of: the tokens of an image are counted in what the processor makes of it.

    Args:
        count: returns the number of image tokens for width and height in pixels; it is asked once for each size.
    """

    def __init__(self, count: Callable[[int, int], int]) -> None:
        self._count = lru_cache(maxsize=1024)(count)

    def tokens(self, width: int, height: int) -> int:
        """Return the number of image tokens of an image of ``width`` x ``height`` pixels."""
        return self._count(width, height)

    def check(self, mode: str) -> None:
        """Refuse a mode that the model behind the processor cannot serve; by default none."""

    @property
    def longest_side(self) -> int:
        """Longest side in pixels at which pages without a size of their own are drawn."""
        return 1024

    @property
    def page_side(self) -> int:
        """Side of the square pages that are drawn where the user chooses no size, pixels."""
        return 1024

    def processor_kwargs(self) -> dict[str, Any]:
        """Return nothing: the processor goes by its own configuration."""
        return {}


@dataclass(frozen=True)
class ImageLayout(Layout):
    """How one image becomes square views, and the views become tokens.

    Attributes:
        family: whose arrangement of tokens it is.
        base_size: side of the global view, pixels.
        tile_size: side of a local tile, pixels; ``None`` for a layout without tiles. An image is tiled when one of
            its sides exceeds it.
        min_tiles: fewest tiles of a tiled image.
        max_tiles: most tiles of a tiled image (9 for DeepSeek-OCR, 6 for DeepSeek-OCR-2, 32 for Unlimited-OCR).
        patch_size: side of one patch of the encoder, pixels.
        downsample: patches along one side of a feature.
        stretch: resize the image to the square whatever its shape (DeepSeek-OCR up to 640 pixels), instead of keeping
            its shape and padding.
    """

    family: ViewFamily
    base_size: int
    tile_size: int | None
    min_tiles: int = 2
    max_tiles: int = 9
    patch_size: int = 16
    downsample: int = 4
    stretch: bool = False

    def __post_init__(self) -> None:
        """Refuse a layout that no encoder can serve.

        Raises:
            UserError: for a size that patches do not fill, or an impossible number of tiles.
            ValueError: for an unknown family.
        """
        if self.family not in MODE_FAMILIES:
            raise ValueError(f"family is {self.family!r}; known: {', '.join(MODE_FAMILIES)}")
        for name, side in (("base_size", self.base_size), ("tile_size", self.tile_size)):
            if side is not None and (side < self.patch_size or side % self.patch_size):
                raise UserError(f"{name} is {side} pixels; it must be a multiple of the patch size {self.patch_size}")
        if self.tile_size is not None and not 2 <= self.min_tiles <= self.max_tiles:
            raise UserError(
                f"min_tiles is {self.min_tiles} and max_tiles {self.max_tiles}; it must be 2 <= min_tiles <= max_tiles"
            )

    @property
    def longest_side(self) -> int:
        """Longest side in pixels at which an image loses nothing: the global view, or the largest square of tiles."""
        return max(self.base_size, (self.tile_size or 0) * isqrt(self.max_tiles))

    @property
    def page_side(self) -> int:
        """Side of the square pages that are drawn where the user chooses no size, pixels: of the global view."""
        return self.base_size

    def check(self, mode: str) -> None:
        """Refuse a mode for which DeepSeek-OCR-2 has no learned queries, as small models with other patches have none.

        Raises:
            UserError: with what there are queries for.
        """
        for side in (self.base_size, self.tile_size or self.base_size):
            if self.family == "deepseek_ocr2" and (count := self.features(side) ** 2) not in (144, 256):
                raise UserError(
                    f"mode is {mode!r}; with patches of {self.patch_size} pixels a view of {side} has {count} "
                    "features, and DeepSeek-OCR-2 has queries only for 144 and 256; leave mode out"
                )

    def features(self, side: int) -> int:
        """Return the number of features along one side of a view of ``side`` pixels."""
        return ceil((side // self.patch_size) / self.downsample)

    def tile_grid(self, width: int, height: int) -> tuple[int, int]:
        """Return (columns, rows) of the local tiles of an image.

        (1, 1) means that there are none, as in the published code: a single tile never occurs.

        Args:
            width: of the image, pixels.
            height: of the image, pixels.

        Raises:
            UserError: when a side is not positive.
        """
        if width < 1 or height < 1:
            raise UserError(f"an image has {width} x {height} pixels; both sides must be at least 1")
        if self.tile_size is None or max(width, height) <= self.tile_size:
            return (1, 1)
        return _closest_grid(width, height, self.tile_size, self.min_tiles, self.max_tiles)

    def tokens(self, width: int, height: int) -> int:
        """Return the number of image tokens of an image of ``width`` x ``height`` pixels."""
        columns, rows = self.tile_grid(width, height)
        return self.grid_tokens(columns, rows)

    def grid_tokens(self, columns: int, rows: int) -> int:
        """Return the number of image tokens of a global view with ``columns`` x ``rows`` tiles; (1, 1) is no tile."""
        view = self.features(self.base_size)
        tile = 0 if self.tile_size is None or (columns, rows) == (1, 1) else self.features(self.tile_size)
        if self.family != "deepseek_ocr2":
            return view * (view + 1) + 1 + tile * rows * (tile * columns + 1)
        return view * view + 1 + tile * tile * columns * rows

    def processor_kwargs(self) -> dict[str, Any]:
        """Return what the family's Hugging Face image processor must be called with."""
        kwargs: dict[str, Any] = {
            "size": {"height": self.base_size, "width": self.base_size},
            "crop_to_patches": self.tile_size is not None,
            # Without tiles DeepSeek-OCR-2's processor takes the global view's side from tile_size.
            "tile_size": self.tile_size or self.base_size,
            "min_patches": self.min_tiles,
            "max_patches": self.max_tiles,
        }
        if self.family == "deepseek_ocr":
            kwargs["stretch"] = self.stretch
        if self.family == "unlimited_ocr":
            kwargs["maximum_pad_value"] = self.base_size if self.stretch else 0
        return kwargs


MODE_FAMILIES: tuple[str, ...] = get_args(ViewFamily)

#: The published resolutions of each family, by the name that its authors gave them. DeepSeek-OCR-2 has learned queries
#: for 768 and 1024 pixels alone.
MODES: dict[str, dict[str, ImageLayout]] = {
    "deepseek_ocr": {
        "tiny": ImageLayout("deepseek_ocr", 512, None, stretch=True),
        "small": ImageLayout("deepseek_ocr", 640, None, stretch=True),
        "base": ImageLayout("deepseek_ocr", 1024, None),
        "large": ImageLayout("deepseek_ocr", 1280, None),
        "gundam": ImageLayout("deepseek_ocr", 1024, 640),
    },
    "deepseek_ocr2": {
        "small": ImageLayout("deepseek_ocr2", 768, None, max_tiles=6),
        "base": ImageLayout("deepseek_ocr2", 1024, None, max_tiles=6),
        "gundam": ImageLayout("deepseek_ocr2", 1024, 768, max_tiles=6),
    },
    "unlimited_ocr": {
        "base": ImageLayout("unlimited_ocr", 1024, None, max_tiles=32),
        "gundam": ImageLayout("unlimited_ocr", 1024, 640, max_tiles=32),
    },
}


def image_layout(hf_processor: Any, mode: str | None = None) -> ImageLayout:
    """Return the layout that a Hugging Face processor (or image processor) will follow.

    Args:
        hf_processor: known by its attributes, so that no library is imported here.
        mode: a name in :data:`MODES`; ``None`` takes what the processor's own configuration says.

    Raises:
        UserError: for a mode that the family does not have.
        ValueError: for a processor of another family.
    """
    images = getattr(hf_processor, "image_processor", hf_processor)
    outputs = getattr(images, "model_input_names", ())
    family: ViewFamily = "deepseek_ocr2"
    if hasattr(images, "maximum_pad_value"):
        family = "unlimited_ocr"
    elif hasattr(images, "stretch"):
        family = "deepseek_ocr"
    if "num_local_patches" not in outputs or (family != "deepseek_ocr2") != ("patches_grid" in outputs):
        raise ValueError(
            f"{type(images).__name__} is no image processor of {' or '.join(MODE_FAMILIES)}; "
            "call deepsynth.models.register() before AutoProcessor loads the model's folder"
        )
    patch_size = int(getattr(hf_processor, "patch_size", None) or 16)
    downsample = int(getattr(hf_processor, "downsample_ratio", None) or 4)
    if mode is not None:
        if mode not in MODES[family]:
            raise UserError(f"mode is {mode!r}; {family} has {', '.join(MODES[family])}")
        return replace(MODES[family][mode], patch_size=patch_size, downsample=downsample)
    tiled = bool(images.crop_to_patches)
    size = images.size
    height = int(size["height"] if isinstance(size, Mapping) else size.height)
    return ImageLayout(
        family=family,
        base_size=height if tiled or family != "deepseek_ocr2" else int(images.tile_size),
        tile_size=int(images.tile_size) if tiled else None,
        min_tiles=int(images.min_patches),
        max_tiles=int(images.max_patches),
        patch_size=patch_size,
        downsample=downsample,
        stretch=_stretches(images, tiled, height),
    )


def _stretches(images: Any, tiled: bool, side: int) -> bool:
    """Return whether an image processor resizes a global view of this side whatever the shape of the image."""
    if hasattr(images, "maximum_pad_value"):
        return not tiled and side <= int(images.maximum_pad_value)
    return bool(getattr(images, "stretch", False))


@lru_cache(maxsize=64)
def _grids(min_tiles: int, max_tiles: int) -> tuple[tuple[int, int], ...]:
    """Return every (columns, rows) of ``min_tiles`` to ``max_tiles`` tiles, fewest tiles first."""
    sides = range(1, max_tiles + 1)
    grids = [(columns, rows) for columns in sides for rows in sides if min_tiles <= columns * rows <= max_tiles]
    return tuple(sorted(grids, key=lambda grid: grid[0] * grid[1]))


def _closest_grid(width: int, height: int, tile_size: int, min_tiles: int, max_tiles: int) -> tuple[int, int]:
    """Return the grid whose shape is nearest to the image's.

    Of equally near grids the one with more tiles wins while the image covers more than half of its area (the rule of
    InternVL's dynamic tiling, which both models follow).
    """
    best, best_difference = (1, 1), float("inf")
    for columns, rows in _grids(min_tiles, max_tiles):
        difference = abs(width / height - columns / rows)
        fills_half = width * height > 0.5 * tile_size * tile_size * columns * rows
        if difference < best_difference or (difference == best_difference and fills_half):
            best, best_difference = (columns, rows), difference
    return best
