"""What a page shows of each block of its document, and how Markdown says it.

A block that goes on in another column or on another page is cut where the page cuts it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from itertools import accumulate

from deepsynth.data.markup.footnotes import note_number
from deepsynth.data.markup.inline_markdown import (
    Run,
    fenced,
    has_dollar_pairs,
    heading_markdown,
    inline_markdown,
)
from deepsynth.data.markup.table_writing import shown_cells, table_html, table_pipes
from deepsynth.data.typesetting.blocks import Block, Figure, HorizontalRule
from deepsynth.data.typesetting.pages import PageLayout, PlacedRow
from deepsynth.data.typesetting.paragraphs import BODY, BOXES, FURNITURE, BlockLabel, Container, Paragraph, RunStyle
from deepsynth.data.typesetting.tables import Table
from deepsynth.types import BlockMarkdown, PageBlock


def page_blocks(layout: PageLayout, blocks: Sequence[Block]) -> tuple[PageBlock, ...]:
    """Return the blocks of a page in reading order.

    Args:
        layout: the page.
        blocks: blocks of the whole document.
    """
    drawn = list(accumulate((bool(line.line.places) for line in layout.lines), initial=0))
    groups: list[list[PlacedRow]] = []
    found: list[PageBlock] = []
    page = cache(lambda: _Writer(blocks).write_all(groups))
    for rows in _groups(layout.rows, blocks):
        first, last = rows[0].first_line, rows[-1].first_line + len(rows[-1].row.lines)
        lines = (drawn[first], drawn[last])
        areas = tuple([box for row in rows for box in row.areas])
        if lines[0] == lines[1] and not areas:
            continue
        label = _label(_block_of(blocks, rows[0]))
        found.append(PageBlock(label, _Written(page, len(groups)), lines, areas))
        groups.append(rows)
    return tuple(found)


def _label(block: Block) -> BlockLabel:
    if isinstance(block, Paragraph):
        return block.label
    if isinstance(block, Table):
        return "table"
    if isinstance(block, Figure):
        return "image"
    return "rule" if isinstance(block, HorizontalRule) else "text"


class _Written:
    """A block as Markdown, written with the others of its page when the first of them is asked for.

    Args:
        page: returns the blocks of the page.
        number: place of the block among them.
    """

    def __init__(self, page: Callable[[], Sequence[BlockMarkdown]], number: int) -> None:
        self._page = page
        self._number = number

    def __call__(self) -> BlockMarkdown:
        return self._page()[self._number]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Written) and self() == other()

    def __hash__(self) -> int:
        return hash(self())

    def __reduce__(self) -> tuple[type[_Written], tuple[Callable[[], Sequence[BlockMarkdown]], int]]:
        """Pickle what is written, not the layout that it is written from."""
        return _Written, (partial(tuple, (self(),)), 0)


def _groups(rows: Sequence[PlacedRow], blocks: Sequence[Block]) -> Iterator[list[PlacedRow]]:
    """Yield the rows of a page that belong to one block and stand in one column."""
    group: list[PlacedRow] = []
    for row in rows:
        if group and (group[-1].column != row.column or not _goes_on(blocks, group[-1], row)):
            yield group
            group = []
        group.append(row)
    if group:
        yield group


def _block_of(blocks: Sequence[Block], row: PlacedRow) -> Block:
    return row.row.block or blocks[row.row.position[0]]


def _goes_on(blocks: Sequence[Block], before: PlacedRow, row: PlacedRow) -> bool:
    """Return whether a row goes on with the block before it, as the lines of a plain text do up to an empty one."""
    block, former = _block_of(blocks, row), _block_of(blocks, before)
    if before.row.position[0] == row.row.position[0]:
        return block is former or row.row.block is None
    if isinstance(block, str):
        return bool(block.strip()) and isinstance(former, str) and bool(former.strip())
    return isinstance(block, Paragraph) and block.joined


class _Writer:
    """Writes the blocks of one page in their order: which containers and lists are open depends on those before."""

    def __init__(self, blocks: Sequence[Block]) -> None:
        self._blocks = blocks
        #: Containers of the block before, and whether each was begun on this page.
        self._open: list[tuple[Container, bool]] = []
        #: Number and delimiter of the last item of an ordered list, by the column of its marker.
        self._items: dict[int, str] = {}
        #: The row and the Markdown before.
        self._last: PlacedRow | None = None
        self._written = ""
        self._figures = 0

    def write_all(self, groups: Sequence[Sequence[PlacedRow]]) -> list[BlockMarkdown]:
        """Return the blocks of the page."""
        return [self._write(rows) for rows in groups]

    def _write(self, rows: Sequence[PlacedRow]) -> BlockMarkdown:
        furniture = rows[0].row.block
        if furniture and furniture.label in FURNITURE:
            text = " ".join([inline_markdown(runs, runs[0][1]) for _, runs in self._paragraphs(rows)])
            return BlockMarkdown(text, "")
        last, self._last = self._last, rows[-1]
        before = "\n\n" if last else ""
        block = _block_of(self._blocks, rows[0])
        if last and _block_of(self._blocks, last) is block and _is_text(block) and rows[0].row.position[1]:
            written = self._continued(last, rows)
        else:
            written = self._begun(block, rows, before)
        self._written = written.markdown
        return written

    def _continued(self, last: PlacedRow, rows: Sequence[PlacedRow]) -> BlockMarkdown:
        """Return the rest of a paragraph in the next column, which Markdown appends to its line."""
        block = _block_of(self._blocks, rows[0])
        heading = isinstance(block, Paragraph) and block.heading > 0
        joiner = last.row.lines[0][0].joiner
        texts: list[str] = []
        for _, runs in self._paragraphs(rows):
            text = inline_markdown(runs, RunStyle(bold=True) if heading else BODY)
            if not texts and not joiner and (self._written[-1:] in "*`" or text[:1] in "*`"):
                text = inline_markdown([(part, BODY) for part, _ in runs])  # both marks would be one
            texts.append(text)
        ends = "\n" if isinstance(block, str) else "\\\n"
        return BlockMarkdown(ends.join([text for text in texts if text]), joiner)

    def _begun(self, block: Block, rows: Sequence[PlacedRow], before: str) -> BlockMarkdown:
        if isinstance(block, HorizontalRule):
            self._open, self._items = [], {}
            return BlockMarkdown("---", before)
        if isinstance(block, Table):
            self._open, self._items = [], {}
            cells = shown_cells(block, rows)
            return BlockMarkdown(table_html(cells), before, table_pipes(cells))
        if isinstance(block, Figure):
            self._open, self._items = [], {}
            self._figures += 1
            return BlockMarkdown(f"![](images/{self._figures - 1}.jpg)", before)
        if isinstance(block, str):
            texts = self._texts(rows)
            return BlockMarkdown("\n".join(texts), before)
        return self._paragraph(block, rows, before)

    def _paragraph(self, block: Paragraph, rows: Sequence[PlacedRow], before: str) -> BlockMarkdown:
        if block.label == "footnote":
            self._open, self._items = [], {}
            number = note_number(block.marker)
            texts = [inline_markdown(runs, runs[0][1]) for _, runs in self._paragraphs(rows)]
            return BlockMarkdown(f"[^{number}]: {' '.join(texts)}", before)
        marker = block.marker or " "
        begins = bool(block.marker) and rows[0].row.position[1] == 0
        tight = begins and not block.space_before_em and bool(self._open) and all(here for _, here in self._open)
        deeper = len(block.containers) > len(self._open)
        prefix, rest = self._prefixes(block, begins)
        if begins and block.marker in BOXES:
            prefix += f"[{' x'[BOXES.index(block.marker)]}] "
        parts = self._paragraphs(rows)
        head = ""
        if "\\" in prefix and (block.heading or block.label == "code"):
            head, prefix = f"{prefix.rstrip()}\n\n", rest  # a marker that is text has a line for itself
        if block.label == "code":
            texts = fenced(["".join([text for text, _ in runs]) for _, runs in parts])
        elif block.heading:
            runs = [run for _, own in parts for run in (*own, (" ", BODY))]
            texts = [heading_markdown(block.heading, inline_markdown(runs, RunStyle(bold=True)))]
        else:
            texts = [text for text in self._texts(rows) if text] or [""]
            texts = [*[f"{text}\\" for text in texts[:-1]], texts[-1]]
        if tight and texts[0] and (not deeper or not marker[0].isdigit() or marker[:-1] == "1"):
            before = before and "\n"
        markdown = "\n".join([f"{rest if number else prefix}{text}".rstrip() for number, text in enumerate(texts)])
        return BlockMarkdown(head + markdown, before)

    def _texts(self, rows: Sequence[PlacedRow]) -> list[str]:
        """Return the shown part of each paragraph in the rows, as Markdown."""
        parts = self._paragraphs(rows)
        blocks = [self._blocks[number] for number, _ in parts if number >= 0]
        runs = [run for block in blocks for run in (block.runs if isinstance(block, Paragraph) else ((block, BODY),))]
        dollars = has_dollar_pairs([(f"{text}\n", style) for text, style in runs if isinstance(text, str)])
        return [inline_markdown(runs, dollars=dollars) for _, runs in parts]

    def _prefixes(self, block: Paragraph, begins: bool) -> tuple[str, str]:
        """Return what stands before the first line of a block and before the others, and note what is open now."""
        opened = max([place for place, box in enumerate(block.containers) if box.marker != "> "], default=-1)
        known = dict(self._open)
        self._open = []
        first = rest = ""
        for place, container in enumerate(block.containers):
            marker = container.marker
            here = known.get(container, False)
            if marker == "> ":
                first, rest, here = f"{first}> ", f"{rest}> ", True
            elif begins and place == opened:
                here = self._counts_on(len(first), marker)
                first = f"{first}{marker}" if here else f"{first}{marker[:-2]}\\{marker[-2:]}"
                rest += " " * len(marker) * here
            elif here:
                first, rest = first + " " * len(marker), rest + " " * len(marker)
            self._open.append((container, here))
        if not begins:
            self._items = {column: item for column, item in self._items.items() if column < len(rest)}
        return first, rest

    def _counts_on(self, column: int, marker: str) -> bool:
        """Return whether Markdown would give the item its own number, beside the items before it on the page."""
        former = self._items.get(column)
        self._items = {place: item for place, item in self._items.items() if place < column}
        item = marker.strip()
        if not item[0].isdigit():
            return True
        if former and former[-1] == item[-1] and int(former[:-1]) + 1 != int(item[:-1]):
            return False
        self._items[column] = item
        return True

    def _paragraphs(self, rows: Sequence[PlacedRow]) -> list[tuple[int, list[Run]]]:
        """Return the shown part of each paragraph in the rows, with its number."""
        found: list[tuple[int, list[Run]]] = []
        for row in rows:
            number, start = row.row.position
            block = _block_of(self._blocks, row)
            paragraph = block if isinstance(block, Paragraph) else Paragraph(((str(block), BODY),))
            if not found or found[-1][0] != number:
                found.append((number, []))
            line = row.row.lines[0][0]
            text = line.text
            if paragraph.marker and start == 0:
                text = text[len(paragraph.marker) + 1 :]
            joiner = " " if line.joiner == " " and row is not rows[-1] else ""
            found[-1][1].extend(_styled(paragraph, text + joiner, start))
        return [(number, runs or [("", BODY)]) for number, runs in found]


def _is_text(block: Block) -> bool:
    return isinstance(block, str) or (isinstance(block, Paragraph) and block.label != "code")


def _styled(paragraph: Paragraph, text: str, start: int) -> list[Run]:
    """Return the text of a line in runs of one style; it begins at a character of the paragraph."""
    runs: list[Run] = []
    end = start + len(text)
    place = 0
    for part, style in paragraph.runs:
        low, high = max(place, start), min(place + len(part), end)
        if low < high:
            runs.append((text[low - start : high - start], style))
        place += len(part)
    return runs
