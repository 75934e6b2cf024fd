"""Pages of image files that hold several, such as TIFF."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from deepsynth.errors import UserError
from deepsynth.io.images import highest_max_pixels, open_image, page_count, to_rgb
from deepsynth.io.paged_file import PagedFile

#: Endings of formats that may hold several pages.
PAGED_SUFFIXES = frozenset({".tif", ".tiff", ".gif", ".webp"})


@dataclass(frozen=True)
class FramePages(PagedFile):
    """Pages of an image file.

    Attributes:
        path: the file.
        numbers: numbers of the pages in the file, from 0.
    """

    path: Path
    numbers: Sequence[int]

    def __len__(self) -> int:
        """Return the number of pages."""
        return len(self.numbers)

    def load(self, number: int, max_pixels: int, side_px: int) -> Image.Image:
        """Decode a page to RGB.

        Raises:
            UserError: when it cannot be decoded or has too many pixels.
        """
        with open_image(self.path, max_pixels) as image:
            try:
                return to_rgb(image, frame=self.numbers[number], max_pixels=max_pixels)
            except UserError as error:
                raise UserError(f"page {self.numbers[number] + 1} of {error}") from None


def frame_count(path: Path) -> int:
    """Return the number of pages of an image file; 1 for one that cannot be opened, which decoding reports."""
    try:
        with open_image(path, highest_max_pixels()) as image:
            return page_count(image)
    except (UserError, OSError, ValueError, EOFError, SyntaxError):
        return 1
