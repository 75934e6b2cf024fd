"""From a cleaned text to sheets: each page has a design of its own, and begins where the one before it ended."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Literal

from deepsynth.data.fonts.glyphs import Style
from deepsynth.data.fonts.shaping import Shaper
from deepsynth.data.rendering.page_geometry import size_for_budget
from deepsynth.data.typesetting.blocks import Block, block_rows, block_text, visible_characters
from deepsynth.data.typesetting.hyphenation import Hyphenation
from deepsynth.data.typesetting.lines import Typesetter
from deepsynth.data.typesetting.markdown import markdown_blocks
from deepsynth.data.typesetting.pages import Frame, Place, Sheet, fill_page
from deepsynth.data.typesetting.paragraphs import SIZE_STEP_PX

Overflow = Literal["error", "paginate", "shrink", "truncate"]
Markup = Literal["plain", "markdown"]


@dataclass(frozen=True)
class Plan:
    """What must be remembered of a document to set any of its pages again without the others.

    Attributes:
        font_sizes_px: of every page's body text.
        starts: where every page begins.
        continues: whether a page begins within a word.
        characters_cut: visible characters that are on no page.
    """

    font_sizes_px: tuple[float, ...]
    starts: tuple[Place, ...]
    continues: tuple[bool, ...]
    characters_cut: int


@dataclass(frozen=True)
class PageDesign:
    """How one page is to be set.

    Attributes:
        style: of the body, in the size that was drawn.
        frame: the columns.
        leading: distance of baselines, in units of the font size.
        justify: stretch lines to the width of the column.
        hyphenation: divides words at the end of a line.
        characters: that the page shall hold when it is full, which sets the font size instead of the style.
    """

    style: Style
    frame: Frame
    leading: float
    justify: bool
    hyphenation: Hyphenation | None
    characters: float | None


@dataclass(frozen=True)
class Composition:
    """A document about to be set.

    Attributes:
        text: cleaned.
        shaper: for the words.
        design: of a page by its number.
        markup: how the text is read.
        on_overflow: what to do when it takes more pages than allowed.
        max_pages: how many are allowed; ``None`` is any number.
        min_font_size_px: the smallest font that "shrink" may take.
        size_bounds_px: of the font size that a design's ``characters`` may take.
    """

    text: str
    shaper: Shaper
    design: Callable[[int], PageDesign]
    markup: Markup
    on_overflow: Overflow
    max_pages: int | None
    min_font_size_px: float
    size_bounds_px: tuple[float, float]

    def compose(self) -> tuple[Plan, list[Sheet]]:
        """Return the plan and all sheets.

        Raises:
            ValueError: for a character without a font, a page too small for it, or too many pages.
        """
        plan, sheets, more = self._lay_out()
        if more and self.on_overflow == "shrink":
            plan, sheets, more = self._shrunk(max(plan.font_sizes_px))
        if not more:
            return plan, sheets
        if self.on_overflow != "truncate":
            raise ValueError(
                f"its {len(self.text)} characters take more than {self.max_pages} page(s) at a font size of "
                f"{min(plan.font_sizes_px):g} pixels; take a larger max_pages or page, a smaller font_size_px, or "
                "on_overflow 'shrink' or 'truncate'"
            )
        cut = visible_characters([block_text(block) for block in self._blocks()]) - _shown(sheets)
        return Plan(plan.font_sizes_px, plan.starts, plan.continues, cut), sheets

    def sheet(self, plan: Plan, number: int) -> Sheet:
        """Return one sheet, setting no more than what is on it."""
        return self._set(plan.starts[number], self.design(number), plan.font_sizes_px[number])[0]

    def _lay_out(self, largest_px: float = math.inf) -> tuple[Plan, list[Sheet], bool]:
        """Return the plan and the sheets at sizes up to a largest one, and whether text is left."""
        sheets: list[Sheet] = []
        sizes: list[float] = []
        starts: list[Place] = []
        start: Place | None = (0, 0)
        while start is not None and len(sheets) != self.max_pages:
            design = self.design(len(sheets))
            sizes.append(min(self._size(start, design), largest_px))
            starts.append(start)
            sheet, start = self._set(start, design, sizes[-1])
            sheets.append(sheet)
        continues = (False, *[bool(sheet.lines) and sheet.lines[-1].line.joiner == "" for sheet in sheets[:-1]])
        return Plan(tuple(sizes), tuple(starts), continues, 0), sheets, start is not None

    def _size(self, start: Place, design: PageDesign) -> float:
        """Return the font size of a page, from its design or from how much it shall hold."""
        if design.characters is None:
            return design.style.size_px
        page = partial(self._set, start, design)
        return size_for_budget(page, design.frame, design.characters, self.size_bounds_px)

    def _set(self, start: Place, design: PageDesign, size_px: float) -> tuple[Sheet, Place | None]:
        """Return the page that begins at a place, and where the next one begins."""
        body = design.style._replace(size_px=size_px)
        typesetter = Typesetter(self.shaper, body, design.leading, design.justify, design.hyphenation)
        return fill_page(block_rows(self._blocks(), typesetter, design.frame.width, start), design.frame)

    def _blocks(self) -> Sequence[Block]:
        return _blocks(self.text, self.markup)

    def _shrunk(self, size_px: float) -> tuple[Plan, list[Sheet], bool]:
        """Return the pages at the largest font size at which the text fits, else the smallest; smaller ones stay."""
        steps = max(1, math.ceil((size_px - self.min_font_size_px) / SIZE_STEP_PX))
        sizes = [self.min_font_size_px + step * SIZE_STEP_PX for step in range(steps)]
        best = self._lay_out(sizes[0])
        low, high = 1, len(sizes) - 1
        while low <= high and not best[2]:
            middle = (low + high) // 2
            tried = self._lay_out(sizes[middle])
            if tried[2]:
                high = middle - 1
            else:
                best, low = tried, middle + 1
        return best


@lru_cache(maxsize=16)
def _blocks(text: str, markup: Markup) -> Sequence[Block]:
    """Return what a document is made of; remembered, as its pages are asked for one by one."""
    return markdown_blocks(text) if markup == "markdown" else text.split("\n")


def _shown(sheets: Sequence[Sheet]) -> int:
    return visible_characters([placed.line.text for sheet in sheets for placed in sheet.lines])
