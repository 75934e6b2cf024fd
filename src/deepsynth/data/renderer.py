"""From text to pages: the base of every renderer, and the one that sets type."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import Literal

import numpy as np

from deepsynth.data.blocks import Block, block_rows, block_text, plain_blocks, visible_characters
from deepsynth.data.cleaning import clean_text, fold_whitespace
from deepsynth.data.drawing import draw_page
from deepsynth.data.fonts import FontLibrary
from deepsynth.data.layout import Typesetter
from deepsynth.data.markdown import markdown_blocks
from deepsynth.data.pages import Sheet, paginate, sheet_text
from deepsynth.data.scripts import region_of
from deepsynth.data.shaping import Shaper, Style
from deepsynth.data.typography import (
    SIZE_STEP_PX,
    Look,
    PageShape,
    check_between,
    check_contrast,
    make_frame,
    mode_layout,
    page_size,
    parse_colour,
    quantise,
    size_for_budget,
)
from deepsynth.models.tokens import Family
from deepsynth.types import Document, Page

#: Numbers drawn for a document; more than are used, so that a new option does not change the old ones' values.
_DRAWS = 16
_DEFAULT_SIZE_PX = 20.0
_BUDGET_SIZES_PX = (6.0, 64.0)


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
    """Sets a document's text in type; what is drawn from a range or a list is drawn once for a document.

    The defaults draw black DejaVu Sans of 20 pixels on a white page of 1024 x 1024 pixels.

    Attributes:
        family: whose ``mode``.
        mode: of the model, such as "base": sets the page's size, and counts vision tokens into ``Page.stats``.
        page_width_px: instead of the mode's side.
        page_height_px: instead of the mode's side.
        page_shape: a size of paper, at ``dpi``, instead of pixels.
        dpi: pixels per inch of ``page_shape``.
        margin_px: on every side.
        columns: of text; a range is drawn from.
        column_gap_px: between columns.
        font_size_px: of the body text, in steps of half a pixel. The default is 20, or with ``characters_per_token``
            the bounds 6 to 64.
        characters_per_token: set the type so that a full page holds this many characters per vision token of ``mode``.
        leading: distance of baselines, in units of the font size.
        justify: share of documents whose lines are stretched to the width of the column.
        fonts: families or font files; one is drawn, and what it lacks comes from DejaVu, ``font_dirs`` and the system.
        font_dirs: folders with more fonts.
        system_fonts: also use the fonts that are installed.
        on_missing_glyph: for a character that no font has: refuse, or show (in the text too) and count U+FFFD.
        ink: colours of the text (CSS names or #rrggbb), one is drawn.
        paper: colours of the page, one is drawn.
        markup: "plain" draws the text literally; "markdown" draws headings, emphasis, lists, tables and code as such.
        on_overflow: for a text that takes more than ``max_pages``: refuse; take more pages (``max_pages`` is then a
            hard limit); take a smaller font; or cut the text on the page, never a summary, and count what was cut.
        max_pages: the default is no limit with "paginate", else 1.
        min_font_size_px: the smallest font that "shrink" may take.
    """

    family: Family = "deepseek_ocr"
    mode: str | None = None
    page_width_px: int | None = None
    page_height_px: int | None = None
    page_shape: PageShape | None = None
    dpi: float = 100.0
    margin_px: int | tuple[int, int] = 48
    columns: int | tuple[int, int] = 1
    column_gap_px: int = 32
    font_size_px: float | tuple[float, float] | None = None
    characters_per_token: float | tuple[float, float] | None = None
    leading: float | tuple[float, float] = 1.3
    justify: float = 0.0
    fonts: tuple[str, ...] = ("DejaVu Sans",)
    font_dirs: tuple[str, ...] = ()
    system_fonts: bool = True
    on_missing_glyph: Literal["error", "replace"] = "error"
    ink: tuple[str, ...] = ("black",)
    paper: tuple[str, ...] = ("white",)
    markup: Literal["plain", "markdown"] = "plain"
    on_overflow: Literal["error", "paginate", "shrink", "truncate"] = "paginate"
    max_pages: int | None = None
    min_font_size_px: float = 6.0

    def __post_init__(self) -> None:
        """Refuse options that contradict each other or cannot be met.

        Raises:
            ValueError: with the option's name.
        """
        for field in fields(self):  # lists, as a YAML file or a hand gives them
            if isinstance(getattr(self, field.name), list):
                object.__setattr__(self, field.name, tuple(getattr(self, field.name)))
        self._check_ranges()
        size = self.page_size_px  # refuses an unknown mode
        pixels = self.page_width_px is not None or self.page_height_px is not None
        if self.page_shape is not None and pixels:
            raise ValueError(
                f"page_shape is {self.page_shape!r} and page_width_px or page_height_px is given too; give one of them"
            )
        if self.characters_per_token is not None and self.mode is None:
            raise ValueError(
                "characters_per_token needs a mode, whose vision tokens it counts; give mode, as in 'base'"
            )
        if self.characters_per_token is not None and isinstance(self.font_size_px, (int, float)):
            raise ValueError(
                f"font_size_px is {self.font_size_px} and characters_per_token is given too; give font_size_px as a "
                "range of allowed sizes, or leave it out"
            )
        for margin in self.margin_px if isinstance(self.margin_px, tuple) else (self.margin_px,):
            for columns in self.columns if isinstance(self.columns, tuple) else (self.columns,):
                make_frame(*size, margin, columns, self.column_gap_px)
        inks, papers = ([parse_colour(colour) for colour in colours] for colours in (self.ink, self.paper))
        for ink, name in zip(inks, self.ink, strict=True):
            for paper, paper_name in zip(papers, self.paper, strict=True):
                check_contrast(ink, paper, name, paper_name)
        library = _shaper(self.font_dirs, self.system_fonts, self.on_missing_glyph == "replace").library
        for name in self.fonts:
            library.family(name)

    def _check_ranges(self) -> None:
        for name, least, most in (
            ("page_width_px", 16, 20_000),
            ("page_height_px", 16, 20_000),
            ("dpi", 10, 2400),
            ("margin_px", 0, 10_000),
            ("columns", 1, 8),
            ("column_gap_px", 0, 10_000),
            ("font_size_px", 1, 1000),
            ("characters_per_token", 0.01, 1000),
            ("leading", 0.5, 10),
            ("justify", 0, 1),
            ("max_pages", 1, 1_000_000),
            ("min_font_size_px", 1, 1000),
        ):
            check_between(name, getattr(self, name), least, most)
        for name in ("fonts", "ink", "paper"):
            if isinstance(getattr(self, name), str) or not getattr(self, name):
                raise ValueError(f"{name} is {getattr(self, name)!r}; it must be a list of at least one")

    @property
    def page_size_px(self) -> tuple[int, int]:
        """Width and height of a page."""
        layout = mode_layout(self.family, self.mode)
        return page_size(layout, self.page_width_px, self.page_height_px, self.page_shape, self.dpi)

    @property
    def image_tokens(self) -> int | None:
        """Vision tokens of a page in the renderer's mode, ``None`` without a mode."""
        layout = mode_layout(self.family, self.mode)
        return layout.tokens(*self.page_size_px) if layout else None

    def __call__(self, document: Document, rng: np.random.Generator) -> list[Page]:
        """Return the document's pages in reading order; a text without ink gives one blank page.

        Raises:
            ValueError: for a lone surrogate, a character without a font, a page too small for a character, or a text
                beyond ``max_pages`` that may not be cut.
            ImportError: when the text needs shaping, and raqm or fribidi is missing.
        """
        # Always as many draws, so that one option's range leaves the others' values alone.
        draws = rng.random(_DRAWS)
        try:
            return self._pages(document, draws)
        except ValueError as error:
            raise ValueError(f"document {document.id!r}: {error}") from error

    def _pages(self, document: Document, draws: np.ndarray) -> list[Page]:
        text, removed = clean_text(document.text)
        look = self._look(draws)
        shaper = _shaper(self.font_dirs, self.system_fonts, self.on_missing_glyph == "replace")
        typesetter = Typesetter(shaper, look.leading, look.justify)
        frame = make_frame(*self.page_size_px, look.margin_px, look.columns, self.column_gap_px)
        body = Style(look.family, look.font_size_px, region=region_of(text, document.language))

        def lay_out(size_px: float, max_pages: int | None = self._page_limit) -> tuple[list[Sheet], bool]:
            blocks = _blocks(text, body._replace(size_px=size_px), self.markup)
            return paginate(block_rows(blocks, typesetter, frame.width), frame, max_pages)

        size = look.font_size_px
        if look.characters_per_token is not None:
            characters = look.characters_per_token * (self.image_tokens or 0)
            size = size_for_budget(lambda size_px: lay_out(size_px, 3)[0], frame, characters, self._size_bounds)
        sheets, more = lay_out(size)
        if more and self.on_overflow == "shrink":
            size, sheets, more = _shrink(lay_out, size, self.min_font_size_px)
        if more and self.on_overflow != "truncate":
            raise ValueError(
                f"its {len(text)} characters take more than {self._page_limit} page(s) at a font size of {size:g} "
                "pixels; take a larger max_pages or page, a smaller font_size_px, or on_overflow 'shrink' or 'truncate'"
            )
        stats = {"font_size_px": size, "characters_removed": float(removed), "characters_cut": 0.0}
        if more:
            whole = visible_characters([block_text(block) for block in _blocks(text, body, self.markup)])
            shown = visible_characters([placed.line.text for sheet in sheets for placed in sheet.lines])
            stats["characters_cut"] = float(whole - shown)
        return self._draw(sheets, look, stats)

    def _draw(self, sheets: Sequence[Sheet], look: Look, stats: dict[str, float]) -> list[Page]:
        """Draw the sheets; what was counted for the document stands on its first page."""
        pages: list[Page] = []
        tokens = self.image_tokens
        for number, sheet in enumerate(sheets):
            characters = len(fold_whitespace(sheet_text(sheet)))
            counted = dict(stats) if number == 0 else {"font_size_px": stats["font_size_px"]}
            counted["characters"] = float(characters)
            counted["characters_replaced"] = float(
                sum(piece.replaced for placed in sheet.lines for piece, _ in placed.line.places)
            )
            if tokens:
                counted["image_tokens"] = float(tokens)
                counted["characters_per_image_token"] = characters / tokens
            if number and sheets[number - 1].lines and sheets[number - 1].lines[-1].line.joiner == "":
                counted["continues_word"] = 1.0
            pages.append(draw_page(sheet, self.page_size_px, look.ink, look.paper, number, counted))
        return pages

    def _look(self, draws: np.ndarray) -> Look:
        """Return a document's look from numbers in [0, 1)."""
        budget = self.characters_per_token
        size = self.font_size_px if self.font_size_px is not None else _DEFAULT_SIZE_PX
        return Look(
            family=_choose(self.fonts, draws[0]),
            font_size_px=quantise(_between(size, draws[1])),
            margin_px=round(_between(self.margin_px, draws[2])),
            columns=round(_between(self.columns, draws[3])),
            leading=_between(self.leading, draws[4]),
            justify=bool(draws[5] < self.justify),
            ink=parse_colour(_choose(self.ink, draws[6])),
            paper=parse_colour(_choose(self.paper, draws[7])),
            characters_per_token=None if budget is None else _between(budget, draws[8]),
        )

    @property
    def _page_limit(self) -> int | None:
        return self.max_pages if self.max_pages is not None or self.on_overflow == "paginate" else 1

    @property
    def _size_bounds(self) -> tuple[float, float]:
        return self.font_size_px if isinstance(self.font_size_px, tuple) else _BUDGET_SIZES_PX


@lru_cache(maxsize=8)
def _shaper(font_dirs: tuple[str, ...], system_fonts: bool, replace_missing: bool) -> Shaper:
    """Return the process's one shaper for these fonts: caches never travel between processes."""
    return Shaper(FontLibrary(font_dirs, system_fonts), replace_missing)


def _blocks(text: str, style: Style, markup: str) -> Sequence[Block]:
    return markdown_blocks(text, style) if markup == "markdown" else plain_blocks(text, style)


def _shrink(
    lay_out: Callable[[float], tuple[list[Sheet], bool]], size_px: float, min_size_px: float
) -> tuple[float, list[Sheet], bool]:
    """Return the largest font size below one at which the text fits, or the smallest, and what it gives."""
    low, high = 0, max(0, math.ceil((size_px - min_size_px) / SIZE_STEP_PX))
    sizes = [min_size_px + step * SIZE_STEP_PX for step in range(high)] or [min_size_px]
    best = (sizes[0], *lay_out(sizes[0]))
    low, high = 1, len(sizes) - 1
    while low <= high and not best[2]:
        middle = (low + high) // 2
        tried = (sizes[middle], *lay_out(sizes[middle]))
        if tried[2]:
            high = middle - 1
        else:
            best, low = tried, middle + 1
    return best


def _between(value: float | tuple[float, float], draw: float) -> float:
    if isinstance(value, tuple):
        return value[0] + (value[1] - value[0]) * float(draw)
    return value


def _choose(values: tuple[str, ...], draw: float) -> str:
    return values[min(int(draw * len(values)), len(values) - 1)]
