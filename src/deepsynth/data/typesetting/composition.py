"""From a cleaned text to page layouts: each page has its own design, and begins where the one before it ended."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Literal, NamedTuple

from deepsynth.data.fonts.formulas import can_set
from deepsynth.data.fonts.glyphs import FontStyle
from deepsynth.data.fonts.shaping import Shaper
from deepsynth.data.markup.markdown import markdown_blocks
from deepsynth.data.text.bidi import runs_right_to_left
from deepsynth.data.typesetting.blocks import Block, block_rows, block_text, visible_characters
from deepsynth.data.typesetting.filling import fill_page
from deepsynth.data.typesetting.furniture import furnish
from deepsynth.data.typesetting.hyphenation import Hyphenation
from deepsynth.data.typesetting.lines import Typesetter
from deepsynth.data.typesetting.pages import Frame, PageLayout, TextPosition
from deepsynth.data.typesetting.paragraphs import SIZE_STEP_PX, Look, Paragraph, quantize
from deepsynth.errors import UserError

Overflow = Literal["error", "paginate", "shrink", "truncate"]
Markup = Literal["plain", "markdown"]

#: A first guess at the width of a letter and the distance of lines, in units of the font size; corrected by measuring.
_LETTER_WIDTH = 0.55
_LINE_HEIGHT = 1.3


@dataclass(frozen=True)
class Plan:
    """What must be remembered of a document to set any of its pages again without the others.

    Attributes:
        font_sizes_px: font size of every page's body text, pixels.
        starts: position that every page begins with.
        continues: whether a page begins within a word, for every page.
        characters_cut: number of visible characters that are on no page.
    """

    font_sizes_px: tuple[float, ...]
    starts: tuple[TextPosition, ...]
    continues: tuple[bool, ...]
    characters_cut: int


#: Plans of documents by ``Composition.key``, in this process alone; about 100 bytes a page.
_PLANS: OrderedDict[Hashable, Plan] = OrderedDict()
_REMEMBERED_PLANS = 20_000


@dataclass(frozen=True)
class PageDesign:
    """How the text of one page is set.

    Attributes:
        font: font and size of the body text.
        frame: the columns.
        line_height: distance of baselines, in units of the font size.
        justify: stretch lines to the width of the column.
        hyphenation: divides words at the end of a line.
        look: how blocks are set.
        characters: number of characters on a full page, which sets the font size instead of ``font``.
    """

    font: FontStyle
    frame: Frame
    line_height: float
    justify: bool
    hyphenation: Hyphenation | None
    look: Look
    characters: float | None


class Source(NamedTuple):
    """What is set.

    Attributes:
        text: the cleaned text.
        markup: how it is parsed.
        figures: folder of the images that it names.
        omits_formulas: leave formulas out that cannot be set, instead of stopping.
    """

    text: str
    markup: Markup = "plain"
    figures: Path | None = None
    omits_formulas: bool = False


@dataclass(frozen=True)
class Composition:
    """Sets a document page by page.

    Attributes:
        source: what is set.
        shaper: shapes the words.
        design: returns the design of a page by its number.
        on_overflow: what to do when it takes more pages than allowed.
        max_pages: number of pages that are allowed; ``None`` is any number.
        min_font_size_px: the smallest font that "shrink" may take.
        size_bounds_px: bounds of the font size that a design's ``characters`` may take.
        key: identifies text, options and seed, to remember the plan by.
    """

    source: Source
    shaper: Shaper
    design: Callable[[int], PageDesign]
    on_overflow: Overflow
    max_pages: int | None
    min_font_size_px: float
    size_bounds_px: tuple[float, float]
    key: Hashable

    def plan(self) -> Plan:
        """Return the plan; it is remembered from the last time, or all pages are set.

        Raises:
            UserError: as :meth:`compose` does.
        """
        return _PLANS.get(self.key) or self.compose()[0]

    def compose(self) -> tuple[Plan, list[PageLayout]]:
        """Return the plan and all pages.

        Raises:
            UserError: for a character without a font, a page too small for it, or too many pages.
        """
        plan, layouts, more = self._lay_out()
        if more and self.on_overflow == "shrink":
            plan, layouts, more = self._shrunk(max(plan.font_sizes_px))
        if more and self.on_overflow != "truncate":
            raise UserError(
                f"its {len(self.source.text)} characters take more than {self.max_pages} page(s) at a font size of "
                f"{min(plan.font_sizes_px):g} pixels; use a larger max_pages or page, a smaller font_size_px, or "
                "on_overflow 'shrink' or 'truncate'"
            )
        if more:
            shown = visible_characters([positioned.line.text for layout in layouts for positioned in layout.lines])
            cut = visible_characters([block_text(block) for block in self.blocks]) - shown
            plan = Plan(plan.font_sizes_px, plan.starts, plan.continues, cut)
        _PLANS[self.key] = plan
        if len(_PLANS) > _REMEMBERED_PLANS:
            _PLANS.popitem(last=False)
        return plan, layouts

    def layout(self, plan: Plan, number: int) -> PageLayout:
        """Return one page, setting no more than what is on it."""
        return self._set(plan.starts[number], self.design(number), plan.font_sizes_px[number])[0]

    def _lay_out(self, largest_px: float = math.inf) -> tuple[Plan, list[PageLayout], bool]:
        """Return the plan and the layouts at sizes up to a largest one, and whether text is left."""
        layouts: list[PageLayout] = []
        sizes: list[float] = []
        starts: list[TextPosition] = []
        start: TextPosition | None = (0, 0)
        while start is not None and len(layouts) != self.max_pages:
            design = self.design(len(layouts))
            sizes.append(min(self._size(start, design), largest_px))
            starts.append(start)
            layout, start = self._set(start, design, sizes[-1])
            layouts.append(layout)
        continues = (False, *[bool(layout.lines) and layout.lines[-1].line.joiner == "" for layout in layouts[:-1]])
        return Plan(tuple(sizes), tuple(starts), continues, 0), layouts, start is not None

    def _shrunk(self, size_px: float) -> tuple[Plan, list[PageLayout], bool]:
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

    def _set(self, start: TextPosition, design: PageDesign, size_px: float) -> tuple[PageLayout, TextPosition | None]:
        """Return the page that begins at a position, and where the next one begins."""
        typesetter = self._typesetter(design, size_px)
        frame = design.frame
        if _runs_right_to_left(self.source.text):
            frame = replace(frame, lefts=frame.lefts[::-1], right_to_left=True)
        return fill_page(block_rows(self.blocks, typesetter, frame, start), frame)

    def _typesetter(self, design: PageDesign, size_px: float) -> Typesetter:
        body = design.font._replace(size_px=size_px)
        return Typesetter(self.shaper, body, design.line_height, design.justify, design.hyphenation, design.look)

    def furnished(self, layout: PageLayout, plan: Plan, number: int) -> PageLayout:
        """Return a page with what its design has in the margins: the title above or below it, its number below."""
        design = self.design(number)
        headings = (block.text for block in self.blocks if isinstance(block, Paragraph) and block.heading)
        title = next(headings, "") if design.look.running_head or design.look.running_foot else ""
        return furnish(layout, self._typesetter(design, plan.font_sizes_px[number]), design.frame, title, number + 1)

    def _size(self, start: TextPosition, design: PageDesign) -> float:
        """Return the font size of a page: its design's, or the one at which a full page holds so many characters.

        A page's capacity goes with the inverse square of the size, so two corrections from the page itself are enough.
        """
        if design.characters is None:
            return design.font.size_px
        frame = design.frame
        area = frame.width * frame.height * len(frame.lefts)
        size = self._within_bounds(math.sqrt(area / design.characters / _LETTER_WIDTH / _LINE_HEIGHT))
        for _ in range(2):
            capacity = _capacity(*self._set(start, design, size), frame)
            better = self._within_bounds(size * math.sqrt(capacity / design.characters))
            if better == size:
                break
            size = better
        return size

    def _within_bounds(self, size_px: float) -> float:
        return quantize(min(max(size_px, self.size_bounds_px[0]), self.size_bounds_px[1]))

    @property
    def blocks(self) -> Sequence[Block]:
        """What the document is made of."""
        return _blocks(self.source)[0]

    @property
    def formulas_omitted(self) -> int:
        """Number of formulas that could not be set and were left out."""
        return _blocks(self.source)[1]


_runs_right_to_left = lru_cache(maxsize=16)(runs_right_to_left)


@lru_cache(maxsize=16)
def _blocks(source: Source) -> tuple[Sequence[Block], int]:
    """Return what a document is made of, and how many formulas it lacks; its pages are asked for one by one."""
    if source.markup == "plain":
        return source.text.split("\n"), 0
    return markdown_blocks(source.text, source.figures, can_set if source.omits_formulas else None)


def _capacity(layout: PageLayout, rest: TextPosition | None, frame: Frame) -> float:
    """Return how many characters a full page holds, extrapolated from a part of one."""
    characters = max(1, sum(len(positioned.line.text) + 1 for positioned in layout.lines))
    if rest is not None:
        return characters
    columns_before = layout.rows[-1].column if layout.lines else 0
    used = columns_before * frame.height + (layout.lines[-1].baseline - frame.top if layout.lines else frame.height)
    return characters * frame.height * len(frame.lefts) / max(used, 1)
