"""The parts of a page in OmniDocBench: of its annotation, and of a predicted Markdown text."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from lxml import html

from deepsynth.data.formats.omnidocbench import FORMULA, OPTIONAL_TEXTS, TABLE, TEXTS, AnnotatedPage
from deepsynth.measurement.published.omnidocbench_text import normalized_formula, text_letters
from deepsynth.metrics.structure.tables import tables_of

_FENCE = re.compile(r"^```(?:markdown|html|latex)\n?|```\n?$", re.MULTILINE)
_TABLE_TAG = re.compile(r"<(/?)table\b[^>]*>")
_LATEX_TABLE = re.compile(r"\\begin\{table\}.*?\\end\{table\}|\\begin\{tabular\}.*?\\end\{tabular\}", re.DOTALL)
_FORMULA = re.compile(r"\$\$(.*?)\$\$|(\\\[.*?\\\])|\$(.*?)\$|\\\((.*?)\\\)", re.DOTALL)
_HEADING_COMMAND = re.compile(r"\\(?:title|text|section\*?)\s*\{\s*(.*?)\s*\}", re.DOTALL)
_PIPE_TABLE = re.compile(r"(?:^[ \t]*\|[^\n]*\|[ \t]*(?:\n|\Z)){2,}", re.MULTILINE)
_COLUMN_ARRAY = re.compile(r"\\begin\{array\}\{(?P<columns>[^}]*)\}(?P<body>.*?)\\end\{array\}", re.DOTALL)
#: Kind of a part of a prediction.
TEXT = "text"


@dataclass(frozen=True)
class Part:
    """A part of a page.

    Attributes:
        kind: category of an annotation; ``text`` or ``equation_isolated`` of a prediction.
        place: in the reading order: the annotated one, or the first character in the prediction.
        raw: as it stands there.
        compared: what is compared of it.
        inline: whether it is a formula within a paragraph.
    """

    kind: str
    place: float
    raw: str
    compared: str
    inline: bool = False


def _text(kind: str, place: float, raw: str) -> Part:
    return Part(kind, place, raw, text_letters(raw))


def _formula(place: float, raw: str, *, inline: bool = False) -> list[Part]:
    """Return a formula, or one for each row of an array of one column."""
    array = _COLUMN_ARRAY.search(raw)
    if array is None or re.sub(r"[\s|]|[@!]\{[^}]*\}", "", array["columns"]) not in ("l", "c", "r"):
        return [Part(FORMULA, place, raw, normalized_formula(raw), inline)]
    rows = [row.strip() for row in re.split(r"\\\\", array["body"]) if row.strip()]
    return [
        Part(FORMULA, place + number / 10, f"\\[{row}\\]", normalized_formula(f"\\[{row}\\]"), inline)
        for number, row in enumerate(rows, 1)
    ]


def annotated_parts(page: AnnotatedPage) -> tuple[list[Part], list[str]]:
    """Return the texts and formulas of a page in reading order, and the HTML of its tables."""
    parts: list[Part] = []
    for element in sorted(page.elements, key=lambda element: element.order):
        if element.category == FORMULA:
            parts += _formula(element.order, element.latex)
        elif element.category in (*TEXTS, *OPTIONAL_TEXTS):
            parts.append(_text(element.category, element.order, element.text))
    tables = [element.html for element in sorted(page.elements, key=lambda e: e.order) if element.category == TABLE]
    return _with_content(parts), tables


def predicted_parts(text: str) -> tuple[list[Part], list[Part]]:
    """Return the texts and formulas of a prediction, and its tables; none where more of them are LaTeX than HTML.

    Formulas within paragraphs come last, and stay in their paragraphs too.
    """
    text = _FENCE.sub("", re.sub(r"!\[.*?\]\(.*?\)", "", text))
    text = re.sub(r"</?(?:html|body)>", "", re.sub(" {4,}", " " * 4, re.sub("_{4,}", "____", text)))
    latex_tables = len(_LATEX_TABLE.findall(text))
    text = _LATEX_TABLE.sub(_blank, text)
    spans = list(_outer_tables(text))
    tables = [Part(TABLE, start, text[start:end], "") for start, end in spans]
    for start, end in spans:
        text = text[:start] + " " * (end - start) + text[end:]
    parts: list[Part] = []
    shown = text
    for match in _FORMULA.finditer(text):
        line = " ".join(match.group().strip().split("\n"))
        inline = match[1] is None and match[2] is None
        content = next((group for group in match.groups() if group is not None), "")
        raw = line if match[2] else f"\\[{' '.join(content.split(chr(10)))}\\]"
        parts += _formula(match.start(), raw, inline=inline)
        if not inline:
            shown = shown[: match.start()] + " " * len(match.group()) + shown[match.end() :]
    for match in _PIPE_TABLE.finditer(shown):
        tables += [Part(TABLE, match.start(), table, "") for table in tables_of(match.group())]
    shown = _PIPE_TABLE.sub(lambda match: _blank(match) + "\n\n" if tables_of(match.group()) else match.group(), shown)
    parts += _paragraphs(_HEADING_COMMAND.sub(r"\1", shown))
    return in_order(_with_content(parts)), [] if latex_tables > len(tables) else tables


def in_order(parts: Iterable[Part]) -> list[Part]:
    """Return the parts of a prediction by place, formulas within paragraphs last."""
    return sorted(parts, key=lambda part: (part.inline, part.place))


def _blank(match: re.Match[str]) -> str:
    return " " * len(match.group())


def _outer_tables(text: str) -> Iterator[tuple[int, int]]:
    depth, start = 0, 0
    for tag in _TABLE_TAG.finditer(text):
        if not tag[1]:
            start = start if depth else tag.start()
            depth += 1
        elif depth:
            depth -= 1
            if not depth:
                yield start, tag.end()


def _paragraphs(text: str) -> Iterator[Part]:
    pieces = text.split("\n\n")
    pieces = pieces if len(pieces) > 1 else text.split("\n")
    place = 0  # as the published code counts: without what parts the paragraphs
    for piece in pieces:
        lines = [line.strip() for line in piece.split("\n") if line.strip()]
        if lines:
            yield _text(TEXT, place, "\n".join(lines))
        place += len(piece)


def _with_content(parts: Iterable[Part]) -> list[Part]:
    return [part for part in parts if part.raw and part.compared]


def table_texts(tables: Iterable[Part]) -> list[Part]:
    """Return the cells of tables as texts: those of a prediction that belong to no table of the page."""
    cells = [
        _text(TEXT, table.place, (cell.text or "").strip())
        for table in tables
        for cell in html.fragment_fromstring(table.raw, create_parent="div").iter("td")
        if len(cell) == 0
    ]
    return _with_content(cells)
