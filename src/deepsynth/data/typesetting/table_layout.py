"""Tables set in a column: widths, cells that wrap and span, and the rules or bands between them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate

from deepsynth.data.text.bidi import embedding_levels, has_right_to_left
from deepsynth.data.typesetting.lines import LaidOutLine, Typesetter, align_line
from deepsynth.data.typesetting.pages import Frame, LayoutRow
from deepsynth.data.typesetting.paragraphs import TableStyle
from deepsynth.data.typesetting.tables import Cell, Table
from deepsynth.errors import UserError
from deepsynth.types import Box

#: Distance between a table's rules and its text, and thickness of rules, in units of the font size.
_CELL_PADDING = 0.35
RULE = 0.07
#: Most of the column that one word may claim for its cell.
_WORD_SHARE = 0.3


def table_rows(table: Table, typesetter: Typesetter, frame: Frame) -> Iterator[LayoutRow]:
    """Yield the rows of a table that a page may part; their positions are those of their first rows.

    A table that does not fit into a column of the page spans them all; where titles do, one that would have to wrap its
    cells does too.

    Raises:
        UserError: when there are too many columns.
    """
    rule = max(1, typesetter.pixels(RULE))
    padding = typesetter.pixels(_CELL_PADDING) + rule
    measured = _Measured(typesetter)
    width = frame.width
    widths = _column_widths(table, measured, width, padding)
    wraps = sum(measured.natural) > width
    if len(frame.lefts) > 1 and (not widths or (typesetter.look.spanning_title and wraps)):
        width = frame.full_width
        widths = _column_widths(table, measured, width, padding)
    if not widths:
        raise UserError(
            f"a table of {table.columns} columns does not fit into {width} pixels; use a smaller font_size_px or a "
            "wider page"
        )
    mirrored = _is_right_to_left(table)
    for first, end in table.groups():
        row = _group(table, (first, end), measured, widths, (rule, padding), width if mirrored else None)
        row.spans = width > frame.width
        yield row


def _is_right_to_left(table: Table) -> bool:
    """Return whether most of the paragraphs run from right to left; those without letters do not count."""
    texts = [paragraph.text for row in table.rows for cell in row for paragraph in cell.paragraphs]
    if not has_right_to_left("".join(texts)):  # most tables
        return False
    texts = [text for text in texts if any(map(str.isalpha, text))]
    return 2 * sum([embedding_levels(text)[1] for text in texts]) > len(texts)


def _group(
    table: Table,
    rows: tuple[int, int],
    measured: _Measured,
    widths: Sequence[int],
    sizes: tuple[int, int],
    mirror: int | None,
) -> LayoutRow:
    """Set the rows that stay together.

    Args:
        table: the table.
        rows: the first one and the one behind the last.
        measured: cells of the table.
        widths: widths of the columns, pixels.
        sizes: thickness of rules, and distance between the edge of a cell and its text, pixels.
        mirror: width of the column of a table that runs from right to left, pixels.
    """
    typesetter = measured.typesetter
    first, end = rows
    rule, padding = sizes
    lefts = list(accumulate(widths, initial=0))
    heights = [2 * padding] * (end - first)
    tall: list[tuple[Cell, int, int]] = []
    cells: list[tuple[Cell, int, list[LaidOutLine]]] = []
    for number in range(first, end):
        for cell in table.rows[number]:
            room = lefts[cell.column + cell.columns] - lefts[cell.column] - 2 * padding
            lines = measured.lines(cell, room, mirror is not None)
            if cells and cell is table.rows[number][0]:
                cells[-1][2][-1].joiner = cells[-1][2][-1].ending = "\n"
            row, needed = number - first, sum([line.ascent + line.descent for line in lines]) + 2 * padding
            if cell.rows == 1:
                heights[row] = max(heights[row], needed)
            else:
                tall.append((cell, row, needed))
            cells.append((cell, row, lines))
            lines[-1].joiner = lines[-1].ending = "\t"
    if cells:
        cells[-1][2][-1].joiner = cells[-1][2][-1].ending = "\n"
    for cell, row, needed in tall:  # cells of several rows only need what the rows lack
        heights[row + cell.rows - 1] += max(0, needed - sum(heights[row : row + cell.rows]))
    tops = list(accumulate(heights, initial=0))
    placed: list[tuple[LaidOutLine, int, int]] = []
    boxes: list[Box] = []
    for cell, row, lines in cells:
        left, right = lefts[cell.column], lefts[cell.column + cell.columns]
        if mirror is not None:
            left, right = mirror - right, mirror - left
        y = tops[row] + padding
        for line in lines:
            placed.append((line, left + padding, y + line.ascent))
            y += line.ascent + line.descent
        boxes.append((left, tops[row], right, tops[row + cell.rows]))
    decoration = _Decoration(
        table, typesetter.look.table_style, rule, (0 if mirror is None else mirror - lefts[-1], lefts[-1])
    )
    rules, fills = decoration.of_group(rows, boxes, tops)
    # Neighbors share the rule between them.
    space = typesetter.pixels(table.space_before_em) if first == 0 else -rule
    return LayoutRow(
        placed,
        tops[-1],
        space,
        first == 0 and end < len(table.rows),
        tuple(rules),
        (0, first),
        fills=tuple(fills),
        cells=tuple([len(lines) for _, _, lines in cells]),
        end=end,
    )


class _Measured:
    """Cells of a table set without a break, so that what fits into its column is not set again."""

    def __init__(self, typesetter: Typesetter) -> None:
        self.typesetter = typesetter
        #: Widths of the columns in which no cell wraps, pixels.
        self.natural: list[float] = []
        self._found: dict[int, tuple[list[LaidOutLine], float, float]] = {}

    def widths(self, cell: Cell) -> tuple[float, float]:
        """Return the width of a cell's text, and that of its widest word, pixels."""
        wide = widest = 0.0
        for paragraph in cell.paragraphs:
            found = self._found.get(id(paragraph))
            if found is None:
                found = self._found[id(paragraph)] = self.typesetter.unbroken(paragraph)
            wide, widest = max(wide, found[1]), max(widest, found[2])
        return wide, widest

    def lines(self, cell: Cell, width: int, mirrored: bool) -> list[LaidOutLine]:
        """Return the lines of a cell, which stays in one line of the page's text.

        Numbers follow the direction of the table.
        """
        lines: list[LaidOutLine] = []
        for paragraph in cell.paragraphs:
            if lines:
                lines[-1].joiner = lines[-1].ending = " "
            whole, wide, _ = self._found[id(paragraph)]
            side = paragraph.align
            if mirrored and side is None and not any(map(str.isalpha, paragraph.text)):
                side = "right"
            # One that runs from the right ends where no column does.
            if len(whole) == 1 and wide + 1 <= width and (not whole[0].places or whole[0].places[0][1] < width):
                if side:
                    align_line(whole[0], side, width, 0)
                broken: Iterable[LaidOutLine] = whole
            else:
                own = paragraph if side == paragraph.align else paragraph._replace(align=side)
                broken = self.typesetter.lines(own, width)
            for line in broken:
                line.ending = line.joiner
                lines.append(line)
        return lines


