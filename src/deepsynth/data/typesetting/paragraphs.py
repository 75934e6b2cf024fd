"""Paragraphs of a document, before a page gives them a font and a size."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

#: What a block of a page is, by the names that DeepSeek-OCR gives blocks; it has none for a rule.
BlockLabel = Literal[
    "title", "sub_title", "text", "code", "table", "equation", "image", "image_caption", "table_caption", "footnote",
    "header", "footer", "page_number", "rule",
]  # fmt: skip

#: Font sizes are multiples of this, so that shaped words repeat between documents.
SIZE_STEP_PX = 0.5


Side = Literal["left", "center", "right"]
TableStyle = Literal["grid", "ruled", "banded", "borderless"]


class RunStyle(NamedTuple):
    """Differences of a run from the body text of its page, whose font and size the page chooses.

    Attributes:
        family: font family instead of the body's.
        scale: font size in units of the body's.
        bold: use the bold face.
        italic: use the italic face.
        formula: the text is a formula between dollar signs.
        note: number of the footnote that the text refers to; 0 for other texts.
    """

    family: str | None = None
    scale: float = 1.0
    bold: bool = False
    italic: bool = False
    formula: bool = False
    note: int = 0


BODY = RunStyle()
HEADER_CELL = RunStyle(bold=True)
#: Labels of what stands in the margins.
FURNITURE = ("header", "footer", "page_number")


@dataclass(frozen=True)
class Look:
    """How a page sets its blocks, apart from its font and columns.

    Attributes:
        table_style: what tables are set between.
        wide_tables: whether tables fill the column.
        centered: headings up to this level are centered.
        bars: whether headings stand on a light bar.
        spanning_title: whether a heading that begins the document spans the columns.
        running_head: whether the title stands above every page but the first.
        running_foot: whether the title stands below every page, on the left.
        page_number: where the number of the page stands below it; "" is nowhere.
    """

    table_style: TableStyle = "grid"
    wide_tables: bool = False
    centered: int = 0
    bars: bool = False
    spanning_title: bool = False
    running_head: bool = False
    running_foot: bool = False
    page_number: Literal["", "center", "right"] = ""


#: What is drawn for the marks of tasks that are open and done, "[ ]" and "[x]".
BOXES = ("☐", "☑")
#: The face of code.
CODE = RunStyle("DejaVu Sans Mono", 0.9)


class Container(NamedTuple):
    """A quote or an item of a list, which a paragraph is in.

    Attributes:
        marker: how Markdown begins it, such as "> " or "3. ".
        number: tells the containers of a document apart.
    """

    marker: str
    number: int


class Paragraph(NamedTuple):
    """Text without a line end of its own; a page has one for every cell of its tables.

    Attributes:
        runs: parts of the text with their styles; at least one.
        indent_em: indent of the whole paragraph, on the side where its lines begin, in units of the body's font size.
        marker: marker of a list item, set in the indent of the first line.
        space_before_em: space above the paragraph, unless it begins a column, in units of the body's font size.
        keep_with_next: whether the paragraph may not end a column.
        align: side that the lines are aligned with; ``None`` is the side where they begin.
        label: what it is.
        heading: level of a heading, from 1; 0 for other paragraphs.
        containers: quotes and items of lists that it is in, the outermost first.
        joined: whether it goes on with the block before it, as a line of code does.
        notes: its footnotes, each with the index of the character behind which the text refers to it.
    """

    runs: tuple[tuple[str, RunStyle], ...]
    indent_em: float = 0.0
    marker: str = ""
    space_before_em: float = 0.0
    keep_with_next: bool = False
    align: Side | None = None
    label: BlockLabel = "text"
    heading: int = 0
    containers: tuple[Container, ...] = ()
    joined: bool = False
    notes: tuple[tuple[int, Paragraph], ...] = ()

    @property
    def text(self) -> str:
        """The text of all runs."""
        runs = self.runs
        return runs[0][0] if len(runs) == 1 else "".join([text for text, _ in runs])


def quantize(size_px: float) -> float:
    """Return the nearest font size that is a multiple of ``SIZE_STEP_PX``."""
    return max(SIZE_STEP_PX, round(size_px / SIZE_STEP_PX) * SIZE_STEP_PX)
