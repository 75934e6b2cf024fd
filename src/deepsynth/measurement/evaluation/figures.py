"""Figures of predictions: metrics with bounds, by group, confusions, the worst documents, and a paired comparison."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from rapidfuzz.distance import Levenshtein

from deepsynth.measurement.evaluation.predictions import Predictions, groups_of
from deepsynth.measurement.evaluation.structure_figures import (
    cell_confusions,
    compare_structure,
    mean_bounds,
    mean_of_groups,
)
from deepsynth.metrics.corpus import bootstrap_intervals, summarize, summarize_groups
from deepsynth.metrics.documents import score_documents
from deepsynth.metrics.normalization import normalize
from deepsynth.metrics.scores import SCORE_COLUMNS, ScoreTable
from deepsynth.metrics.structure import mean_scores, structure_scores

_EDITS, _LENGTH = SCORE_COLUMNS.index("char_edits"), SCORE_COLUMNS.index("char_length")


@dataclass(frozen=True)
class Document:
    """A document with its error.

    Attributes:
        id: of the document.
        cer: edits over the length of its target.
        prediction: text.
        target: text.
    """

    id: str
    cer: float
    prediction: str
    target: str


@dataclass(frozen=True)
class Comparison:
    """What a second system does differently on the same documents.

    Attributes:
        cer: of both systems.
        difference: CER of the first less that of the second; below 0 the first is better.
        low: lower bound of the difference.
        high: upper bound of the difference.
        p: how often a difference of this size would come by chance, two-sided.
        better: number of documents that the first predicts with fewer edits.
        worse: number of those that it predicts with more.
        structure: means of both systems and p-value of each structure metric.
    """

    cer: tuple[float, float]
    difference: float
    low: float
    high: float
    p: float
    better: int
    worse: int
    structure: dict[str, tuple[float, float, float]]


@dataclass(frozen=True)
class Evaluation:
    """All figures of one system.

    Attributes:
        documents: number of documents that were compared.
        unknown: number of those whose text is not known.
        metrics: by name.
        bounds: of each metric.
        groups: metrics by kind of group and group.
        structure: means of the structure metrics over the documents that have them.
        structure_bounds: of each of these.
        structure_groups: the same means by kind of group and group.
        cells: cell of a target's table, of the prediction's and count, the most frequent first.
        confusions: character of the target, character of the prediction and count, the most frequent first; an empty
            character stands for one that is missing or too much.
        worst: the documents with the most edits.
    """

    documents: int
    unknown: int
    metrics: dict[str, float]
    bounds: dict[str, tuple[float, float]]
    groups: dict[str, dict[str, dict[str, float]]]
    structure: dict[str, float]
    structure_bounds: dict[str, tuple[float, float]]
    structure_groups: dict[str, dict[str, dict[str, float]]]
    cells: list[tuple[str, str, int]] = field(repr=False)
    confusions: list[tuple[str, str, int]] = field(repr=False)
    worst: list[Document] = field(repr=False)


def evaluate_predictions(
    found: Predictions,
    *,
    profile: str,
    by: Sequence[str],
    structure: bool,
    worst: int,
    confidence: float,
    resamples: int,
) -> Evaluation:
    """Return the figures of predictions.

    Args:
        found: the documents.
        profile: normalization of both texts before they are compared; see ``deepsynth.metrics.normalization``.
        by: keys of the rows to group by.
        structure: also the metrics of ``deepsynth.metrics.structure``.
        worst: number of documents to list.
        confidence: of the bounds.
        resamples: of the bootstrap.
    """
    rows = [_normalized(row, profile) for row in found.rows]
    table = score_documents(rows)
    groups = {key: groups_of(found.rows, key) for key in by}
    grouped = {key: summarize_groups(table, names) for key, names in groups.items()}
    pages = [structure_scores(row["prediction"], row["target"]) for row in rows] if structure else []
    of_groups = {key: mean_of_groups(pages, names) for key, names in groups.items()} if structure else {}
    order = np.argsort(-table[:, _EDITS], kind="stable")[:worst]
    return Evaluation(
        documents=len(rows),
        unknown=found.unknown,
        metrics=summarize(table),
        bounds=bootstrap_intervals(table, confidence, resamples),
        groups={key: figures for key, figures in grouped.items() if figures},
        structure=mean_scores(pages),
        structure_bounds=mean_bounds(pages, confidence, resamples),
        structure_groups={key: figures for key, figures in of_groups.items() if figures},
        cells=cell_confusions((row["prediction"], row["target"]) for row in rows) if structure else [],
        confusions=confusions((row["prediction"], row["target"]) for row in rows),
        worst=[
            Document(str(rows[i]["id"]), _cer(table[i : i + 1]), rows[i]["prediction"], rows[i]["target"])
            for i in order
            if table[i, _EDITS]
        ],
    )


def _normalized(row: dict[str, Any], profile: str) -> dict[str, Any]:
    texts = {name: normalize(row[name], profile) for name in ("prediction", "target")}
    return {**row, **texts, "document_id": str(row["id"]), "page": 0}


def _cer(table: ScoreTable) -> float:
    return float(table[:, _EDITS].sum() / max(table[:, _LENGTH].sum(), 1.0))


def confusions(pairs: Any, most: int = 20) -> list[tuple[str, str, int]]:
    """Return the most frequent edits: character of the target, of the prediction, and how often.

    Args:
        pairs: predictions with their targets.
        most: number of edits to return.
    """
    counts: Counter[tuple[str, str]] = Counter()
    for prediction, target in pairs:
        for edit in Levenshtein.editops(target, prediction):
            expected = "" if edit.tag == "insert" else target[edit.src_pos]
            read = "" if edit.tag == "delete" else prediction[edit.dest_pos]
            counts[expected, read] += 1
    return [(*pair, count) for pair, count in sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:most]]


def compare_predictions(
    one: Predictions,
    other: Predictions,
    *,
    profile: str,
    confidence: float,
    resamples: int,
    structure: bool = False,
    seed: int = 0,
) -> Comparison:
    """Return a paired comparison of two systems on the same documents.

    The bounds are those of a paired bootstrap: documents are drawn with replacement, for both systems the same. The
    p-value is that of a permutation test: under the hypothesis that both systems are alike, each document's predictions
    may be exchanged (Koehn 2004, https://aclanthology.org/W04-3250/, and Noreen 1989).

    Args:
        one: predictions of the first system.
        other: of the second, in the same order.
        profile: normalization of all texts.
        confidence: of the bounds.
        resamples: of the bootstrap and of the permutations.
        structure: also compare the structure metrics.
        seed: of both.
    """
    rows = [[_normalized(row, profile) for row in found.rows] for found in (one, other)]
    tables = [score_documents(found) for found in rows]
    pages = [[structure_scores(row["prediction"], row["target"]) for row in found] for found in rows if structure]
    edits = np.stack([table[:, _EDITS] for table in tables])
    lengths = np.maximum(tables[0][:, _LENGTH], 1.0)
    draw = np.random.default_rng(seed)
    difference = float((edits[0] - edits[1]).sum() / lengths.sum())
    picked = draw.integers(len(lengths), size=(resamples, len(lengths)))
    drawn = (edits[0] - edits[1])[picked].sum(1) / lengths[picked].sum(1)
    signs = draw.choice([-1.0, 1.0], size=(resamples, len(lengths)))
    exchanged = (signs * (edits[0] - edits[1])).sum(1) / lengths.sum()
    tail = (1.0 - confidence) / 2.0
    low, high = np.quantile(drawn, [tail, 1.0 - tail])
    return Comparison(
        cer=(_cer(tables[0]), _cer(tables[1])),
        difference=difference,
        low=float(low),
        high=float(high),
        p=float((1 + (np.abs(exchanged) >= abs(difference) - 1e-12).sum()) / (1 + resamples)),
        better=int((edits[0] < edits[1]).sum()),
        worse=int((edits[0] > edits[1]).sum()),
        structure=compare_structure(pages[0], pages[1], resamples, seed) if structure else {},
    )
