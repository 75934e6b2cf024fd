r"""olmOCR-bench: unit tests on pages, as its JSON lines have them (https://arxiv.org/abs/2502.18443).

Rules and scores are those of the published code (``olmocr/bench``), but for formulas: it compares how KaTeX draws them
in a browser, this module their symbols in LaTeX without layout commands. A formula whose symbols stand in the page in
another spelling that draws the same (``\frac12`` and ``{1 \over 2}``) fails here and passes there.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rapidfuzz import fuzz

from deepsynth.data.sources.row_files import json_objects
from deepsynth.errors import UserError
from deepsynth.measurement.published.olmocr_text import (
    ends_in_repeats,
    find_starts,
    foreign_characters,
    letters,
    normalize,
)
from deepsynth.metrics.structure.formulas import normalize_formula
from deepsynth.metrics.structure.table_grid import DIRECTIONS, Grid, html_grids, markdown_grids

#: Group of the tests that every PDF has which has none of this kind.
BASELINE = "baseline"
#: Forms of formulas, in the order in which they are taken out of a text.
_FORMULAS = tuple(
    re.compile(pattern, re.DOTALL) for pattern in (r"\\\((.+?)\\\)", r"\\\[(.+?)\\\]", r"\$\$(.+?)\$\$", r"\$(.+?)\$")
)

#: Fonts of letters, which the published comparison does not see.
_FONT = re.compile(r"\\(?:math(?:bf|it|bb|cal|scr|frak|sf|tt)|boldsymbol|bm|pmb)(?![A-Za-z])")


@dataclass(frozen=True)
class UnitTest:
    """A test of one page.

    Attributes:
        id: unique.
        pdf: path of the PDF below the folder ``pdfs``.
        page: from 1.
        type: a name of ``TYPES``.
        group: name of the file that it stands in.
        fields: what else its row has.
    """

    id: str
    pdf: str
    page: int
    type: str
    group: str
    fields: Mapping[str, Any]

    def passes(self, text: str) -> bool:
        """Return whether the text of the page passes."""
        return TYPES[self.type](self.fields, text)


def read_tests(folder: Path) -> list[UnitTest]:
    """Return the tests of the benchmark's folder: those of its ``*.jsonl`` files, and a baseline test for each PDF.

    Raises:
        UserError: without such files, for a row that is no test, an id that comes twice, or a PDF that is missing.
    """
    files = sorted(folder.glob("*.jsonl"))
    pdfs = sorted(str(file.relative_to(folder / "pdfs").as_posix()) for file in (folder / "pdfs").rglob("*.pdf"))
    if not files or not pdfs:
        raise UserError(f"{folder}: no *.jsonl or no pdfs/**/*.pdf; give the folder of olmOCR-bench with both")
    tests = [_read_test(where, row, file.name) for file in files for where, row in json_objects(file)]
    seen: dict[str, None] = {}
    for test in tests:
        if test.id in seen:
            raise UserError(f"{folder}: two tests have the id {test.id!r}")
        seen[test.id] = None
        if test.pdf not in pdfs:
            raise UserError(f"{folder}: the test {test.id!r} names {test.pdf!r}, which is not in pdfs")
    covered = {test.pdf for test in tests if test.type == BASELINE}
    return tests + [UnitTest(f"{pdf}_baseline", pdf, 1, BASELINE, BASELINE, {}) for pdf in pdfs if pdf not in covered]


def _read_test(where: str, row: Mapping[str, Any], group: str) -> UnitTest:
    kind = row.get("type")
    if kind not in TYPES:
        raise UserError(f"{where}: type is {kind!r}; it must be one of {', '.join(TYPES)}")
    needed = {"present": ("text",), "absent": ("text",), "order": ("before", "after"), "table": ("cell",),
              "math": ("math",)}.get(kind, ())  # fmt: skip
    for name in ("id", "pdf", *needed):
        if not isinstance(row.get(name), str) or not row[name].strip():
            raise UserError(f"{where}: {name} is {row.get(name)!r}; it must be a text")
    for name, default in (("page", 1), ("max_diffs", 0)):
        if not isinstance(row.get(name, default), int) or row.get(name, default) < default:
            raise UserError(f"{where}: {name} is {row.get(name)!r}; it must be a number from {default}")
    return UnitTest(row["id"], row["pdf"], row.get("page", 1), kind, group, row)


# ---------------------------------------------------------------------- rules


def _least(phrase: str, fields: Mapping[str, Any]) -> float:
    """Return the similarity that a phrase needs, from 0 to 1."""
    return 1.0 - int(fields.get("max_diffs") or 0) / max(len(phrase), 1)


def _is_present(fields: Mapping[str, Any], text: str) -> bool:
    phrase, text = normalize(fields["text"]), normalize(text)
    if not fields.get("case_sensitive", True):
        phrase, text = phrase.lower(), text.lower()
    first, last = fields.get("first_n"), fields.get("last_n")
    if first or last:
        text = (text[:first] if first else "") + (text[-last:] if last else "")
    return fuzz.partial_ratio(phrase, text) / 100.0 >= _least(phrase, fields)


def _is_absent(fields: Mapping[str, Any], text: str) -> bool:
    return not _is_present(fields, text)


def _is_in_order(fields: Mapping[str, Any], text: str) -> bool:
    text, most = normalize(text), int(fields.get("max_diffs") or 0)
    before, after = (find_starts(normalize(fields[name]), text, most) for name in ("before", "after"))
    return bool(before) and bool(after) and min(before) < max(after)


def _is_in_table(fields: Mapping[str, Any], text: str) -> bool:
    grids: Iterable[Grid] = html_grids(text)
    if not fields.get("ignore_markdown_tables"):
        grids = [*markdown_grids(text), *grids]
    wanted = {name: normalize(fields[name]) for name in _RELATIONS if fields.get(name)}
    phrase = normalize(fields["cell"])
    for grid in grids:
        texts = [normalize(cell.text) for cell in grid.cells]

        def alike(phrase: str, cells: Iterable[int], texts: list[str] = texts) -> list[int]:
            least = max(0.5, _least(phrase, fields))
            return [cell for cell in cells if fuzz.ratio(phrase, texts[cell]) / 100.0 >= least]

        for cell in alike(phrase, range(len(texts))):
            if all(alike(other, _RELATIONS[name](grid, cell)) for name, other in wanted.items()):
                return True
    return False


def _neighbors(direction: str) -> Callable[[Grid, int], set[int]]:
    return lambda grid, cell: grid.neighbors(cell, direction)


_RELATIONS: dict[str, Callable[[Grid, int], set[int]]] = {
    **{direction: _neighbors(direction) for direction in DIRECTIONS},
    "top_heading": lambda grid, cell: grid.headings(cell, "up"),
    "left_heading": lambda grid, cell: grid.headings(cell, "left"),
}


def _has_formula(fields: Mapping[str, Any], text: str) -> bool:
    formula = fields["math"].strip()
    wanted = _symbols(formula)
    for found in _formulas(text, dollars=not fields.get("ignore_dollar_delimited")):
        symbols = _symbols(found)
        starts = range(len(symbols) - len(wanted) + 1)
        if found == formula or any(symbols[start : start + len(wanted)] == wanted for start in starts):
            return True
    return False


def _symbols(latex: str) -> tuple[str, ...]:
    return normalize_formula(_FONT.sub("", latex))


def _formulas(text: str, *, dollars: bool) -> Iterator[str]:
    for form in _FORMULAS if dollars else _FORMULAS[:2]:
        yield from map(str.strip, form.findall(text))
        text = form.sub("", text)


def _is_sound(fields: Mapping[str, Any], text: str) -> bool:
    longest = fields.get("max_length")
    if longest is not None:
        return letters(text, images=not fields.get("max_length_skips_image_alt_tags")) <= int(longest)
    if not letters(text) or ends_in_repeats(text, fields.get("max_repeats", 30)):
        return False
    return not (fields.get("check_disallowed_characters", True) and foreign_characters(text))


#: Rule of each type: whether a text passes.
TYPES: dict[str, Callable[[Mapping[str, Any], str], bool]] = {
    "present": _is_present,
    "absent": _is_absent,
    "order": _is_in_order,
    "table": _is_in_table,
    "math": _has_formula,
    BASELINE: _is_sound,
}