@dataclass(frozen=True)
class _Decoration:
    """Rules and bands of a table.

    Attributes:
        table: the table.
        style: its style.
        rule: thickness of rules, pixels.
        extent: left edge and width, pixels.
    """

    table: Table
    style: TableStyle
    rule: int
    extent: tuple[int, int]

    def of_group(self, rows: tuple[int, int], boxes: Sequence[Box], tops: Sequence[int]) -> tuple[list[Box], list[Box]]:
        """Return the rules and the bands of rows that stay together, from the boxes of their cells."""
        rule, (left, width) = self.rule, self.extent
        right, bottom = left + width, tops[-1]
        if self.style == "grid":
            return _grid(boxes, rule, right, bottom), []
        rules: list[Box] = []
        header = self._header_rows()
        if self.style in ("ruled", "banded"):
            edges = [0] if rows[0] == 0 else []
            edges += [tops[-1] - rule] if rows[1] == len(self.table.rows) else []
            if rows[0] < header <= rows[1]:
                edges.append(tops[header - rows[0]] - rule)
            rules = [(left, edge, right, edge + rule) for edge in edges]
        bands: list[Box] = []
        if self.style == "banded":
            bands = [
                (left, tops[place], right, tops[place + 1])
                for place, number in enumerate(range(*rows))
                if number >= header and (number - header) % 2
            ]
        return rules, bands

    def _header_rows(self) -> int:
        """Return the number of rows at the top that have header cells alone."""
        count = 0
        for row in self.table.rows:
            if not row or not all(cell.is_header for cell in row):
                break
            count += 1
        return count


def _grid(boxes: Sequence[Box], rule: int, right: float, bottom: float) -> list[Box]:
    """Return the rules around every cell; neighbors share theirs, so those at the ends are drawn inside."""
    rules: list[Box] = []
    for x0, y0, x1, y1 in boxes:
        rules += [(x0, y0, x1, y0 + rule), (x0, y0, x0 + rule, y1)]
        rules.append((x0, y1 - rule, x1, y1) if y1 == bottom else (x0, y1, x1, y1 + rule))
        rules.append((x1 - rule, y0, x1, y1) if x1 == right else (x1, y0, x1 + rule, y1))
    return list(dict.fromkeys(rules))


def _column_widths(table: Table, measured: _Measured, width: int, padding: int) -> list[int]:
    """Return the widths of the columns: as wide as their text, or in proportion to it; none when that does not fit."""
    least = 2.0 * padding + 1
    natural = [least] * table.columns
    smallest = list(natural)
    spanning: list[tuple[Cell, float, float]] = []
    for row in table.rows:
        for cell in row:
            wide, words = measured.widths(cell)
            wide, words = wide + 2 * padding + 1, least + min(words, _WORD_SHARE * width)
            if cell.columns == 1:
                natural[cell.column] = max(natural[cell.column], wide)
                smallest[cell.column] = max(smallest[cell.column], words)
            else:
                spanning.append((cell, wide, words))
    for cell, wide, words in sorted(spanning, key=lambda wanted: wanted[0].columns):
        _widen(natural, cell, wide)
        _widen(smallest, cell, words)
    measured.natural = natural
    total = sum(natural)
    if total <= width and measured.typesetter.look.wide_tables:
        return [int(column * width / total) for column in natural]
    if total <= width:
        rest = int(total + len(natural) <= width)
        return [int(column) + rest for column in natural]
    floors = [min(pair) for pair in zip(natural, smallest, strict=True)]
    spare = width - sum(floors)
    if spare < 0:
        return []
    wish = [wide - floor for wide, floor in zip(natural, floors, strict=True)]
    return [int(floor + spare * part / sum(wish)) for floor, part in zip(floors, wish, strict=True)]


def _widen(widths: list[float], cell: Cell, wanted: float) -> None:
    """Make the columns that a cell spans wide enough, all by the same."""
    lacking = wanted - sum(widths[cell.column : cell.column + cell.columns])
    if lacking > 0:
        for column in range(cell.column, cell.column + cell.columns):
            widths[column] += lacking / cell.columns
