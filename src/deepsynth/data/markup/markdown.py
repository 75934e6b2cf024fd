"""Markdown as blocks: headings, emphasis, lists, quotes, tables, code, formulas, figures and footnotes drawn as such.

What is drawn is what the page's text says: "Title" and not "# Title", and "•" before an item of a list. A formula
stands there in LaTeX. A line end within a paragraph is a space, as CommonMark has it. Links show their text; images
their description, or themselves where there is a folder of figures; HTML but tables is drawn literally.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from deepsynth.data.markup.footnotes import NOTE, Footnotes
from deepsynth.data.markup.html_tables import read_table
from deepsynth.data.markup.rules import markdown_parser
from deepsynth.data.typesetting.blocks import Block, Figure, HorizontalRule
from deepsynth.data.typesetting.paragraphs import (
    BODY,
    BOXES,
    CODE,
    HEADER_CELL,
    BlockLabel,
    Container,
    Paragraph,
    RunStyle,
    Side,
)
from deepsynth.data.typesetting.tables import Table, place_cells
from deepsynth.io.paths import file_below

if TYPE_CHECKING:
    from markdown_it.token import Token

#: Sizes and distances are in units of the body's font size; a heading's goes by its level.
_HEADING_SIZES = (1.8, 1.5, 1.25, 1.1, 1.0, 1.0)
_PARAGRAPH_SPACE = 0.6
#: More than below it, so that a heading belongs to what follows.
_HEADING_SPACE = 1.0
_INDENT = 1.8
_BULLETS = ("•", "◦", "▪")
_TASK = re.compile(r"\[([ xX])\](?:\s+|$)")
#: What the parser makes of the colons in a table's second line.
_ALIGNMENTS: dict[str, Side] = {
    "text-align:left": "left",
    "text-align:center": "center",
    "text-align:right": "right",
}
#: Of a table and its rows, the tokens that say nothing which others do not.
_IGNORED = ("th_close", "td_close", "tr_close", "table_open", "thead_open", "thead_close", "tbody_open", "tbody_close")
#: How much deeper text is in bold and in italics behind a token.
_EMPHASIS = {"strong_open": (1, 0), "strong_close": (-1, 0), "em_open": (0, 1), "em_close": (0, -1)}
_FORMULA_SCALE = 1.1
_CAPTION = RunStyle(scale=0.9)


def markdown_blocks(
    text: str, figures: Path | None = None, can_set: Callable[[str], bool] | None = None
) -> tuple[list[Block], int]:
    """Return the blocks of a cleaned Markdown text, and the number of formulas that were left out.

    Args:
        text: the text.
        figures: folder of the images that it names; without one their descriptions are drawn.
        can_set: says of a formula whether it can be set; others are left out. By default all stay.

    Raises:
        UserError: for an image that is not in the folder.
    """
    reader = _Reader(figures, can_set or (lambda formula: True))
    return reader.blocks(markdown_parser().parse(text)), reader.omitted


class _Reader:
    """Walks the parser's tokens once."""

    def __init__(self, figures: Path | None, can_set: Callable[[str], bool]) -> None:
        self.omitted = 0
        self._figures = figures
        self._can_set = can_set
        self._blocks: list[Block] = []
        self._containers: list[Container] = []
        self._container_count = 0
        self._lists: list[int | None] = []  # number of the next item, None for bullets
        self._marker = ""
        self._heading = 0
        self._tight = False
        self._joined = False
        self._opens_list = False
        self._cells: list[list[tuple[tuple[Paragraph, ...], int, int, bool]]] = []
        self._align: Side | None = None
        self._note = ""
        self._notes = Footnotes(())

    def blocks(self, tokens: Sequence[Token]) -> list[Block]:
        """Return the blocks of a document."""
        self._notes = Footnotes([token.meta["label"] for token in tokens if token.type == "note_text"])
        for token in tokens:
            self._read(token)
        found: list[Block] = [
            self._notes.attach(block) if isinstance(block, Paragraph) else block for block in self._blocks
        ]
        return [*found, *self._notes.rest()] or [Paragraph((("", BODY),))]

    def _read(self, token: Token) -> None:
        kind = token.type
        if kind == "inline":  # half of the tokens are these and their cells
            self._add_inline(token)
        elif kind in ("th_open", "td_open"):
            self._align = _ALIGNMENTS.get(str(token.attrs.get("style", "")))
        elif kind in _IGNORED:
            pass
        elif kind == "heading_open":
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
        elif kind == "table_close":
            self._blocks.append(Table(place_cells(self._cells), self._space()))
            self._cells = []
        elif kind == "html_table":
            self._add_html_table(token.content)
        elif kind == "formula_block":
            self._tight = self._joined = False
            if self._is_set(token.content):
                self._add([(f"$${token.content}$$", RunStyle(scale=_FORMULA_SCALE, formula=True))], "equation")
        elif kind == "note_text":
            self._note = token.meta["label"]

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
        style = RunStyle(scale=_HEADING_SIZES[self._heading - 1], bold=True) if self._heading else BODY
        if self._note:
            self._add_note(token)
            return
        if self._figures and self._add_figure(token):
            return
        header = len(self._cells) == 1
        lines = self._inline_lines(self._without_task_mark(token), HEADER_CELL if header else style)
        if self._cells:
            runs = tuple([run for line in lines for run in line]) or (("", style),)
            self._cells[-1].append(((Paragraph(runs, align=self._align),), 1, 1, header))
            return
        label: BlockLabel = "text" if not self._heading else "title" if self._heading == 1 else "sub_title"
        self._joined = False
        for line in lines:
            self._add(line or [("", style)], label)

    def _without_task_mark(self, token: Token) -> Token:
        """Return the rest of an item that begins with a box, which takes the place of its bullet."""
        if not token.children or self._marker not in _BULLETS:
            return token
        first, *rest = token.children
        match = _TASK.match(first.content) if first.type == "text" else None
        if not match:
            return token
        self._marker = BOXES[match[1] != " "]
        return token.copy(children=[first.copy(content=first.content[match.end() :]), *rest])

    def _add(self, runs: list[tuple[str, RunStyle]], label: BlockLabel = "text") -> None:
        self._blocks.append(
            Paragraph(
                tuple(runs),
                len(self._containers) * _INDENT,
                self._marker,
                0 if self._tight and self._blocks else self._space(),
                self._heading > 0,
                "center" if label == "equation" else None,
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

    def _is_set(self, formula: str) -> bool:
        found = self._can_set(formula)
        self.omitted += not found
        return found

    def _add_html_table(self, html: str) -> None:
        self._tight = self._joined = False
        rows, caption, outside = read_table(html, self._is_set)
        if outside:  # a browser shows it before the table as well
            self._add([(outside, BODY)])
            self._tight = self._joined = False
        space = self._space()
        if caption:  # begins where its table does, and is closer to it than to what comes before
            runs = ((caption, _CAPTION),)
            self._blocks.append(Paragraph(runs, 0, "", space, keep_with_next=True, label="table_caption"))
            space = _PARAGRAPH_SPACE / 2
        if rows:
            self._blocks.append(Table(rows, space))

    def _add_figure(self, token: Token) -> bool:
        """Add the image that a paragraph consists of, with its description as the caption."""
        children = [child for child in token.children or () if child.type != "text" or child.content.strip()]
        if len(children) != 1 or children[0].type != "image" or self._cells:
            return False
        assert self._figures is not None
        path = file_below(self._figures, str(children[0].attrs.get("src", "")))
        self._blocks.append(Figure(path, self._space()))
        lines = self._inline_lines(children[0], _CAPTION)
        if any(text.strip() for line in lines for text, _ in line):
            runs = tuple([run for line in lines for run in line])
            space = _PARAGRAPH_SPACE / 2
            self._blocks.append(Paragraph(runs, 0, "", space, align="center", label="image_caption"))
        return True

    def _add_note(self, token: Token) -> None:
        lines = self._inline_lines(token, NOTE)
        self._notes.add(self._note, [run for line in lines for run in line])
        self._note = ""

    def _reference(self, token: Token, style: RunStyle) -> tuple[str, RunStyle]:
        found = self._notes.reference(token.meta["label"], carries=not self._cells and not self._note)
        return (found[0], style._replace(note=found[1])) if found else (token.content, style)

    def _space(self) -> float:
        if not self._blocks:
            return 0.0
        return _HEADING_SPACE if self._heading else _PARAGRAPH_SPACE

    def _inline_lines(self, parent: Token, style: RunStyle) -> list[list[tuple[str, RunStyle]]]:
        """Return the runs of a paragraph, a list for each of its lines."""
        if not parent.children:
            return [[(parent.content, style)] if parent.content else []]
        lines: list[list[tuple[str, RunStyle]]] = [[]]
        look = style
        bold, italic = int(style.bold), int(style.italic)
        for token in parent.children:
            if token.type in _EMPHASIS:
                bolder, slanted = _EMPHASIS[token.type]
                bold, italic = bold + bolder, italic + slanted
                look = style._replace(bold=bold > 0, italic=italic > 0)
            elif token.type == "hardbreak":
                lines.append([])
            elif token.type == "softbreak":
                lines[-1].append((" ", look))
            elif token.type == "formula":
                if self._is_set(token.content):
                    lines[-1].append((f"${token.content}$", look._replace(formula=True)))
            elif token.type == "note":
                lines[-1].append(self._reference(token, look))
            elif token.type == "code_inline":
                lines[-1].append((token.content, look._replace(family=CODE.family)))
            elif token.content:  # text, html_inline, and an image's description
                lines[-1].append((token.content, look))
        return lines
