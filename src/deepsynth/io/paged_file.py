"""A file with several pages."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL import Image


class PagedFile(ABC):
    """Pages of a file, such as a PDF or TIFF, each decoded when it is asked for."""

    #: Whether the file itself says what text its pages show; then the text of the document is empty.
    has_text: bool = False

    @abstractmethod
    def __len__(self) -> int:
        """Return the number of pages."""

    @abstractmethod
    def load(self, number: int, max_pixels: int, side_px: int) -> Image.Image:
        """Decode a page to RGB.

        Args:
            number: from 0.
            max_pixels: largest number of pixels.
            side_px: longest side that the model can see, for pages that have no size of their own.

        Raises:
            UserError: when it cannot be decoded, with the name of the file.
        """

    def text(self, number: int) -> str:
        """Return the text that the file gives for a page; "" when it gives none."""
        return ""
