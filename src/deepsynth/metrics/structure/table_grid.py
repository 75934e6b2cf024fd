"""A table as a grid of cells, and which cells stand beside each other."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from lxml import html

from deepsynth.metrics.otsl import otsl_to_html

_UP, _DOWN, _LEFT, _RIGHT = (-1, 0), (1, 0), (0, -1), (0, 1)
DIRECTIONS = {"up": _UP, "down": _DOWN, "left": _LEFT, "right": _RIGHT}
#: What XML cannot hold.
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")
_RULE = re.compile(r"[-\s:|]*-[-\s:|]*|[-\s:|]+")


@dataclass(frozen=True)
class Cell:
    """A cell of a table.

    Attributes:
        text: content, without white space at its ends.
        rows: rows that it spans.
        columns: columns that it spans.
        heading: whether it is marked as one.
    """

    text: str
    rows: int = 1
    columns: int = 1
    heading: bool = False


class Grid:
    """A table whose cells have places.

    Args:
        rows: of cells; those that an earlier row's cell spans are left out, as in HTML.
    """

    def __init__(self, rows: list[list[Cell]]) -> None:
        self.cells: list[Cell] = []
        self._at: dict[tuple[int, int], int] = {}
        self._places: list[list[tuple[int, int]]] = []
        for number, row in enumerate(rows):
            column = 0
            for cell in row:
                while (number, column) in self._at:
                    column += 1
                places = [(number + r, column + c) for r in range(cell.rows) for c in range(cell.columns)]
                self._at |= dict.fromkeys(places, len(self.cells))
                self.cells.append(cell)
                self._places.append(places)
                column += cell.columns
        self._rows = max((row for row, _ in self._at), default=-1) + 1
        self._columns = max((column for _, column in self._at), default=-1) + 1

    def texts(self) -> dict[tuple[int, int], str]:
        """Return the text of each cell by its first row and column."""
        return {places[0]: cell.text for places, cell in zip(self._places, self.cells, strict=True)}

    def neighbors(self, cell: int, direction: str) -> set[int]:
        """Return the numbers of the nearest cells in a direction; several where they share an edge."""
        down, right = DIRECTIONS[direction]
        found = set()
        for row, column in self._places[cell]:
            while 0 <= row < self._rows and 0 <= column < self._columns:
                other = self._at.get((row, column), cell)
                if other != cell:
                    found.add(other)
                    break
                row, column = row + down, column + right
        return found

    def headings(self, cell: int, direction: str) -> set[int]:
        """Return the headings in a direction; where none is marked, the last cells there."""
        todo, seen = [cell], {cell}
        marked, last = set(), set()
        while todo:
            here = todo.pop()
            beyond = self.neighbors(here, direction)
            if self.cells[here].heading:
                marked.add(here)
            if not beyond:
                last.add(here)
            todo += beyond - seen
            seen |= beyond
        return (marked - {cell}) or (last - {cell})


def html_grids(text: str) -> Iterator[Grid]:
    """Yield the HTML tables of a text, and those in OTSL."""
    text = otsl_to_html(text)
    if "<table" not in text.lower():
        return
    for table in html.fragment_fromstring(_CONTROL.sub("", text), create_parent="div").iter("table"):
        rows = [row for row in table.iter("tr") if next(row.iterancestors("table")) is table]
        found = [
            [_html_cell(cell, len(rows) - number) for cell in row if cell.tag in ("td", "th")]
            for number, row in enumerate(rows)
        ]
        if any(found):
            yield Grid(found)


def _html_cell(cell: html.HtmlElement, rows_left: int) -> Cell:
    for line_break in cell.iter("br"):
        line_break.tail = "\n" + (line_break.tail or "")
    in_head = next(cell.iterancestors("thead"), None) is not None
    spans = [_span(cell.get(name)) for name in ("rowspan", "colspan")]
    rows = rows_left if (cell.get("rowspan") or "").strip() == "0" else spans[0]
    return Cell(cell.text_content().strip(), rows, spans[1], cell.tag == "th" or in_head)


def _span(value: str | None) -> int:
    text = (value or "").strip()
    return int(text) if text.isdecimal() and 0 < int(text) <= 1000 else 1


def markdown_grids(text: str) -> Iterator[Grid]:
    """Yield the pipe tables of a text: any two lines or more with pipes; the first row and column are headings."""
    lines = text.strip().split("\n")
    block: list[str] = []
    for line in [*lines, ""]:
        if "|" in line:
            block.append(line)
            continue
        rows = [_pipe_cells(row) for row in block if not _RULE.fullmatch(row)] if len(block) > 1 else []
        block = []
        found = [
            [Cell(cell, heading=not number or not place) for place, cell in enumerate(row)]
            for number, row in enumerate(row for row in rows if row)
        ]
        if found:
            yield Grid(found)


def _pipe_cells(line: str) -> list[str]:
    cells = [cell.strip() for cell in line.split("|")]
    start, end = int(cells[0] == ""), len(cells)
    return cells[start : end - 1 if end > start and cells[-1] == "" else end]
