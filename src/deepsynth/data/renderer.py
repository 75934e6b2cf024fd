"""From text to pages: the base of every renderer, and the one that sets type."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
from PIL import ImageColor

from deepsynth.data.cleaning import clean_text
from deepsynth.data.drawing import draw_page
from deepsynth.data.fonts import FontLibrary
from deepsynth.data.layout import Frame, Paragraph, Typesetter, paginate
from deepsynth.data.shaping import Shaper, Style
from deepsynth.types import Document, Page


class Renderer(ABC):
    """Draws a document as one or more pages.

    Everything that varies between pages is drawn from the generator, so that the same seed gives the same pixels in
    any process.
    """

    @abstractmethod
    def __call__(self, document: Document, rng: np.random.Generator) -> list[Page]:
        """Return the document's pages in reading order.

        Raises:
            ValueError: when the text cannot be shown whole and the renderer was not told to do otherwise.
        """

    def count_pages(self, document: Document, rng: np.random.Generator) -> int:
        """Return how many pages the document takes with this generator; override where drawing is not needed for it."""
        return len(self(document, rng))

    def page(self, document: Document, rng: np.random.Generator, number: int) -> Page:
        """Return one page, equal to ``self(document, rng)[number]``; override where the others need not be drawn."""
        return self(document, rng)[number]


@dataclass(frozen=True)
class TextRenderer(Renderer):
    """Sets a document's text in type.

    Attributes:
        page_width_px: of the page.
        page_height_px: of the page.
        margin_px: on every side; a range is drawn from for every document.
        font_size_px: a range is drawn from for every document, in steps of half a pixel.
        fonts: families or font files; one is drawn for every document, and what it lacks comes from the others.
        font_dirs: folders with more fonts.
        system_fonts: also use the fonts that are installed.
        leading: distance of baselines, in units of the font size.
        ink: colours of the text, one is drawn for every document.
        paper: colours of the page, one is drawn for every document.
        on_overflow: what to do with text that one page does not hold: take more pages, or refuse.
    """

    page_width_px: int = 1024
    page_height_px: int = 1024
    margin_px: int | tuple[int, int] = 48
    font_size_px: float | tuple[float, float] = 20.0
    fonts: tuple[str, ...] = ("DejaVu Sans",)
    font_dirs: tuple[str, ...] = ()
    system_fonts: bool = True
    leading: float = 1.3
    ink: tuple[str, ...] = ("black",)
    paper: tuple[str, ...] = ("white",)
    on_overflow: Literal["error", "paginate"] = "paginate"

    def __call__(self, document: Document, rng: np.random.Generator) -> list[Page]:
        """Return the document's pages in reading order.

        Raises:
            ValueError: when a character has no font, or the page is too small.
        """
        try:
            return self._render(document.text, rng.random(8))
        except ValueError as error:
            raise ValueError(f"document {document.id!r}: {error}") from error

    def _render(self, text: str, draws: np.ndarray) -> list[Page]:
        text, removed = clean_text(text)
        shaper = _shaper(self.font_dirs, self.system_fonts)
        style = Style(_choose(self.fonts, draws[0]), _half(_between(self.font_size_px, draws[1])))
        margin = round(_between(self.margin_px, draws[2]))
        frame = Frame((margin,), self.page_width_px - 2 * margin, margin, self.page_height_px - margin)
        paragraphs = [Paragraph(((line, style),)) for line in text.split("\n")]
        pages = paginate(Typesetter(shaper, frame.width, self.leading).lines(paragraphs), frame)
        if self.on_overflow == "error" and len(pages) > 1:
            raise ValueError(f"the text takes {len(pages)} pages; on_overflow is 'error', which allows one")
        ink = ImageColor.getrgb(_choose(self.ink, draws[3]))[:3]
        paper = ImageColor.getrgb(_choose(self.paper, draws[4]))[:3]
        size = (self.page_width_px, self.page_height_px)
        stats = {"characters_removed": float(removed)}
        return [draw_page(lines, size, ink, paper, number, stats) for number, lines in enumerate(pages)]


@lru_cache(maxsize=8)
def _shaper(font_dirs: tuple[str, ...], system_fonts: bool) -> Shaper:
    """Return the process's one shaper for these fonts: caches never travel between processes."""
    return Shaper(FontLibrary(font_dirs, system_fonts))


def _between(value: float | tuple[float, float], draw: float) -> float:
    if isinstance(value, (int, float)):
        return value
    low, high = value
    return low + (high - low) * draw


def _half(size_px: float) -> float:
    return round(size_px * 2) / 2


def _choose(values: tuple[str, ...], draw: float) -> str:
    return values[min(int(draw * len(values)), len(values) - 1)]
