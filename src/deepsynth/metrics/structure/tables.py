"""Tables: TEDS, the similarity of two tables by the edit distance of their trees.

TEDS is that of Zhong et al. 2020 (https://arxiv.org/abs/1911.10683): ``1 - distance / nodes``, with the edit distance
of the trees of both tables and the nodes of the larger one, the table itself not counted. Nodes of another tag or
another span cost 1; cells cost the normalized Levenshtein distance of their contents, in which an inline tag is one
symbol. TEDS-S compares the structure alone, without the contents.

As people compare models today (OmniDocBench), header cells count as cells and the groups ``thead``, ``tbody`` and
``tfoot`` are dissolved, since a page does not show which of them was meant. The original definition, which does not
look into header cells, is ``teds(..., original=True)``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from html.parser import HTMLParser
from typing import Any

from rapidfuzz.distance import Levenshtein

from deepsynth.errors import UserError
from deepsynth.lazy_imports import install_command
from deepsynth.metrics.otsl import otsl_to_html
from deepsynth.metrics.structure.alignment import best_alignment

_GROUPS = ("thead", "tbody", "tfoot")
_CELLS = ("td", "th")
#: Tags that have no end.
_VOID = ("br", "img", "hr", "col", "input", "wbr")
_TABLE = re.compile(r"<table\b.*?(?:</table\s*>|\Z)", re.DOTALL | re.IGNORECASE)
_PIPES = re.compile(r"(?:^[ \t]*\|?[^\n|]*\|[^\n]*(?:\n|\Z))+", re.MULTILINE)
_RULE = re.compile(r"^[ \t]*\|?[ \t:|-]*-[ \t:|-]*$", re.MULTILINE)


@dataclass
class TableNode:
    """A node of a table's tree.

    Attributes:
        tag: such as ``tr`` or ``td``.
        colspan: columns that a cell spans.
        rowspan: rows that a cell spans.
        content: symbols of a cell: characters, and inline tags as one symbol each.
        children: nodes below.
    """

    tag: str
    colspan: int = 1
    rowspan: int = 1
    content: list[str] = field(default_factory=list)
    children: list[TableNode] = field(default_factory=list)


class _TableParser(HTMLParser):
    """Builds the tree of the first table, closing what the text leaves open."""

    def __init__(self, original: bool) -> None:
        super().__init__(convert_charrefs=True)
        self.root: TableNode | None = None
        self.nodes = 0
        self._original = original
        self._open: list[TableNode] = []
        self._inner = 0  # tables within a cell
        self._done = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if self._done:
            return
        if tag == "table" and not self._open:
            self.root = TableNode("table")
            self._open = [self.root]
        elif self._open and self._inner == 0 and tag in ("tr", *_GROUPS, *_CELLS):
            self._start(tag, dict(attrs))
        elif self._open and self._in_cell():
            self._inner += tag == "table"
            self._open[-1].content += [f"<{tag}>", f"</{tag}>"] if tag in _VOID else [f"<{tag}>"]
            self.nodes += 1
        elif self._open and self._original:
            self._open[-1].children.append(node := TableNode(tag))
            self.nodes += 1
            if tag not in _VOID:
                self._open.append(node)

    def _start(self, tag: str, attributes: dict[str, str | None]) -> None:
        closed = _CELLS if tag in _CELLS else ("tr", *_CELLS) if tag == "tr" else ("tr", *_CELLS, *_GROUPS)
        while self._open[-1].tag in closed:
            self._open.pop()
        if tag in _CELLS and self._open[-1].tag != "tr":
            self._start("tr", {})
        if tag in _GROUPS and not self._original:
            return
        spans = [_span(attributes.get(name)) for name in ("colspan", "rowspan")]
        node = TableNode(self._name(tag), *(spans if self._name(tag) == "td" else ()))
        self._open[-1].children.append(node)
        self._open.append(node)
        self.nodes += 1

    def handle_endtag(self, tag: str) -> None:
        if not self._open or self._done:
            return
        if self._inner or (self._in_cell() and tag not in ("table", "tr", *_GROUPS, *_CELLS)):
            self._inner -= tag == "table"
            if tag not in _VOID:
                self._open[-1].content.append(f"</{tag}>")
        elif tag == "table":
            self._done = True
        else:
            own = self._name(tag)
            places = [place for place, node in enumerate(self._open) if node.tag == own]
            if places:
                del self._open[places[-1] :]

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if self._open and self._in_cell() and not self._done:
            self._open[-1].content += [f"<{tag}>", f"</{tag}>"]
            self.nodes += 1

    def handle_data(self, data: str) -> None:
        if self._open and self._in_cell() and not self._done:
            self._open[-1].content += data

    def _name(self, tag: str) -> str:
        return "td" if tag == "th" and not self._original else tag

    def _in_cell(self) -> bool:
        return self._open[-1].tag == "td"


def _span(value: str | None) -> int:
    return int(value) if value and value.isdecimal() and 0 < int(value) <= 1000 else 1


def parse_table(html: str, *, original: bool = False) -> tuple[TableNode, int] | None:
    """Return the tree of the first table of a text and its number of nodes, the table itself left out.

    Args:
        html: with a ``<table>``; ends that are missing are added.
        original: keep groups of rows and header cells apart.
    """
    parser = _TableParser(original)
    parser.feed(html)
    parser.close()
    if parser.root is None:
        return None
    _strip(parser.root)
    return parser.root, parser.nodes


def _strip(node: TableNode) -> None:
    """Drop white space at the ends of cells."""
    while node.content and node.content[0].isspace():
        node.content.pop(0)
    while node.content and node.content[-1].isspace():
        node.content.pop()
    for child in node.children:
        _strip(child)


def teds(prediction: str, target: str, *, structure_only: bool = False, original: bool = False) -> float:
    """Return the similarity of two HTML tables, from 0 to 1; 0 where one of both is no table.

    The original definition falls below 0 for trees that share nothing.

    Args:
        prediction: HTML of a table.
        target: HTML of a table.
        structure_only: leave the contents of cells out (TEDS-S).
        original: the definition of the paper, see above.

    Raises:
        UserError: without the package ``apted``.
    """
    try:
        from apted import APTED, Config
    except ImportError as error:
        raise UserError(f"TEDS needs the package apted; {install_command('structure')}") from error

    class Costs(Config):  # type: ignore[misc]  # apted has no types
        """What it costs to turn one node into another."""

        def rename(self, node1: Any, node2: Any) -> float:
            """Return 0 for equal nodes, at most 1."""
            if (node1.tag, node1.colspan, node1.rowspan) != (node2.tag, node2.colspan, node2.rowspan):
                return 1.0
            if structure_only or node1.tag != "td":
                return 0.0
            return float(Levenshtein.normalized_distance(node1.content, node2.content))

    trees = [parse_table(html, original=original) for html in (prediction, target)]
    if trees[0] is None or trees[1] is None:
        return 0.0
    nodes = max(trees[0][1], trees[1][1])
    if nodes == 0:
        return 1.0
    distance = float(APTED(trees[0][0], trees[1][0], Costs()).compute_edit_distance())
    return 1.0 - distance / nodes if original else max(0.0, 1.0 - distance / nodes)


def tables_of(text: str) -> list[str]:
    """Return the tables of a text as HTML, in its order; pipe tables of Markdown, and OTSL, are turned into HTML."""
    text = otsl_to_html(text)
    found = [(match.start(), match.group()) for match in _TABLE.finditer(text)]
    rest = _TABLE.sub(lambda match: " " * len(match.group()), text)
    for match in _PIPES.finditer(rest):
        if _RULE.search(match.group()):
            html = _pipes_to_html(match.group())
            found += [(match.start(), table.group()) for table in _TABLE.finditer(html)]
    return [table for _, table in sorted(found, key=lambda pair: pair[0])]


def _pipes_to_html(text: str) -> str:
    from markdown_it import MarkdownIt

    return str(MarkdownIt("commonmark").enable("table").render(text))


def table_scores(prediction: str, target: str) -> dict[str, float] | None:
    """Return ``teds`` and ``teds_structure`` of all tables of a page, which are compared in their order.

    The sum over pairs is divided by the number of tables of the side that has more: a table that is missing and one too
    many count as 0. ``None`` where neither side has a table.
    """
    predicted, expected = tables_of(prediction), tables_of(target)
    if not predicted and not expected:
        return None
    most = max(len(predicted), len(expected))
    pairs = best_alignment(predicted, expected, teds)
    structure = sum(teds(predicted[i], expected[j], structure_only=True) for i, j, _ in pairs)
    return {"teds": sum(score for *_, score in pairs) / most, "teds_structure": structure / most}
