"""From lines to columns and pages, and from pages back to the text.

**How the texts of pages join.** ``join_pages`` puts a new line between the texts of two pages, or nothing where the
page broke within a word (``Page.stats["continues_word"]``). With white space folded (every run of it made one space)
the result equals the cleaned source of a plain-text document, unless the text was truncated.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from PIL import Image

from deepsynth.data.typesetting.lines import LaidOutLine
from deepsynth.data.typesetting.paragraphs import Paragraph
from deepsynth.errors import UserError
from deepsynth.types import Box, Page


@dataclass(frozen=True)
class Frame:
    """The columns of a page.

    Attributes:
        lefts: left edge of every column, pixels.
        width: width of a column, pixels.
        top: top edge of the columns, pixels.
        bottom: bottom edge of the columns, pixels.
        right_to_left: whether the text runs from the right.
    """

    lefts: tuple[int, ...]
    width: int
    top: int
    bottom: int
    right_to_left: bool = False

    @property
    def full_width(self) -> int:
        """Width of all columns, pixels."""
        return max(self.lefts) + self.width - min(self.lefts)

    @property
    def height(self) -> int:
        """Height of a column, pixels."""
        return self.bottom - self.top


def make_frame(width_px: int, height_px: int, margin_px: int, columns: int, gap_px: int) -> Frame:
    """Return the columns of a page.

    Raises:
        UserError: when the margins leave no room.
    """
    width = (width_px - 2 * margin_px - (columns - 1) * gap_px) // columns
    height = height_px - 2 * margin_px
    if width < 1 or height < 1:
        raise UserError(
            f"a page of {width_px} x {height_px} pixels has no room for {columns} column(s) between margins of "
            f"{margin_px} pixels; use a larger page or a smaller margin_px"
        )
    lefts = tuple(margin_px + number * (width + gap_px) for number in range(columns))
    return Frame(lefts, width, margin_px, margin_px + height)


#: Where a row comes from: the index of its block, and within it that of a paragraph's character or a table's row.
TextPosition = tuple[int, int]


@dataclass(slots=True)
class LayoutRow:
    """What stays together on a page: a line of text, or the cells of one row of a table.

    Attributes:
        lines: lines in reading order, each with x from the left of the column and y of the baseline from the top of the
            row, pixels.
        height: height of the row, pixels.
        space_before: space above the row, unless it begins a column, pixels.
        keep_with_next: whether the row may not end a column.
        rules: filled boxes relative to the row, pixels.
        position: where the row comes from.
        fills: boxes relative to the row that are filled lightly, pixels.
        pictures: images with their left and top edges relative to the row, pixels.
        cells: numbers of lines of the cells of a table, in order.
        end: number of the table's row behind it.
        notes: rows of footnotes that stand at the foot of its column.
        block: what it shows, if that is no block of the document.
        spans: whether it spans the columns, at the top of a page.
    """

    lines: list[tuple[LaidOutLine, int, int]]
    height: int
    space_before: int = 0
    keep_with_next: bool = False
    rules: tuple[Box, ...] = ()
    position: TextPosition = (0, 0)
    fills: tuple[Box, ...] = ()
    pictures: tuple[tuple[Image.Image, int, int], ...] = ()
    cells: tuple[int, ...] = ()
    end: int = 0
    notes: Sequence[LayoutRow] = ()
    block: Paragraph | None = None
    spans: bool = False

    @property
    def is_blank(self) -> bool:
        """Whether it shows nothing."""
        return not self.rules and not self.pictures and not any(line.places for line, _, _ in self.lines)

    @property
    def is_divided(self) -> bool:
        """Whether it is a line that ends with a hyphen which is not in the text."""
        return len(self.lines) == 1 and bool(self.lines[0][0].places) and self.lines[0][0].places[-1][0].hyphenated

    def at(self, left: int, top: int) -> list[PositionedLine]:
        """Return the lines of the row at a place of the page."""
        return [PositionedLine(line, left + x, top + baseline) for line, x, baseline in self.lines]


@dataclass(slots=True)
class PositionedLine:
    """A line on a page.

    Attributes:
        line: the line.
        x: left edge of its column, pixels.
        baseline: y of its baseline, pixels.
    """

    line: LaidOutLine
    x: int
    baseline: int


class PlacedRow(NamedTuple):
    """A row on a page.

    Attributes:
        row: the row.
        column: number of its column.
        first_line: index of its first line in ``PageLayout.lines``.
        rules: its filled boxes, pixels of the page.
        fills: its lightly filled boxes, pixels of the page.
        pictures: its images with their left and top edges, pixels of the page.
    """

    row: LayoutRow
    column: int
    first_line: int
    rules: tuple[Box, ...]
    fills: tuple[Box, ...]
    pictures: tuple[tuple[Image.Image, int, int], ...]

    @property
    def areas(self) -> tuple[Box, ...]:
        """Boxes of what it shows besides text."""
        images = [(x, y, x + image.width, y + image.height) for image, x, y in self.pictures]
        return (*self.rules, *self.fills, *images)


@dataclass(slots=True)
class PageLayout:
    """What one page shows, before it is drawn.

    Attributes:
        lines: lines in reading order.
        rows: the rows that they belong to.
    """

    lines: list[PositionedLine] = field(default_factory=list)
    rows: list[PlacedRow] = field(default_factory=list)

    def add(self, row: LayoutRow, column: int, left: int, top: int) -> None:
        """Put a row at a place of the page, pixels."""
        rules = _moved(row.rules, left, top) if row.rules else ()
        fills = _moved(row.fills, left, top) if row.fills else ()
        pictures = tuple([(image, x + left, y + top) for image, x, y in row.pictures]) if row.pictures else ()
        self.rows.append(PlacedRow(row, column, len(self.lines), rules, fills, pictures))
        self.lines += row.at(left, top)

    @property
    def text(self) -> str:
        """Text of the page: its lines with what joins them."""
        parts = [part for positioned in self.lines for part in (positioned.line.text, positioned.line.joiner)]
        return "".join(parts[:-1]).strip("\n")

    @property
    def characters_replaced(self) -> int:
        """Number of characters that were replaced because no font has them."""
        return sum([run.replaced for positioned in self.lines for run, _ in positioned.line.places])


def _moved(boxes: Sequence[Box], x: int, y: int) -> tuple[Box, ...]:
    return tuple([(x0 + x, y0 + y, x1 + x, y1 + y) for x0, y0, x1, y1 in boxes])


def join_pages(pages: Sequence[Page]) -> str:
    """Return the text of a document's pages."""
    parts: list[str] = []
    for page in pages:
        if parts and not page.stats.get("continues_word"):
            parts.append("\n")
        parts.append(page.text)
    return "".join(parts)
