"""From text to pages: the base of every renderer, and the one that sets type."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, lru_cache, partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from deepsynth.data.fonts.library import FontLibrary
from deepsynth.data.fonts.shaping import Shaper
from deepsynth.data.rendering.drawing import draw_page
from deepsynth.data.rendering.options import TextOptions
from deepsynth.data.rendering.page_style import PageStyle, sample_style
from deepsynth.data.text.cleaning import clean_text, fold_whitespace
from deepsynth.data.text.unicode_scripts import region_of
from deepsynth.data.typesetting.composition import Composition, Plan, Source
from deepsynth.data.typesetting.page_blocks import page_blocks
from deepsynth.data.typesetting.pages import PageLayout
from deepsynth.errors import UserError
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
class TextRenderer(TextOptions, Renderer):
    """Sets a document's text in type, as its options say."""

    def __post_init__(self) -> None:
        """Refuse options that contradict each other or cannot be met.

        Raises:
            UserError: with the option's name, its value, and what is allowed.
        """
        super().__post_init__()
        for name in self.fonts:
            self._shaper.library.family(name)

    def __call__(self, document: Document, rng: np.random.Generator) -> list[Page]:
        """Return the document's pages in reading order; a text that shows nothing gives one blank page.

        Raises:
            UserError: for a lone surrogate, a character without a font, a page too small for a character, a text
                beyond ``max_pages`` that may not be cut, or a text that needs shaping without raqm or fribidi.
        """
        with _naming(document):
            job = self._job(document, rng)
            plan, layouts = job.composition.compose()
            return [self._draw(job, plan, layout, number) for number, layout in enumerate(layouts)]

    def count_pages(self, document: Document, rng: np.random.Generator) -> int:
        """Return how many pages the document takes, without drawing them.

        Raises:
            UserError: as drawing would.
        """
        with _naming(document):
            return len(self._job(document, rng).composition.plan().starts)

    def page(self, document: Document, rng: np.random.Generator, number: int) -> Page:
        """Return one page, equal to ``self(document, rng)[number]``; where it begins is remembered from the last time.

        Raises:
            UserError: as drawing all pages would.
            IndexError: when the document has no such page.
        """
        with _naming(document):
            job = self._job(document, rng)
            plan = job.composition.plan()
            if not 0 <= number < len(plan.starts):
                raise IndexError(f"document {document.id!r} has {len(plan.starts)} pages, and no page {number}")
            return self._draw(job, plan, job.composition.layout(plan, number), number)

    @property
    def _shaper(self) -> Shaper:
        return _shaper(self.font_dirs, self.system_fonts, self.on_missing_glyph == "replace")

    def _job(self, document: Document, rng: np.random.Generator) -> _Job:
        seed = int(rng.integers(2**63))
        text, removed, region = _prepared(document.text, document.language)
        style = cache(partial(sample_style, self, seed, region, document.language))
        composition = Composition(
            source=Source(
                text,
                self.markup,
                None if self.figure_dir is None else Path(self.figure_dir).expanduser(),
                self.on_bad_formula == "omit",
            ),
            shaper=self._shaper,
            design=style,
            on_overflow=self.on_overflow,
            max_pages=self.max_pages if self.max_pages is not None or self.on_overflow == "paginate" else 1,
            min_font_size_px=self.min_font_size_px,
            size_bounds_px=self.font_size_px if isinstance(self.font_size_px, tuple) else _BUDGET_SIZES_PX,
            key=(self, hash(text), len(text), document.language, seed),
        )
        return _Job(composition, style, removed)

    def _draw(self, job: _Job, plan: Plan, layout: PageLayout, number: int) -> Page:
        """Draw a page; what was counted for the whole document stands on its first page."""
        style = job.style(number)
        layout = job.composition.furnished(layout, plan, number)
        image, lines = draw_page(layout, self.page_size_px, style.text_color, style.background_color)
        text = layout.text
        characters = len(fold_whitespace(text))
        stats = {
            "font_size_px": plan.font_sizes_px[number],
            "characters": float(characters),
            "characters_replaced": float(layout.characters_replaced),
            "characters_removed": float(job.removed if number == 0 else 0),
            "characters_cut": float(plan.characters_cut if number == 0 else 0),
            "formulas_omitted": float(job.composition.formulas_omitted if number == 0 else 0),
            "continues_word": float(plan.continues[number]),
        }
        tokens = self.image_tokens
        if tokens:
            stats["image_tokens"] = float(tokens)
            stats["characters_per_image_token"] = characters / tokens
        return Page(image, text, lines, number, page_blocks(layout, job.composition.blocks), stats=stats)


class _Job(NamedTuple):
    """A document on its way through the renderer.

    Attributes:
        composition: sets its pages.
        style: returns the style of a page by its number.
        removed: number of characters that cleaning removed.
    """

    composition: Composition
    style: Callable[[int], PageStyle]
    removed: int


@contextmanager
def _naming(document: Document) -> Iterator[None]:
    """Say which document an error is about."""
    try:
        yield
    except UserError as error:
        raise UserError(f"document {document.id!r}: {error}") from error


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
    """Empty this process's caches of glyphs and words: the next pages are rendered as slowly as the first ones."""
    _shaper.cache_clear()
