"""From text to pages: the base of every renderer, and the one that sets type."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import Any, Literal, NamedTuple

import numpy as np

from deepsynth.data.fonts.glyphs import Style
from deepsynth.data.fonts.library import FontLibrary
from deepsynth.data.fonts.shaping import Shaper
from deepsynth.data.rendering.drawing import draw_page
from deepsynth.data.rendering.options import check_options
from deepsynth.data.rendering.page_geometry import PageShape, make_frame, mode_layout, page_size
from deepsynth.data.rendering.page_style import Look, draw_look
from deepsynth.data.text.cleaning import clean_text, fold_whitespace
from deepsynth.data.text.scripts import region_of
from deepsynth.data.typesetting.composition import Composition, Markup, Overflow, PageDesign, Plan
from deepsynth.data.typesetting.hyphenation import hyphenation_for
from deepsynth.data.typesetting.pages import Sheet, sheet_text
from deepsynth.models.tokens import Family
from deepsynth.types import Document, Page

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
    """Sets a document's text in type; what is drawn from a range or a list is drawn for every page on its own.

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
        justify: share of pages whose lines are stretched to the width of the column.
        hyphenate: share of pages whose words may be divided at the end of a line, by the patterns of the document's
            language (English when it names none); the hyphen is drawn, and is not in the page's text. Needs pyphen.
        fonts: families or font files (one of matplotlib's wheel by its name alone, as ``STIXGeneralItalic.ttf``); one
            is drawn, and what it lacks comes from DejaVu, ``font_dirs`` and the system.
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
    hyphenate: float = 0.0
    fonts: tuple[str, ...] = ("DejaVu Sans",)
    font_dirs: tuple[str, ...] = ()
    system_fonts: bool = True
    on_missing_glyph: Literal["error", "replace"] = "error"
    ink: tuple[str, ...] = ("black",)
    paper: tuple[str, ...] = ("white",)
    markup: Markup = "plain"
    on_overflow: Overflow = "paginate"
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
        check_options(self)
        library = _shaper(self.font_dirs, self.system_fonts, self.on_missing_glyph == "replace").library
        for name in self.fonts:
            library.family(name)

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
        job = self._job(document, rng)
        with _naming(document):
            plan, sheets = job.composition.compose()
            _remember(job.key, plan)
            return [self._draw(job, plan, sheet, number) for number, sheet in enumerate(sheets)]

    def count_pages(self, document: Document, rng: np.random.Generator) -> int:
        """Return how many pages the document takes, without drawing them.

        Raises:
            ValueError: as drawing would.
        """
        job = self._job(document, rng)
        with _naming(document):
            return len(self._plan(job).starts)

    def page(self, document: Document, rng: np.random.Generator, number: int) -> Page:
        """Return one page, equal to ``self(document, rng)[number]``; where it begins is remembered from the last time.

        Raises:
            ValueError: as drawing all pages would.
            IndexError: when the document has no such page.
        """
        job = self._job(document, rng)
        with _naming(document):
            plan = self._plan(job)
            if not 0 <= number < len(plan.starts):
                raise IndexError(f"document {document.id!r} has {len(plan.starts)} pages, and no page {number}")
            return self._draw(job, plan, job.composition.sheet(plan, number), number)

    def _plan(self, job: _Job) -> Plan:
        plan = _PLANS.get(job.key)
        if plan is None:
            plan = job.composition.compose()[0]
            _remember(job.key, plan)
        return plan

    def _job(self, document: Document, rng: np.random.Generator) -> _Job:
        seed = int(rng.integers(2**63))
        with _naming(document):
            text, removed, region = _prepared(document.text, document.language)
        composition = Composition(
            text=text,
            shaper=_shaper(self.font_dirs, self.system_fonts, self.on_missing_glyph == "replace"),
            design=lambda number: self._design(draw_look(self, seed, number), region, document.language),
            markup=self.markup,
            on_overflow=self.on_overflow,
            max_pages=self.max_pages if self.max_pages is not None or self.on_overflow == "paginate" else 1,
            min_font_size_px=self.min_font_size_px,
            size_bounds_px=self.font_size_px if isinstance(self.font_size_px, tuple) else _BUDGET_SIZES_PX,
        )
        return _Job(seed, composition, removed, (self, hash(text), len(text), document.language, seed))

    def _design(self, look: Look, region: str, language: str | None) -> PageDesign:
        density = look.characters_per_token
        return PageDesign(
            style=Style(look.family, look.font_size_px, region=region),
            frame=make_frame(*self.page_size_px, look.margin_px, look.columns, self.column_gap_px),
            leading=look.leading,
            justify=look.justify,
            hyphenation=hyphenation_for(language) if look.hyphenate else None,
            characters=None if density is None else density * (self.image_tokens or 0),
        )

    def _draw(self, job: _Job, plan: Plan, sheet: Sheet, number: int) -> Page:
        """Draw a sheet; what was counted for the whole document stands on its first page."""
        tokens = self.image_tokens
        characters = len(fold_whitespace(sheet_text(sheet)))
        replaced = sum([piece.replaced for placed in sheet.lines for piece, _ in placed.line.places])
        stats = {
            "font_size_px": plan.font_sizes_px[number],
            "characters": float(characters),
            "characters_replaced": float(replaced),
            "characters_removed": float(job.removed if number == 0 else 0),
            "characters_cut": float(plan.characters_cut if number == 0 else 0),
            "continues_word": float(plan.continues[number]),
        }
        if tokens:
            stats["image_tokens"] = float(tokens)
            stats["characters_per_image_token"] = characters / tokens
        look = draw_look(self, job.seed, number)
        return draw_page(sheet, self.page_size_px, look.ink, look.paper, number, stats)


class _Job(NamedTuple):
    """A document on its way through the renderer, and what it is remembered by."""

    seed: int
    composition: Composition
    removed: int
    key: tuple[Any, ...]


#: Where the pages of documents begin, in this process alone; about 100 bytes a page.
_PLANS: OrderedDict[tuple[Any, ...], Plan] = OrderedDict()
_REMEMBERED_PLANS = 20_000


def _remember(key: tuple[Any, ...], plan: Plan) -> None:
    _PLANS[key] = plan
    if len(_PLANS) > _REMEMBERED_PLANS:
        _PLANS.popitem(last=False)


@contextmanager
def _naming(document: Document) -> Iterator[None]:
    """Say which document an error is about."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"document {document.id!r}: {error}") from error
    except ImportError as error:
        raise ImportError(f"document {document.id!r}: {error}") from error


@lru_cache(maxsize=16)
def _prepared(text: str, language: str | None) -> tuple[str, int, str]:
    """Return a text cleaned, with what was removed and its region: the pages of a book are asked for one by one."""
    cleaned, removed = clean_text(text)
    return cleaned, removed, region_of(cleaned, language)


@lru_cache(maxsize=8)
def _shaper(font_dirs: tuple[str, ...], system_fonts: bool, replace_missing: bool) -> Shaper:
    """Return the process's one shaper for these fonts: caches never travel between processes."""
    return Shaper(FontLibrary(font_dirs, system_fonts), replace_missing)


def forget_drawn_text() -> None:
    """Empty this process's caches of glyphs, words and page starts, as they are in a new one."""
    _shaper.cache_clear()
    _PLANS.clear()
