"""Blocks of a document (paragraphs, tables and rules), and the rows of a page that they become."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path

from PIL import Image

from deepsynth.data.typesetting.lines import Typesetter
from deepsynth.data.typesetting.pages import Frame, LayoutRow, TextPosition
from deepsynth.data.typesetting.paragraphs import BODY, Paragraph
from deepsynth.data.typesetting.table_layout import RULE, table_rows
from deepsynth.data.typesetting.tables import Table
from deepsynth.io.images import open_image, to_rgb

#: Most of a column's height that a figure takes.
_FIGURE_SHARE = 0.5


@dataclass(frozen=True)
class HorizontalRule:
    """A line across the column.

    Attributes:
        space_before_em: space above the line, unless it begins a column, in units of the body's font size.
    """

    space_before_em: float


@dataclass(frozen=True)
class Figure:
    """An image, as wide as it is or as the column.

    Attributes:
        path: its file.
        space_before_em: space above it, unless it begins a column, in units of the body's font size.
    """

    path: Path
    space_before_em: float


#: A text stands for a paragraph in the body's style: the lines of a book take no more memory than its text.
Block = str | Paragraph | Table | HorizontalRule | Figure


def block_text(block: Block) -> str:
    """Return the text that a block shows, in one line."""
    if isinstance(block, str):
        return block
    if isinstance(block, (HorizontalRule, Figure)):
        return ""
    if isinstance(block, Table):
        return " ".join(block_text(part) for row in block.rows for cell in row for part in cell.paragraphs)
    return f"{block.marker} {block.text}"


def block_rows(
    blocks: Sequence[Block], typesetter: Typesetter, frame: Frame, start: TextPosition = (0, 0)
) -> Iterator[LayoutRow]:
    """Yield the rows of blocks.

    Args:
        blocks: blocks of a document.
        typesetter: breaks them into lines.
        frame: columns of the page.
        start: position of the row to begin with.

    Raises:
        UserError: for a character without a font, or one that is wider than the column.
    """
    number, within = start
    while number < len(blocks):
        block = blocks[number]
        width = frame.width
        spans = number == 0 and typesetter.look.spanning_title and isinstance(block, Paragraph) and block.heading == 1
        if isinstance(block, Paragraph) and block.label == "table_caption" and number + 1 < len(blocks):
            spans = any(row.spans for row in islice(block_rows(blocks, typesetter, frame, (number + 1, 0)), 1))
        if isinstance(block, str):
            block = Paragraph(((block, BODY),))
        if isinstance(block, Paragraph):
            for row in _paragraph_rows(block, typesetter, frame.full_width if spans else width, (number, within)):
                row.spans = spans
                yield row
        elif isinstance(block, Table):
            for row in table_rows(block, typesetter, frame):
                if row.position[1] >= within:
                    row.position = (number, row.position[1])
                    yield row
        elif isinstance(block, Figure):
            yield _figure_row(block, typesetter, width, frame.height, (number, 0))
        else:
            yield _rule_row(block, typesetter, width, (number, 0))
        number, within = number + 1, 0


def _paragraph_rows(
    paragraph: Paragraph, typesetter: Typesetter, width: int, start: TextPosition
) -> Iterator[LayoutRow]:
    """Yield the lines of a paragraph, each with the footnotes that it refers to."""
    number, within = start
    look = typesetter.look
    if 0 < paragraph.heading <= look.centered:
        paragraph = paragraph._replace(align="center")
    space = typesetter.pixels(paragraph.space_before_em)
    for line in typesetter.lines(paragraph, width, within):
        height = line.ascent + line.descent
        row = LayoutRow([(line, 0, line.ascent)], height, space, paragraph.keep_with_next, position=(number, within))
        if paragraph.notes:
            notes = [note for place, note in paragraph.notes if within < place <= line.end]
            row.notes = [own for note in notes for own in _note_rows(note, typesetter, width)]
        if paragraph.heading > 1 and look.bars:
            row.fills = ((0, 0, width, height),)
        yield row
        space, within = 0, line.end


def _note_rows(note: Paragraph, typesetter: Typesetter, width: int) -> Iterator[LayoutRow]:
    within = 0
    for line in typesetter.lines(note, width):
        yield LayoutRow([(line, 0, line.ascent)], line.ascent + line.descent, position=(-1, within), block=note)
        within = line.end


def _figure_row(figure: Figure, typesetter: Typesetter, width: int, height: int, position: TextPosition) -> LayoutRow:
    image = _figure(figure.path, width, int(_FIGURE_SHARE * height))
    left = (width - image.width) // 2
    space = typesetter.pixels(figure.space_before_em)
    return LayoutRow([], image.height, space, True, position=position, pictures=((image, left, 0),))


@lru_cache(maxsize=64)
def _figure(path: Path, width: int, height: int) -> Image.Image:
    """Return the image of a figure, made smaller where it is larger than its room in pixels.

    Raises:
        UserError: for a file that is no image.
    """
    image = to_rgb(open_image(path)).copy()
    image.thumbnail((width, height), Image.Resampling.BICUBIC)
    return image


def _rule_row(rule: HorizontalRule, typesetter: Typesetter, width: int, position: TextPosition) -> LayoutRow:
    height = typesetter.pixels(1.0)
    middle, thickness = height // 2, max(1, typesetter.pixels(RULE))
    box = (0, middle, width, middle + thickness)
    return LayoutRow([], height, typesetter.pixels(rule.space_before_em), rules=(box,), position=position)


def visible_characters(texts: Sequence[str]) -> int:
    """Return the number of characters that are not white space."""
    return sum(len("".join(text.split())) for text in texts)
