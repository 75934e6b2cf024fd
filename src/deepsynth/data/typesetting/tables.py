"""Tables: cells in rows, which may span columns and rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from deepsynth.data.typesetting.paragraphs import Paragraph


class Cell(NamedTuple):
    """A cell of a table.

    Attributes:
        paragraphs: at least one.
        column: number of its first column.
        columns: number of columns that it spans.
        rows: number of rows that it spans.
        is_header: whether it names a row or column.
    """

    paragraphs: tuple[Paragraph, ...]
    column: int
    columns: int
    rows: int
    is_header: bool


@dataclass(frozen=True)
class Table:
    """Cells in rows.

    Attributes:
        rows: for each row the cells that begin in it.
        space_before_em: space above the table, unless it begins a column, in units of the body's font size.
    """

    rows: tuple[tuple[Cell, ...], ...]
    space_before_em: float

    @property
    def columns(self) -> int:
        """Number of columns."""
        return max([cell.column + cell.columns for row in self.rows for cell in row], default=0)

    def groups(self) -> Iterator[tuple[int, int]]:
        """Yield the rows that stay together because a cell spans them, as the first one and the one behind the last."""
        first = end = 0
        for number, row in enumerate(self.rows):
            if number == end:
                if number:
                    yield first, number
                first = number
            end = max([end, number + 1, *[number + cell.rows for cell in row if cell.rows > 1]])
        if self.rows:
            yield first, len(self.rows)


def place_cells(rows: Sequence[Sequence[tuple[tuple[Paragraph, ...], int, int, bool]]]) -> tuple[tuple[Cell, ...], ...]:
    """Return the cells of rows at their places, as HTML puts them: each into the first columns that are free.

    Args:
        rows: for each cell its paragraphs, the columns and rows that it spans, and whether it is a header. A cell that
            spans more rows than there are ends with the table.
    """
    taken: set[tuple[int, int]] = set()
    placed: list[tuple[Cell, ...]] = []
    for number, row in enumerate(rows):
        cells = []
        column = 0
        for paragraphs, columns, spanned, is_header in row:
            while (number, column) in taken:
                column += 1
            free = 1
            while free < columns and (number, column + free) not in taken:
                free += 1
            height = min(spanned, len(rows) - number)
            if height > 1:
                taken |= {(number + y, column + x) for y in range(1, height) for x in range(free)}
            cells.append(Cell(paragraphs, column, free, height, is_header))
            column += free
        placed.append(tuple(cells))
    return tuple(placed)
