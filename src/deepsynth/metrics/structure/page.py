"""All structure metrics of a page, and their means over pages."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from rapidfuzz.distance import Levenshtein

from deepsynth.metrics.otsl import otsl_faults, otsl_to_html
from deepsynth.metrics.structure.blocks import parse_blocks, plain_text
from deepsynth.metrics.structure.boxes import box_scores
from deepsynth.metrics.structure.formulas import formula_scores
from deepsynth.metrics.structure.markdown import markdown_scores
from deepsynth.metrics.structure.tables import table_scores

#: The figures of a page. A figure that a page has nothing for is left out of its scores.
STRUCTURE_METRICS = (
    "text_distance",
    "order_distance",
    "valid_markup",
    "teds",
    "teds_structure",
    "formula_match",
    "formula_distance",
    "formula_drawn",
    "box_iou",
    "box_precision",
    "box_recall",
    "markdown_headings",
    "markdown_lists",
    "markdown_code",
)
#: Paragraphs that are less alike than this are not taken for the same one.
_SAME_PARAGRAPH = 0.5


def structure_scores(prediction: str, target: str) -> dict[str, float]:
    """Return the figures (``STRUCTURE_METRICS``) that apply to a page.

    * ``text_distance``: Levenshtein distance of both texts without markup, over the length of the longer one.
    * ``order_distance``: how far the paragraphs that both sides have are from the order of the target: the normalized
      edit distance of the two orders; left out where fewer than two are found.
    * ``valid_markup``: 1 where boxes and tables of the prediction parse, else 0; left out where it has no markup.
    * the figures of :mod:`~deepsynth.metrics.structure.tables`, ``formulas``, ``boxes`` and ``markdown``.

    Tables in OTSL, as PaddleOCR-VL writes them, are compared as the HTML that they stand for.
    """
    faults = otsl_faults(prediction)
    prediction, target = otsl_to_html(prediction), otsl_to_html(target)
    predicted, expected = plain_text(prediction), plain_text(target)
    scores = {"text_distance": float(Levenshtein.normalized_distance(predicted, expected))}
    order = _order_distance(_paragraphs(predicted), _paragraphs(expected))
    if order is not None:
        scores["order_distance"] = order
    if re.search(r"<\|/?(?:ref|det)\|>|</?t(?:able|d|h|r)\b", prediction):
        scores["valid_markup"] = float(not parse_blocks(prediction)[1] + faults)
    for score in (table_scores, formula_scores, box_scores, markdown_scores):
        scores |= score(prediction, target) or {}
    return scores


def mean_scores(pages: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """Return the mean of each figure over the pages that have it."""
    rows = list(pages)
    found = {name: [row[name] for row in rows if name in row] for name in STRUCTURE_METRICS}
    return {name: sum(values) / len(values) for name, values in found.items() if values}


def _paragraphs(text: str) -> list[str]:
    return [part.strip() for part in re.split(r"\n\s*\n", text) if part.strip()]


def _order_distance(predicted: list[str], expected: list[str]) -> float | None:
    """Return the distance of the orders of the paragraphs that both sides have."""
    alike = [
        (Levenshtein.normalized_similarity(one, other, score_cutoff=_SAME_PARAGRAPH), i, j)
        for i, one in enumerate(predicted)
        for j, other in enumerate(expected)
    ]
    partner: dict[int, int] = {}
    for score, i, j in sorted(alike, key=lambda found: (-found[0], abs(found[1] - found[2]))):
        if score and i not in partner and j not in partner.values():
            partner[i] = j
    if len(partner) < 2:
        return None
    order = [partner[i] for i in sorted(partner)]
    return float(Levenshtein.normalized_distance(order, sorted(order)))
