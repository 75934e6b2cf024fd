"""From set lines to columns and pages, and from pages back to the text.

**How the text of pages joins back to the source.** ``join_pages`` puts a new line between the texts of two pages, or
nothing where the page broke within a word (``Page.stats["continues_word"]``). With white space folded (every run of it
made one space) the result equals the cleaned source of a plain-text document, unless the text was truncated.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from deepsynth.data.layout import SetLine
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


#: Where a row comes from: the number of its block, and its number within it.
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
        start: the row that it begins with.
    """

    lines: list[PlacedLine] = field(default_factory=list)
    rules: list[Box] = field(default_factory=list)
    start: Place = (0, 0)


def row_of(line: SetLine, space_before: int = 0, keep_with_next: bool = False) -> Row:
    """Return the row of one line."""
    return Row([(line, 0, line.ascent)], line.ascent + line.descent, space_before, keep_with_next)


def paginate(rows: Iterable[Row], frame: Frame, max_pages: int | None = None) -> tuple[list[Sheet], bool]:
    """Put rows into columns and pages.

    Args:
        rows: in reading order; they are taken only as far as the pages reach.
        frame: the columns.
        max_pages: stop when these are full.

    Returns:
        The pages, at least one, and whether there were rows left.

    Raises:
        ValueError: when a row is taller than a column.
    """
    sheets = [Sheet()]
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
                sheets[-1].lines += _placed(row, 0, y)
                continue
            column, y = column + 1, frame.top
            if column == len(frame.lefts):
                if len(sheets) == max_pages:
                    return sheets, True
                sheets.append(Sheet())
                column = 0
            top = y
        if row.height > frame.height:
            what = "a line" if len(row.lines) == 1 else "a row of a table"
            raise ValueError(
                f"{what} is {row.height} pixels high, more than the {frame.height} pixels between the margins; take a "
                "smaller font_size_px or margin_px, or a higher page"
            )
        if not sheets[-1].lines and not sheets[-1].rules:
            sheets[-1].start = row.place
        left = frame.lefts[column]
        sheets[-1].lines += _placed(row, left, top)
        sheets[-1].rules += [(x0 + left, y0 + top, x1 + left, y1 + top) for x0, y0, x1, y1 in row.rules]
        y = top + row.height
    return sheets, False


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
