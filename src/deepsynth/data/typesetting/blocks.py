"""Blocks of a document (paragraphs, tables and rules), and the rows of a page that they become."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from deepsynth.data.typesetting.lines import LaidOutLine, Typesetter
from deepsynth.data.typesetting.pages import LayoutRow, TextPosition
from deepsynth.data.typesetting.paragraphs import BODY, Paragraph
from deepsynth.errors import UserError

#: Distance between a table's rules and its text, and thickness of rules, in units of the font size.
_CELL_PADDING = 0.35
_RULE = 0.07
#: Most of the column that one word may claim for its cell.
_WORD_SHARE = 0.3


@dataclass(frozen=True)
class Table:
    """Cells in rows, drawn with rules around them.

    Attributes:
        rows: rows of cells; all have the same number of cells.
        space_before_em: space above the table, unless it begins a column, in units of the body's font size.
    """

    rows: tuple[tuple[Paragraph, ...], ...]
    space_before_em: float = 0.0


@dataclass(frozen=True)
class HorizontalRule:
    """A line across the column.

    Attributes:
        space_before_em: space above the line, unless it begins a column, in units of the body's font size.
    """

    space_before_em: float = 0.0


#: A text stands for a paragraph in the body's style: the lines of a book take no more memory than its text.
Block = str | Paragraph | Table | HorizontalRule


def block_text(block: Block) -> str:
    """Return the text that a block shows, in one line."""
    if isinstance(block, str):
        return block
    if isinstance(block, HorizontalRule):
        return ""
    if isinstance(block, Table):
        return " ".join(block_text(cell) for row in block.rows for cell in row)
    return f"{block.marker} {block.text}"


def block_rows(
    blocks: Sequence[Block], typesetter: Typesetter, width: int, start: TextPosition = (0, 0)
) -> Iterator[LayoutRow]:
    """Yield the rows of blocks.

    Args:
        blocks: blocks of a document.
        typesetter: breaks them into lines.
        width: width of the column, pixels.
        start: position of the row to begin with.

    Raises:
        UserError: for a character without a font, or one that is wider than the column.
    """
    number, within = start
    while number < len(blocks):
        block = blocks[number]
        if isinstance(block, str):
            block = Paragraph(((block, BODY),))
        if isinstance(block, Paragraph):
            space = typesetter.pixels(block.space_before_em)
            for line in typesetter.lines(block, width, within):
                height = line.ascent + line.descent
                yield LayoutRow(
                    [(line, 0, line.ascent)], height, space, block.keep_with_next, position=(number, within)
                )
                space, within = 0, line.end
        elif isinstance(block, Table):
            for place, row in enumerate(_table_rows(block, typesetter, width)):
                if place >= within:
                    row.position = (number, place)
                    yield row
        else:
            yield _rule_row(block, typesetter, width, (number, 0))
        number, within = number + 1, 0


def _rule_row(rule: HorizontalRule, typesetter: Typesetter, width: int, position: TextPosition) -> LayoutRow:
    height = typesetter.pixels(1.0)
    middle, thickness = height // 2, max(1, typesetter.pixels(_RULE))
    box = (0, middle, width, middle + thickness)
    return LayoutRow([], height, typesetter.pixels(rule.space_before_em), rules=(box,), position=position)


def _table_rows(table: Table, typesetter: Typesetter, width: int) -> Iterator[LayoutRow]:
    rule = max(1, typesetter.pixels(_RULE))
    padding = typesetter.pixels(_CELL_PADDING) + rule
    columns = _column_widths(table, typesetter, width, padding)
    lefts = [sum(columns[:number]) for number in range(len(columns))]
    for number, cells in enumerate(table.rows):
        lines: list[tuple[LaidOutLine, int, int]] = []
        height = 0
        for place, cell in enumerate(cells):
            y = padding
            for line in typesetter.lines(cell, columns[place] - 2 * padding):
                line.ending = line.joiner  # a cell stays in one line of the page's text
                lines.append((line, lefts[place] + padding, y + line.ascent))
                y += line.ascent + line.descent
            if place + 1 < len(cells):
                lines[-1][0].joiner = lines[-1][0].ending = "\t"
            height = max(height, y + padding)
        total = sum(columns)
        rules = [(0, 0, total, rule), (0, height - rule, total, height)]
        rules += [(left, 0, left + rule, height) for left in (*lefts, total - rule)]
        # Neighbors share the rule between them.
        space = typesetter.pixels(table.space_before_em) if number == 0 else -rule
        yield LayoutRow(lines, height, space, number == 0 and len(table.rows) > 1, tuple(rules))


def _column_widths(table: Table, typesetter: Typesetter, width: int, padding: int) -> list[int]:
    """Return the widths of the columns: as wide as their text, or in proportion to it when that does not fit.

    Raises:
        UserError: when there are too many columns.
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
        raise UserError(
            f"a table of {len(natural)} columns does not fit into {width} pixels; take a smaller font_size_px or a "
            "wider page"
        )
    wish = [wide - floor for wide, floor in zip(natural, floors, strict=True)]
    return [int(floor + spare * part / sum(wish)) for floor, part in zip(floors, wish, strict=True)]


def visible_characters(texts: Sequence[str]) -> int:
    """Return the number of characters that are not white space."""
    return sum(len("".join(text.split())) for text in texts)
