"""From set lines to columns and pages, and from pages back to the text.

**How the text of pages joins back to the source.** ``join_pages`` puts a new line between the texts of two pages, or
nothing where the page broke within a word (``Page.stats["continues_word"]``). With white space folded (every run of it
made one space) the result equals the cleaned source of a plain-text document, unless the text was truncated.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from deepsynth.data.typesetting.lines import SetLine
from deepsynth.types import Box, Page


@dataclass(frozen=True)
class Frame:
    """The columns of a page, pixels: left edges, their width, top and bottom."""

    lefts: tuple[int, ...]
    width: int
    top: int
    bottom: int

    @property
    def height(self) -> int:
        """Of a column, pixels."""
        return self.bottom - self.top


#: Where a row comes from: the number of its block, and within it that of a paragraph's character or a table's row.
Place = tuple[int, int]


@dataclass(slots=True)
class Row:
    """What stays together on a page: a line of text, or the cells of one row of a table.

    Attributes:
        lines: in reading order, with x from the left of the column and y of the baseline from the top of the row.
        height: pixels.
        space_before: above it, unless it begins a column, pixels.
        keep_with_next: do not end a column with it.
        rules: black boxes relative to the row.
        place: where it comes from.
    """

    lines: list[tuple[SetLine, int, int]]
    height: int
    space_before: int = 0
    keep_with_next: bool = False
    rules: tuple[Box, ...] = ()
    place: Place = (0, 0)

    @property
    def is_blank(self) -> bool:
        """Whether it shows nothing."""
        return not self.rules and not any(line.places for line, _, _ in self.lines)

    @property
    def is_divided(self) -> bool:
        """Whether it is a line that ends with a hyphen which is not in the text."""
        return len(self.lines) == 1 and bool(self.lines[0][0].places) and self.lines[0][0].places[-1][0].hyphenated


@dataclass(slots=True)
class PlacedLine:
    """A line on a page: x of its column and y of its baseline, pixels."""

    line: SetLine
    x: int
    baseline: int


@dataclass(slots=True)
class Sheet:
    """What one page shows, before it is drawn.

    Attributes:
        lines: in reading order.
        rules: boxes in the colour of the text.
    """

    lines: list[PlacedLine] = field(default_factory=list)
    rules: list[Box] = field(default_factory=list)


def row_of(line: SetLine, space_before: int = 0, keep_with_next: bool = False, place: Place = (0, 0)) -> Row:
    """Return the row of one line."""
    return Row([(line, 0, line.ascent)], line.ascent + line.descent, space_before, keep_with_next, place=place)


def fill_page(rows: Iterable[Row], frame: Frame) -> tuple[Sheet, Place | None]:
    """Put rows into the columns of a page.

    Args:
        rows: in reading order; they are taken only as far as the page reaches.
        frame: the columns.

    Returns:
        The page, and the place of the row that the next one begins with, ``None`` when there is none left.

    Raises:
        ValueError: when a row is taller than a column.
    """
    sheet = Sheet()
    before: Row | None = None
    column, y = 0, frame.top
    for row in rows:
        blank = row.is_blank
        if blank and y == frame.top:
            continue
        top = y if y == frame.top else y + row.space_before
        needed = row.height + (row.height * 3 // 2 if row.keep_with_next and y > frame.top else 0)
        if top + needed > frame.bottom and y > frame.top:
            if blank:
                y = frame.bottom
                sheet.lines += _placed(row, 0, y)
                continue
            column, y = column + 1, frame.top
            if column == len(frame.lefts):
                # A page that ended with a hyphen would show what its text lacks: that line is the next page's.
                if before and before.is_divided and len(sheet.lines) > 1:
                    del sheet.lines[-1]
                    return sheet, before.place
                return sheet, row.place
            top = y
        if row.height > frame.height:
            what = "a line" if len(row.lines) == 1 else "a row of a table"
            raise ValueError(
                f"{what} is {row.height} pixels high, more than the {frame.height} pixels between the margins; take a "
                "smaller font_size_px or margin_px, or a higher page"
            )
        left = frame.lefts[column]
        sheet.lines += _placed(row, left, top)
        sheet.rules += [(x0 + left, y0 + top, x1 + left, y1 + top) for x0, y0, x1, y1 in row.rules]
        y = top + row.height
        before = row
    return sheet, None


def _placed(row: Row, left: int, top: int) -> list[PlacedLine]:
    return [PlacedLine(line, left + dx, top + baseline) for line, dx, baseline in row.lines]


def sheet_text(sheet: Sheet) -> str:
    """Return the text of a page: its lines with what joins them."""
    parts = [part for placed in sheet.lines for part in (placed.line.text, placed.line.joiner)]
    return "".join(parts[:-1]).strip("\n")


def join_pages(pages: Sequence[Page]) -> str:
    """Return the text of a document's pages."""
    parts: list[str] = []
    for page in pages:
        if parts and not page.stats.get("continues_word"):
            parts.append("\n")
        parts.append(page.text)
    return "".join(parts)
