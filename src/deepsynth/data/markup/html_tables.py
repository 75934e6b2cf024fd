"""HTML tables as tables to draw: spans, headers, alignment, emphasis, several paragraphs in a cell."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from html.parser import HTMLParser

from deepsynth.data.markup.rules import INLINE_FORMULA
from deepsynth.data.typesetting.paragraphs import BODY, CODE, HEADER_CELL, Paragraph, RunStyle, Side
from deepsynth.data.typesetting.tables import Cell, place_cells

_LARGEST_SPAN = 1000
_BOLD, _ITALIC, _CODE = ("b", "strong"), ("i", "em"), ("code", "tt", "kbd")
#: Tags that begin a new paragraph in a cell.
_BREAKS = ("br", "p", "div", "li")
_SPACE = re.compile(r"\s+")
_SIDES: dict[str, Side] = {"left": "left", "center": "center", "right": "right"}
_ALIGN = re.compile(r"text-align:\s*(left|center|right)")


@dataclass
class _OpenCell:
    """A cell as far as it was read."""

    columns: int
    rows: int
    is_header: bool
    align: Side | None
    paragraphs: list[list[tuple[str, RunStyle]]] = field(default_factory=lambda: [[]])


class _TableReader(HTMLParser):
    """Reads the first table; ends that are missing are added, and a table within a cell is text."""

    def __init__(self, is_set: Callable[[str], bool]) -> None:
        self._is_set = is_set
        super().__init__(convert_charrefs=True)
        self.rows: list[list[_OpenCell]] = []
        self.caption: list[str] = []
        self.outside: list[str] = []
        self._cell: _OpenCell | None = None
        self._in_caption = False
        #: How deep the text is in each kind of emphasis.
        self._depths: dict[str, int] = {}

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Begin a row, a cell, a paragraph or emphasis."""
        if tag == "tr":
            self._cell = None
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows = self.rows or [[]]
            self._cell = _open_cell(tag, dict(attrs))
            self.rows[-1].append(self._cell)
            self._depths.clear()
        elif tag == "caption":
            self._in_caption = True
        elif tag in _BREAKS and self._cell:
            self._cell.paragraphs.append([])
        elif tag in (*_BOLD, *_ITALIC, *_CODE):
            self._depths[tag] = self._depths.get(tag, 0) + 1

    def handle_endtag(self, tag: str) -> None:
        """End a cell or emphasis."""
        if tag in ("td", "th", "tr"):
            self._cell = None
        elif tag == "caption":
            self._in_caption = False
        elif tag in _BREAKS and self._cell:
            self._cell.paragraphs.append([])
        elif self._depths.get(tag):
            self._depths[tag] -= 1

    def handle_data(self, data: str) -> None:
        """Add text to the cell or the caption, or to what is in neither."""
        if self._in_caption:
            self.caption.append(data)
        elif self._cell is None:
            self.outside.append(data)
        if self._cell is None:
            return
        style = HEADER_CELL if self._cell.is_header else BODY
        if self._depths:
            bold, italic, code = (any(map(self._depths.get, tags)) for tags in (_BOLD, _ITALIC, _CODE))
            style = RunStyle(CODE.family if code else None, bold=style.bold or bold, italic=italic)
        runs = _with_formulas(data, style)
        self._cell.paragraphs[-1] += [run for run in runs if not run[1].formula or self._is_set(run[0].strip("$"))]


def _open_cell(tag: str, attributes: dict[str, str | None]) -> _OpenCell:
    if not attributes:  # most cells
        return _OpenCell(1, 1, tag == "th", None)
    columns, rows = _span(attributes.get("colspan")), _span(attributes.get("rowspan"))
    found = _ALIGN.search(attributes.get("style") or "")
    align = found[1] if found else (attributes.get("align") or "").lower()
    return _OpenCell(columns, rows, tag == "th", _SIDES.get(align, "center" if tag == "th" and columns > 1 else None))


def _span(value: str | None) -> int:
    return int(value) if value and value.isdecimal() and 0 < int(value) <= _LARGEST_SPAN else 1


def _with_formulas(text: str, style: RunStyle) -> list[tuple[str, RunStyle]]:
    """Return a text in runs, its formulas as such."""
    if "$" not in text:
        return [(text, style)]
    runs: list[tuple[str, RunStyle]] = []
    place = 0
    for match in INLINE_FORMULA.finditer(text):
        runs.append((text[place : match.start()], style))
        runs.append((match.group(), style._replace(formula=True)))
        place = match.end()
    return [run for run in (*runs, (text[place:], style)) if run[0]]


def read_table(html: str, is_set: Callable[[str], bool]) -> tuple[tuple[tuple[Cell, ...], ...], str, str]:
    """Return the rows of a table, its caption, and text that is in no cell; "" without one.

    Args:
        html: with a table.
        is_set: says of a formula whether it is set or left out.
    """
    reader = _TableReader(is_set)
    reader.feed(html)
    reader.close()
    rows = [
        [(_paragraphs(cell), cell.columns, cell.rows, cell.is_header) for cell in cells]
        for cells in reader.rows
        if cells
    ]
    caption, outside = (" ".join("".join(text).split()) for text in (reader.caption, reader.outside))
    return place_cells(rows), caption, outside


def _paragraphs(cell: _OpenCell) -> tuple[Paragraph, ...]:
    found: list[Paragraph] = []
    for runs in cell.paragraphs:
        folded: list[tuple[str, RunStyle]] = []
        for text, style in runs:
            if not style.formula:
                text = _SPACE.sub(" ", text)
                if not folded or folded[-1][0].endswith(" "):
                    text = text.lstrip(" ")
            if text:
                folded.append((text, style))
        if folded and not folded[-1][1].formula:
            folded[-1] = (folded[-1][0].rstrip(" "), folded[-1][1])
        if any(text for text, _ in folded):
            found.append(Paragraph(tuple(folded), align=cell.align))
    return tuple(found) or (Paragraph((("", BODY),), align=cell.align),)
