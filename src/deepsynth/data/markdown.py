"""Markdown (CommonMark and tables) as blocks: headings, emphasis, lists, quotes, tables and code drawn as such.

What is drawn is what the page's text says: "Title" and not "# Title", and "•" before an item of a list. A line end
within a paragraph is a space, as CommonMark has it. Links show their text, images their description; HTML is drawn
literally.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from deepsynth.data.blocks import Block, HorizontalRule, Table
from deepsynth.data.layout import Paragraph
from deepsynth.data.shaping import Style

if TYPE_CHECKING:
    from markdown_it.token import Token

_MONOSPACE = "DejaVu Sans Mono"
#: Size of a heading by its level, in units of the body's.
_HEADING_SIZES = (1.8, 1.5, 1.25, 1.1, 1.0, 1.0)
_PARAGRAPH_SPACE = 0.6
_INDENT = 1.8
_BULLETS = "•◦▪"


def markdown_blocks(text: str, style: Style) -> list[Block]:
    """Return the blocks of a Markdown text.

    Args:
        text: cleaned.
        style: of the body.
    """
    from markdown_it import MarkdownIt

    return _Reader(style).blocks(MarkdownIt("commonmark").enable("table").parse(text))


class _Reader:
    """Walks the parser's tokens once."""

    def __init__(self, style: Style) -> None:
        self._body = style
        self._blocks: list[Block] = []
        self._depth = 0
        self._lists: list[int | None] = []  # number of the next item, None for bullets
        self._marker = ""
        self._heading = 0
        self._tight = False
        self._opens_list = False
        self._cells: list[list[Paragraph]] = []

    def blocks(self, tokens: Sequence[Token]) -> list[Block]:
        """Return the blocks of a document."""
        for token in tokens:
            self._read(token)
        return self._blocks or [Paragraph((("", self._body),))]

    def _read(self, token: Token) -> None:
        kind = token.type
        if kind == "heading_open":
            self._heading, self._tight = int(token.tag[1]), False
        elif kind == "heading_close":
            self._heading = 0
        elif kind in ("bullet_list_open", "ordered_list_open"):
            self._lists.append(int(token.attrs.get("start", 1)) if kind == "ordered_list_open" else None)
            self._depth += 1
            self._opens_list = self._depth == 1
        elif kind in ("bullet_list_close", "ordered_list_close"):
            self._lists.pop()
            self._depth -= 1
        elif kind == "list_item_open":
            self._open_item(token)
        elif kind == "list_item_close":
            if self._marker:  # an item without text still shows its marker
                self._add([("", self._body)])
        elif kind == "blockquote_open":
            self._depth += 1
        elif kind == "blockquote_close":
            self._depth -= 1
        elif kind == "paragraph_open":
            self._tight = token.hidden and not self._opens_list
            self._opens_list = False
        elif kind in ("fence", "code_block"):
            self._add_code(token.content)
        elif kind == "html_block":
            self._add_lines([("".join(line), self._body) for line in token.content.rstrip("\n").split("\n")])
        elif kind == "hr":
            self._blocks.append(HorizontalRule(self._body, self._space()))
        elif kind == "tr_open":
            self._cells.append([])
        elif kind == "table_close":
            self._blocks.append(Table(tuple(tuple(row) for row in self._cells), self._space()))
            self._cells = []
        elif kind == "inline":
            self._add_inline(token)

    def _open_item(self, token: Token) -> None:
        number = self._lists[-1]
        if number is None:
            self._marker = _BULLETS[(len(self._lists) - 1) % len(_BULLETS)]
        else:
            self._marker = f"{number}{token.markup}"
            self._lists[-1] = number + 1

    def _add_inline(self, token: Token) -> None:
        style = self._body
        if self._heading:
            size = style.size_px * _HEADING_SIZES[self._heading - 1]
            style = style._replace(size_px=round(size * 2) / 2, bold=True)
        header = bool(self._cells) and len(self._cells) == 1
        lines = _inline_lines(token.children or (), style._replace(bold=True) if header else style)
        if self._cells:
            self._cells[-1].append(Paragraph(tuple(run for line in lines for run in line) or (("", style),)))
            return
        for line in lines:
            self._add(line or [("", style)])

    def _add(self, runs: list[tuple[str, Style]]) -> None:
        indent = round(self._depth * _INDENT * self._body.size_px)
        space = 0 if self._tight and self._blocks else self._space()
        self._blocks.append(Paragraph(tuple(runs), indent, self._marker, space, self._heading > 0))
        self._marker = ""
        self._tight = True  # a hard line break continues the paragraph without a gap

    def _add_code(self, content: str) -> None:
        style = self._body._replace(family=_MONOSPACE, size_px=round(self._body.size_px * 1.8) / 2)
        self._add_lines([(line, style) for line in content.rstrip("\n").split("\n")])

    def _add_lines(self, lines: list[tuple[str, Style]]) -> None:
        self._tight = False
        for line in lines:
            self._add([line])

    def _space(self) -> int:
        return round(_PARAGRAPH_SPACE * self._body.size_px) if self._blocks else 0


def _inline_lines(children: Sequence[Token], style: Style) -> list[list[tuple[str, Style]]]:
    """Return the runs of a paragraph, a list for each of its lines."""
    lines: list[list[tuple[str, Style]]] = [[]]
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
            lines[-1].append((token.content, look._replace(family=_MONOSPACE, size_px=style.size_px)))
        elif token.content:  # text, html_inline, and an image's description
            lines[-1].append((token.content, look))
    return lines
