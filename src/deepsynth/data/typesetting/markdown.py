"""Markdown (CommonMark and tables) as blocks: headings, emphasis, lists, quotes, tables and code drawn as such.

What is drawn is what the page's text says: "Title" and not "# Title", and "•" before an item of a list. A line end
within a paragraph is a space, as CommonMark has it. Links show their text, images their description; HTML is drawn
literally.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from deepsynth.data.typesetting.blocks import Block, HorizontalRule, Table
from deepsynth.data.typesetting.paragraphs import BODY, CODE, BlockLabel, Container, Paragraph, RunStyle

if TYPE_CHECKING:
    from markdown_it.token import Token

#: Sizes and distances are in units of the body's font size; a heading's goes by its level.
_HEADING_SIZES = (1.8, 1.5, 1.25, 1.1, 1.0, 1.0)
_PARAGRAPH_SPACE = 0.6
_INDENT = 1.8
_BULLETS = "•◦▪"
#: What the parser makes of the colons in a table's second line.
_ALIGNMENTS: dict[str, Literal["left", "center", "right"]] = {
    "text-align:left": "left",
    "text-align:center": "center",
    "text-align:right": "right",
}


def markdown_blocks(text: str) -> list[Block]:
    """Return the blocks of a cleaned Markdown text."""
    from markdown_it import MarkdownIt

    return _Reader().blocks(MarkdownIt("commonmark").enable("table").parse(text))


class _Reader:
    """Walks the parser's tokens once."""

    def __init__(self) -> None:
        self._blocks: list[Block] = []
        self._containers: list[Container] = []
        self._container_count = 0
        self._lists: list[int | None] = []  # number of the next item, None for bullets
        self._marker = ""
        self._heading = 0
        self._tight = False
        self._joined = False
        self._opens_list = False
        self._cells: list[list[Paragraph]] = []
        self._align: Literal["left", "center", "right"] | None = None

    def blocks(self, tokens: Sequence[Token]) -> list[Block]:
        """Return the blocks of a document."""
        for token in tokens:
            self._read(token)
        return self._blocks or [Paragraph((("", BODY),))]

    def _read(self, token: Token) -> None:
        kind = token.type
        if kind == "heading_open":
            self._heading, self._tight = int(token.tag[1]), False
        elif kind == "heading_close":
            self._heading = 0
        elif kind in ("bullet_list_open", "ordered_list_open"):
            self._lists.append(int(token.attrs.get("start", 1)) if kind == "ordered_list_open" else None)
            self._opens_list = not self._containers
        elif kind in ("bullet_list_close", "ordered_list_close"):
            self._lists.pop()
        elif kind == "list_item_open":
            self._open_item(token)
        elif kind == "list_item_close":
            if self._marker:  # an item without text still shows its marker
                self._joined = False
                self._add([("", BODY)])
            self._containers.pop()
        elif kind == "blockquote_open":
            self._open_container("> ")
        elif kind == "blockquote_close":
            self._containers.pop()
        elif kind == "paragraph_open":
            self._tight = token.hidden and not self._opens_list
            self._opens_list = False
        elif kind in ("fence", "code_block"):
            self._add_lines(token.content, CODE, "code")
        elif kind == "html_block":
            self._add_lines(token.content, BODY, "text")
        elif kind == "hr":
            self._blocks.append(HorizontalRule(self._space()))
        elif kind == "tr_open":
            self._cells.append([])
        elif kind in ("th_open", "td_open"):
            self._align = _ALIGNMENTS.get(str(token.attrs.get("style", "")))
        elif kind == "table_close":
            self._blocks.append(Table(tuple(tuple(row) for row in self._cells), self._space()))
            self._cells = []
        elif kind == "inline":
            self._add_inline(token)

    def _open_container(self, marker: str) -> None:
        self._container_count += 1
        self._containers.append(Container(marker, self._container_count))

    def _open_item(self, token: Token) -> None:
        number = self._lists[-1]
        if number is None:
            self._marker = _BULLETS[(len(self._lists) - 1) % len(_BULLETS)]
            self._open_container(f"{token.markup} ")
        else:
            self._marker = f"{number}{token.markup}"
            self._open_container(f"{self._marker} ")
            self._lists[-1] = number + 1

    def _add_inline(self, token: Token) -> None:
        style = BODY
        if self._heading:
            style = RunStyle(scale=_HEADING_SIZES[self._heading - 1], bold=True)
        header = len(self._cells) == 1
        lines = _inline_lines(token.children or (), style._replace(bold=True) if header else style)
        if self._cells:
            runs = tuple(run for line in lines for run in line) or (("", style),)
            self._cells[-1].append(Paragraph(runs, align=self._align))
            return
        label: BlockLabel = "text" if not self._heading else "title" if self._heading == 1 else "sub_title"
        self._joined = False
        for line in lines:
            self._add(line or [("", style)], label)

    def _add(self, runs: list[tuple[str, RunStyle]], label: BlockLabel = "text") -> None:
        self._blocks.append(
            Paragraph(
                tuple(runs),
                len(self._containers) * _INDENT,
                self._marker,
                0 if self._tight and self._blocks else self._space(),
                self._heading > 0,
                label=label,
                heading=self._heading,
                containers=tuple(self._containers),
                joined=self._joined,
            )
        )
        self._marker = ""
        self._tight = self._joined = True  # a hard line break continues the paragraph without a gap

    def _add_lines(self, content: str, style: RunStyle, label: BlockLabel) -> None:
        self._tight = self._joined = False
        for line in content.rstrip("\n").split("\n"):
            self._add([(line, style)], label)

    def _space(self) -> float:
        return _PARAGRAPH_SPACE if self._blocks else 0.0


def _inline_lines(children: Sequence[Token], style: RunStyle) -> list[list[tuple[str, RunStyle]]]:
    """Return the runs of a paragraph, a list for each of its lines."""
    lines: list[list[tuple[str, RunStyle]]] = [[]]
    bold, italic = int(style.bold), int(style.italic)
    for token in children:
        look = style._replace(bold=bold > 0, italic=italic > 0)
        if token.type == "strong_open":
            bold += 1
        elif token.type == "strong_close":
            bold -= 1
        elif token.type == "em_open":
            italic += 1
        elif token.type == "em_close":
            italic -= 1
        elif token.type == "hardbreak":
            lines.append([])
        elif token.type == "softbreak":
            lines[-1].append((" ", look))
        elif token.type == "code_inline":
            lines[-1].append((token.content, look._replace(family=CODE.family)))
        elif token.content:  # text, html_inline, and an image's description
            lines[-1].append((token.content, look))
    return lines
