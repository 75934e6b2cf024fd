"""Metrics on texts: scores of documents, figures of a corpus, normalization."""

from __future__ import annotations

from typing import TYPE_CHECKING

from deepsynth.lazy_imports import importing

if TYPE_CHECKING:
    from deepsynth.metrics.corpus import (
        METRICS,
        CorpusMetrics,
        bootstrap_intervals,
        join_pages,
        summarize,
        summarize_groups,
    )
    from deepsynth.metrics.documents import DocumentScores
    from deepsynth.metrics.normalization import normalize
    from deepsynth.metrics.scores import SCORE_COLUMNS, score_table

__all__ = [
    "METRICS",
    "SCORE_COLUMNS",
    "CorpusMetrics",
    "DocumentScores",
    "bootstrap_intervals",
    "join_pages",
    "normalize",
    "score_table",
    "summarize",
    "summarize_groups",
]

_HOMES = {
    "CorpusMetrics": "deepsynth.metrics.corpus",
    "DocumentScores": "deepsynth.metrics.documents",
    "METRICS": "deepsynth.metrics.corpus",
    "SCORE_COLUMNS": "deepsynth.metrics.scores",
    "bootstrap_intervals": "deepsynth.metrics.corpus",
    "join_pages": "deepsynth.metrics.corpus",
    "normalize": "deepsynth.metrics.normalization",
    "score_table": "deepsynth.metrics.scores",
    "summarize": "deepsynth.metrics.corpus",
    "summarize_groups": "deepsynth.metrics.corpus",
}

#: torchmetrics, which takes seconds to import, is only needed for ``CorpusMetrics``.
__getattr__ = importing(__name__, _HOMES)
