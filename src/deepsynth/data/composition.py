"""From a cleaned text to sheets: which font size, and where every page begins."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from deepsynth.data.blocks import Block, block_rows, block_text, plain_blocks, visible_characters
from deepsynth.data.layout import Typesetter
from deepsynth.data.markdown import markdown_blocks
from deepsynth.data.pages import Frame, Place, Sheet, paginate
from deepsynth.data.shaping import Style
from deepsynth.data.typography import SIZE_STEP_PX, size_for_budget

Overflow = Literal["error", "paginate", "shrink", "truncate"]
Markup = Literal["plain", "markdown"]


@dataclass(frozen=True)
class Plan:
    """What must be remembered of a document to set any of its pages again without the others.

    Attributes:
        font_size_px: of the body text.
        starts: block and row that every page begins with.
        continues: whether a page begins within a word.
        characters_cut: visible characters that are on no page.
    """

    font_size_px: float
    starts: tuple[Place, ...]
    continues: tuple[bool, ...]
    characters_cut: int


@dataclass(frozen=True)
class Composition:
    """A document about to be set.

    Attributes:
        text: cleaned.
        style: of the body, in the size that was drawn.
        typesetter: for the lines.
        frame: the columns of a page.
        markup: how the text is read.
        on_overflow: what to do when it takes more pages than allowed.
        max_pages: how many are allowed; ``None`` is any number.
        min_font_size_px: the smallest font that "shrink" may take.
        characters_per_page: that set the font size, instead of the style.
        size_bounds_px: of the font size that ``characters_per_page`` may take.
    """

    text: str
    style: Style
    typesetter: Typesetter
    frame: Frame
    markup: Markup
    on_overflow: Overflow
    max_pages: int | None
    min_font_size_px: float
    characters_per_page: float | None
    size_bounds_px: tuple[float, float]

    def compose(self) -> tuple[Plan, list[Sheet]]:
        """Return the plan and all sheets.

        Raises:
            ValueError: for a character without a font, a page too small for it, or too many pages.
        """
        size = self.style.size_px
        if self.characters_per_page is not None:
            size = size_for_budget(
                lambda size_px: self._lay_out(size_px, 3)[0], self.frame, self.characters_per_page, self.size_bounds_px
            )
        sheets, more = self._lay_out(size, self.max_pages)
        if more and self.on_overflow == "shrink":
            size, sheets, more = self._shrunk(size)
        if more and self.on_overflow != "truncate":
            raise ValueError(
                f"its {len(self.text)} characters take more than {self.max_pages} page(s) at a font size of {size:g} "
                "pixels; take a larger max_pages or page, a smaller font_size_px, or on_overflow 'shrink' or 'truncate'"
            )
        cut = self._characters() - _shown(sheets) if more else 0
        continues = (False, *[bool(a.lines) and a.lines[-1].line.joiner == "" for a, _ in pairwise(sheets)])
        return Plan(size, tuple(sheet.start for sheet in sheets), continues, cut), sheets

    def sheet(self, plan: Plan, number: int) -> Sheet:
        """Return one sheet, setting no more than what is on it."""
        return self._lay_out(plan.font_size_px, 1, plan.starts[number])[0][0]

    def _lay_out(self, size_px: float, max_pages: int | None, start: Place = (0, 0)) -> tuple[list[Sheet], bool]:
        rows = block_rows(self._blocks(size_px, start[0]), self.typesetter, self.frame.width, start)
        return paginate(rows, self.frame, max_pages)

    def _blocks(self, size_px: float, first: int = 0) -> Iterable[Block]:
        style = self.style._replace(size_px=size_px)
        if self.markup == "markdown":
            return markdown_blocks(self.text, style)[first:]
        return plain_blocks(self.text, style, first)

    def _characters(self) -> int:
        return visible_characters([block_text(block) for block in self._blocks(self.style.size_px)])

    def _shrunk(self, size_px: float) -> tuple[float, list[Sheet], bool]:
        """Return the largest smaller font size at which the text fits, else the smallest, with what it gives."""
        steps = max(1, math.ceil((size_px - self.min_font_size_px) / SIZE_STEP_PX))
        sizes = [self.min_font_size_px + step * SIZE_STEP_PX for step in range(steps)]
        best = (sizes[0], *self._lay_out(sizes[0], self.max_pages))
        low, high = 1, len(sizes) - 1
        while low <= high and not best[2]:
            middle = (low + high) // 2
            tried = (sizes[middle], *self._lay_out(sizes[middle], self.max_pages))
            if tried[2]:
                high = middle - 1
            else:
                best, low = tried, middle + 1
        return best


def _shown(sheets: Sequence[Sheet]) -> int:
    return visible_characters([placed.line.text for sheet in sheets for placed in sheet.lines])
