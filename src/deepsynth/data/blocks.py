"""What a document is made of before it is set: paragraphs, tables and rules; and how each becomes rows of a page."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from deepsynth.data.layout import Paragraph, SetLine, Typesetter
from deepsynth.data.pages import Place, Row, row_of
from deepsynth.data.shaping import Style

#: Distance between a table's rules and its text, and thickness of rules, in units of the font size.
_CELL_PADDING = 0.35
_RULE = 0.07
#: Most of the column that one word may claim for its cell.
_WORD_SHARE = 0.3


@dataclass(frozen=True)
class Table:
    """Cells in rows, drawn with rules around them.

    Attributes:
        rows: of cells; all have the same number.
        space_before_px: above the table, unless it begins a column.
    """

    rows: tuple[tuple[Paragraph, ...], ...]
    space_before_px: int = 0


@dataclass(frozen=True)
class HorizontalRule:
    """A line across the column."""

    style: Style
    space_before_px: int = 0


Block = Paragraph | Table | HorizontalRule


def plain_blocks(text: str, style: Style, first: int = 0) -> Iterator[Paragraph]:
    """Yield the lines of a plain text, drawn literally, from number ``first`` on."""
    for line in text.split("\n")[first:]:
        yield Paragraph(((line, style),))


def block_text(block: Block) -> str:
    """Return what a block shows, in one line."""
    if isinstance(block, HorizontalRule):
        return ""
    if isinstance(block, Table):
        return " ".join(block_text(cell) for row in block.rows for cell in row)
    return f"{block.marker} " + "".join(text for text, _ in block.runs)


def block_rows(blocks: Iterable[Block], typesetter: Typesetter, width: int, start: Place = (0, 0)) -> Iterator[Row]:
    """Yield the rows of blocks.

    Args:
        blocks: of a document, from that of ``start`` on.
        typesetter: for their lines.
        width: of the column, pixels.
        start: the row to begin with.

    Raises:
        ValueError: for a character without a font, or one that is wider than the column.
    """
    first, skip = start
    for place, block in enumerate(blocks, first):
        for number, row in enumerate(_rows(block, typesetter, width)):
            if place > first or number >= skip:
                row.place = (place, number)
                yield row


def _rows(block: Block, typesetter: Typesetter, width: int) -> Iterator[Row]:
    if isinstance(block, Paragraph):
        space = block.space_before_px
        for line in typesetter.lines(block, width):
            yield row_of(line, space, block.keep_with_next)
            space = 0
    elif isinstance(block, Table):
        yield from _table_rows(block, typesetter, width)
    else:
        thickness = max(1, round(block.style.size_px * _RULE))
        height = round(block.style.size_px)
        middle = height // 2
        yield Row([], height, block.space_before_px, rules=((0, middle, width, middle + thickness),))


def _table_rows(table: Table, typesetter: Typesetter, width: int) -> Iterator[Row]:
    size_px = table.rows[0][0].runs[0][1].size_px
    rule = max(1, round(size_px * _RULE))
    padding = round(size_px * _CELL_PADDING) + rule
    columns = _column_widths(table, typesetter, width, padding)
    lefts = [sum(columns[:number]) for number in range(len(columns))]
    for number, cells in enumerate(table.rows):
        lines: list[tuple[SetLine, int, int]] = []
        height = 0
        for place, cell in enumerate(cells):
            y = padding
            for line in typesetter.lines(cell, columns[place] - 2 * padding):
                lines.append((line, lefts[place] + padding, y + line.ascent))
                y += line.ascent + line.descent
            if place + 1 < len(cells):
                lines[-1][0].joiner = "\t"
            height = max(height, y + padding)
        total = sum(columns)
        rules = [(0, 0, total, rule), (0, height - rule, total, height)]
        rules += [(left, 0, left + rule, height) for left in (*lefts, total - rule)]
        space = table.space_before_px if number == 0 else -rule  # neighbours share the rule between them
        yield Row(lines, height, space, number == 0 and len(table.rows) > 1, tuple(rules))


def _column_widths(table: Table, typesetter: Typesetter, width: int, padding: int) -> list[int]:
    """Return the widths of the columns: as wide as their text, or in proportion to it when that does not fit.

    Raises:
        ValueError: when there are too many columns.
    """
    natural: list[float] = []
    smallest: list[float] = []
    for cells in zip(*table.rows, strict=True):
        natural.append(max(typesetter.natural_width(cell) for cell in cells) + 2 * padding + 1)
        words = max(typesetter.longest_word(cell) for cell in cells)
        smallest.append(2 * padding + 1 + min(words, _WORD_SHARE * width))
    if sum(natural) <= width:
        return [int(column) + 1 if sum(natural) + len(natural) <= width else int(column) for column in natural]
    floors = [min(pair) for pair in zip(natural, smallest, strict=True)]
    spare = width - sum(floors)
    if spare < 0:
        raise ValueError(
            f"a table of {len(natural)} columns does not fit into {width} pixels; take a smaller font_size_px or a "
            "wider page"
        )
    wish = [wide - floor for wide, floor in zip(natural, floors, strict=True)]
    return [int(floor + spare * part / sum(wish)) for floor, part in zip(floors, wish, strict=True)]


def visible_characters(texts: Sequence[str]) -> int:
    """Return the number of characters that are not white space."""
    return sum(len("".join(text.split())) for text in texts)
