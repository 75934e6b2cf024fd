"""Tables in OTSL: a grid of tokens, each with the text of its cell behind it, as some published models write tables.

    <fcel>Item<fcel>Price<lcel><nl><fcel>Tea<ecel><fcel>2.50<nl>

A cell has a text (``<fcel>``), none (``<ecel>``), or belongs to the cell at its left (``<lcel>``), above it
(``<ucel>``) or both (``<xcel>``); ``<nl>`` ends a row (Lysak et al. 2023, https://arxiv.org/abs/2305.03393).
Headings of columns (``<ched>``), of rows (``<rhed>``) and of sections (``<srow>``) are Docling's.
"""

from __future__ import annotations

import re
from html import escape
from html.parser import HTMLParser
from itertools import product

from deepsynth.errors import UserError

_JOINED = ("<lcel>", "<ucel>", "<xcel>")
_HEADINGS = ("<ched>", "<rhed>", "<srow>")
#: Tokens that tables are written in.
OTSL_TOKENS = ("<fcel>", "<ecel>", *_JOINED, "<nl>")
_CELL = "<(?:[fe]cel|[lux]cel|[cr]hed|srow)>"
_ANY = re.compile(f"{_CELL}|<nl>")
_WITH_TEXT = rf"{_CELL}(?:(?!{_CELL}|<nl>|</?otsl>|\n\s*\n).)*"
#: Rows one behind the other; the last one may be cut, and an empty line ends a table.
_TABLE = re.compile(
    rf"(?:<otsl>\s*)?(?P<cells>{_WITH_TEXT}(?:{_WITH_TEXT}|<nl>(?:\n(?={_CELL}))?)*)(?:\s*</otsl>)?", re.DOTALL
)
_Grid = list[list[tuple[str, str]]]
_Spans = dict[tuple[int, int], tuple[int, int]]
_HTML_TABLE = re.compile(r"<table\b.*?(?:</table\s*>|\Z)", re.DOTALL | re.IGNORECASE)


def otsl_to_html(text: str) -> str:
    """Return a text with its OTSL tables as HTML tables.

    Rows that are too short are filled up, and a cell that belongs to none is an empty one.
    """
    return _TABLE.sub(lambda match: _html(_grid(match["cells"])), text)


def otsl_faults(text: str) -> list[str]:
    """Return the OTSL tables of a text that are no grid: rows of other lengths, or cells that belong to none."""
    return [match.group() for match in _TABLE.finditer(text) if not _is_whole(_grid(match["cells"]))]


def _grid(table: str) -> _Grid:
    """Return the tokens of a table with their texts, by row."""
    tokens = list(_ANY.finditer(table))
    ends = [*(token.start() for token in tokens[1:]), len(table)]
    rows: _Grid = [[]]
    for token, end in zip(tokens, ends, strict=True):
        if token.group() == "<nl>":
            rows.append([])
        else:
            rows[-1].append((token.group(), table[token.end() : end].strip()))
    return [row for row in rows if row]


def _spans(grid: _Grid) -> _Spans:
    """Return the rows and columns of each cell by the place of its token."""
    kinds = {(r, c): kind for r, row in enumerate(grid) for c, (kind, _) in enumerate(row)}
    found = {}
    for (row, column), kind in kinds.items():
        if kind not in _JOINED:
            down, right = 1, 1
            while kinds.get((row, column + right)) in ("<lcel>", "<xcel>"):
                right += 1
            while kinds.get((row + down, column)) in ("<ucel>", "<xcel>"):
                down += 1
            found[row, column] = (down, right)
    return found


def _covered(spans: _Spans) -> list[tuple[int, int]]:
    return [
        (row + r, column + c)
        for (row, column), (down, right) in spans.items()
        for r, c in product(range(down), range(right))
    ]


def _is_whole(grid: _Grid) -> bool:
    places = [(r, c) for r, row in enumerate(grid) for c in range(len(row))]
    return sorted(_covered(_spans(grid))) == places and len(set(map(len, grid))) == 1


def _html(grid: _Grid) -> str:
    spans = _spans(grid)
    covered = set(_covered(spans))
    width = max(map(len, grid))
    lines = []
    for r, row in enumerate(grid):
        line = ""
        for c in range(width):
            if (r, c) in spans:
                (kind, text), (down, right) = row[c], spans[r, c]
                tag = "th" if kind in _HEADINGS else "td"
                joined = (f' colspan="{right}"' if right > 1 else "") + (f' rowspan="{down}"' if down > 1 else "")
                line += f"<{tag}{joined}>{escape(text, quote=False).replace(chr(10), '<br>')}</{tag}>"
            elif (r, c) not in covered:
                line += "<td></td>"
        lines.append(f"<tr>{line}</tr>")
    return f"<table>{''.join(lines)}</table>"


class _Cells(HTMLParser):
    """Reads the cells of a table: columns, rows, tag and plain text of each."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.rows: list[list[tuple[int, int, str, list[str]]]] = []
        self._text: list[str] | None = None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Begin a row, a cell or a line."""
        if tag == "tr":
            self.rows.append([])
            self._text = None
        elif tag in ("td", "th"):
            self.rows = self.rows or [[]]
            self._text, given = [], dict(attrs)
            self.rows[-1].append((_span(given.get("colspan")), _span(given.get("rowspan")), tag, self._text))
        elif tag == "br" and self._text is not None:
            self._text.append("\n")

    def handle_endtag(self, tag: str) -> None:
        """End a cell."""
        if tag in ("td", "th", "tr"):
            self._text = None

    def handle_data(self, data: str) -> None:
        """Add to the text of the cell."""
        if self._text is not None:
            self._text.append(data)


def _span(value: str | None) -> int:
    return int(value) if value and value.isdecimal() and 0 < int(value) <= 1000 else 1


def html_to_otsl(text: str) -> str:
    """Return a text with its HTML tables as OTSL: of cells the plain text, of header cells as headings of columns.

    Raises:
        UserError: for a cell whose text has a token of OTSL.
    """
    return _HTML_TABLE.sub(lambda match: _otsl(match.group()), text)


def _otsl(table: str) -> str:
    reader = _Cells()
    reader.feed(table)
    reader.close()
    grid: dict[tuple[int, int], str] = {}
    for number, row in enumerate(reader.rows):
        column = 0
        for columns, rows, tag, parts in row:
            while (number, column) in grid:
                column += 1
            grid[number, column] = _token("".join(parts).strip(), tag)
            for r, c in product(range(min(rows, len(reader.rows) - number)), range(columns)):
                grid.setdefault((number + r, column + c), "<xcel>" if r and c else "<ucel>" if r else "<lcel>")
            column += columns
    width = max((column for _, column in grid), default=-1) + 1
    lines = [[grid.get((row, column), "<ecel>") for column in range(width)] for row in range(len(reader.rows))]
    return "".join("".join(line) + "<nl>" for line in lines)


def _token(text: str, tag: str) -> str:
    if found := _ANY.search(text):
        raise UserError(
            f"a cell of a table holds {found.group()!r}, in which the model writes tables; leave such a document out "
            "(data.on_error=skip), or choose another data.target than table"
        )
    return f"<{'ched' if tag == 'th' else 'fcel'}>{text}" if text else "<ecel>"
