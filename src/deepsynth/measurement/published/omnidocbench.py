"""OmniDocBench: edit distance of texts, formulas and reading order, and TEDS of tables.

The scheme is that of version 1.5 (Ouyang et al. 2024, https://arxiv.org/abs/2412.07626) with its hybrid matching.
Formulas are scored by edit distance; the published overall has CDM in its place, which draws them with LaTeX.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from rapidfuzz.distance import Levenshtein

from deepsynth.data.formats.omnidocbench import FORMULA, OPTIONAL_TEXTS, AnnotatedPage
from deepsynth.measurement.published.omnidocbench_text import formula_letters, letters_only, normalized_table
from deepsynth.measurement.published.page_parts import (
    Part,
    annotated_parts,
    in_order,
    predicted_parts,
    table_texts,
)
from deepsynth.measurement.published.part_matching import Match, distance, match_parts
from deepsynth.metrics.structure.alignment import assign
from deepsynth.metrics.structure.tables import teds

#: Figures of the benchmark, those of pages first. Edit distances are better when lower.
FIGURES = (
    "text_edit", "formula_edit", "table_teds", "table_teds_structure", "table_edit", "order_edit", "overall_edit",
    "overall_without_cdm",
)  # fmt: skip


@dataclass
class PageScore:
    """What is counted on a page.

    Attributes:
        page: its annotation.
        edits: edits and characters by kind of content: ``text``, ``formula``, ``table``.
        order: distance of the reading orders; ``None`` without texts.
        teds: similarity of each table.
        teds_structure: the same without contents.
    """

    page: AnnotatedPage
    edits: dict[str, tuple[int, int]] = field(default_factory=dict)
    order: float | None = None
    teds: list[float] = field(default_factory=list)
    teds_structure: list[float] = field(default_factory=list)

    def count(self, kind: str, expected: str, predicted: str) -> None:
        """Add a pair of texts."""
        edits, length = self.edits.get(kind, (0, 0))
        longest = max(len(expected), len(predicted))
        self.edits[kind] = (edits + Levenshtein.distance(expected, predicted), length + longest)


def score_page(page: AnnotatedPage, text: str) -> PageScore:
    """Return the scores of a predicted Markdown text of a page."""
    score = PageScore(page)
    expected, tables = annotated_parts(page)
    predicted, own_tables = predicted_parts(text)
    if tables:
        predicted = in_order([*predicted, *table_texts(_score_tables(score, tables, own_tables))])
    texts: list[Match] = []
    for match in match_parts(expected, predicted):
        kinds = Counter(part.kind for part in match.expected)
        kind = kinds.most_common(1)[0][0]
        if kind in OPTIONAL_TEXTS:
            continue
        found = "".join(part.compared for part in match.predicted)
        if kind != FORMULA:
            texts.append(match)
            score.count("text", "".join(part.compared for part in match.expected), found)
        elif match.predicted and match.predicted[0].kind != FORMULA:  # written as a text
            score.count("text", letters_only(formula_letters("".join(part.raw for part in match.expected))), found)
        else:
            score.count("formula", "".join(part.compared for part in match.expected), found)
    score.order = _order_distance(texts)
    return score


def _score_tables(score: PageScore, expected: Sequence[str], predicted: Sequence[Part]) -> list[Part]:
    """Score the tables of a page, and return those of the prediction that belong to none."""
    costs = np.array([[distance(one, other.raw) for other in predicted] for one in expected])
    pairs = dict(assign(costs.reshape(len(expected), len(predicted))))
    for number, table in enumerate(expected):
        wanted = normalized_table(table)
        found = normalized_table(predicted[pairs[number]].raw) if number in pairs else ""
        score.count("table", wanted, found)
        score.teds.append(teds(found, wanted))
        score.teds_structure.append(teds(found, wanted, structure_only=True))
    return [table for place, table in enumerate(predicted) if place not in pairs.values()]


def _order_distance(matches: Sequence[Match]) -> float | None:
    expected = sorted(part.place for match in matches for part in match.expected if part.place)
    found = sorted((match for match in matches if match.predicted), key=lambda match: match.predicted[0].place)
    predicted = [part.place for match in found for part in match.expected if part.place]
    if not expected and not predicted:
        return None
    return float(Levenshtein.normalized_distance(expected, predicted))


def summarize(pages: Sequence[PageScore]) -> dict[str, float]:
    """Return the figures (``FIGURES``) of pages; one that no page has anything for is left out.

    Edit distances are those of a page's characters, averaged over pages; TEDS is averaged over tables.
    ``overall_edit`` is version 1.0's: the mean of the four distances. ``overall_without_cdm`` is version 1.5's, from 0
    to 100, with the edit distance of formulas in the place of CDM: not comparable with published ones.
    """
    found: dict[str, float] = {}
    for kind in ("text", "formula", "table"):
        ratios = [page.edits[kind][0] / page.edits[kind][1] for page in pages if page.edits.get(kind, (0, 0))[1]]
        found |= _mean(f"{kind}_edit", ratios)
    found |= _mean("table_teds", [value for page in pages for value in page.teds])
    found |= _mean("table_teds_structure", [value for page in pages for value in page.teds_structure])
    found |= _mean("order_edit", [page.order for page in pages if page.order is not None])
    distances = [found[name] for name in ("text_edit", "formula_edit", "table_edit", "order_edit") if name in found]
    if len(distances) == 4:
        found |= _mean("overall_edit", distances)
        parts = (1 - found["text_edit"], found["table_teds"], 1 - found["formula_edit"])
        found["overall_without_cdm"] = 100 * sum(parts) / 3
    return {name: found[name] for name in FIGURES if name in found}


def _mean(name: str, values: Sequence[float]) -> dict[str, float]:
    return {name: sum(values) / len(values)} if values else {}


def by_attribute(pages: Sequence[PageScore]) -> Mapping[str, Sequence[PageScore]]:
    """Return the pages by each of their labels, such as ``language: english``."""
    groups: dict[str, list[PageScore]] = {}
    for score in pages:
        for name, value in score.page.attributes.items():
            for label in value if isinstance(value, list) else [f"{name}: {value}"]:
                groups.setdefault(str(label), []).append(score)
    return dict(sorted(groups.items()))
