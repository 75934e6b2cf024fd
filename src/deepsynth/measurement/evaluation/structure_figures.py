"""Figures of structure: means with bounds, of groups, of two systems, and which cells of tables are wrong."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from deepsynth.metrics.structure import STRUCTURE_METRICS, mean_scores, tables_of, teds
from deepsynth.metrics.structure.alignment import best_alignment
from deepsynth.metrics.structure.table_grid import html_grids

#: Structure metrics of a page by name; those that it has nothing for are left out.
PageScores = Mapping[str, float]


def mean_bounds(
    pages: Sequence[PageScores], confidence: float, resamples: int, seed: int = 0
) -> dict[str, tuple[float, float]]:
    """Return percentile bootstrap bounds of the mean of each metric over the pages that have it.

    Args:
        pages: scores of pages.
        confidence: probability between the bounds.
        resamples: of the bootstrap.
        seed: of it.
    """
    draw = np.random.default_rng(seed)
    tail = (1.0 - confidence) / 2.0
    found: dict[str, tuple[float, float]] = {}
    for name in STRUCTURE_METRICS:
        values = np.array([page[name] for page in pages if name in page])
        if len(values):
            means = values[draw.integers(len(values), size=(resamples, len(values)))].mean(1)
            low, high = np.quantile(means, [tail, 1.0 - tail])
            found[name] = (float(low), float(high))
    return found


def mean_of_groups(pages: Sequence[PageScores], groups: Sequence[str | None]) -> dict[str, dict[str, float]]:
    """Return the means of each group of pages, by name; pages of no group are left out."""
    names = sorted({group for group in groups if group is not None})
    found = {
        name: mean_scores(page for page, group in zip(pages, groups, strict=True) if group == name) for name in names
    }
    return {name: scores for name, scores in found.items() if scores}


def compare_structure(
    one: Sequence[PageScores], other: Sequence[PageScores], resamples: int, seed: int = 0
) -> dict[str, tuple[float, float, float]]:
    """Return the means of both systems and a p-value by metric, over the pages that have it in both.

    The p-value is that of a permutation test: each page's scores may be exchanged.

    Args:
        one: scores of the pages of the first system.
        other: of the second, in the same order.
        resamples: number of permutations.
        seed: of them.
    """
    draw = np.random.default_rng(seed)
    found: dict[str, tuple[float, float, float]] = {}
    for name in STRUCTURE_METRICS:
        pairs = np.array(
            [(a[name], b[name]) for a, b in zip(one, other, strict=True) if name in a and name in b]
        ).reshape(-1, 2)
        if not len(pairs):
            continue
        differences = pairs[:, 0] - pairs[:, 1]
        exchanged = (draw.choice([-1.0, 1.0], size=(resamples, len(pairs))) * differences).mean(1)
        extreme = (np.abs(exchanged) >= abs(differences.mean()) - 1e-12).sum()
        found[name] = (float(pairs[:, 0].mean()), float(pairs[:, 1].mean()), float((1 + extreme) / (1 + resamples)))
    return found


def cell_confusions(pairs: Iterable[tuple[str, str]], most: int = 20) -> list[tuple[str, str, int]]:
    """Return the cells of tables that are wrong, the most frequent first: of the target, of the prediction, how often.

    Tables are paired in their order by TEDS, cells by row and column. "" stands for a cell that is not there.

    Args:
        pairs: predictions with their targets.
        most: number of confusions to return.
    """
    counts: Counter[tuple[str, str]] = Counter()
    for prediction, target in pairs:
        predicted, expected = tables_of(prediction), tables_of(target)
        for i, j, _ in best_alignment(predicted, expected, teds):
            found, wanted = (_cells(table) for table in (predicted[i], expected[j]))
            for place in found.keys() | wanted.keys():
                cells = wanted.get(place, ""), found.get(place, "")
                counts[cells] += cells[0] != cells[1]
    return [(*cells, count) for cells, count in sorted(counts.items(), key=lambda item: (-item[1], item[0])) if count][
        :most
    ]


def _cells(table: str) -> dict[tuple[int, int], str]:
    return {
        place: " ".join(text.split()) for grid in list(html_grids(table))[:1] for place, text in grid.texts().items()
    }
