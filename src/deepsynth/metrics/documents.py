"""Scores of documents while their pages come in, so that no text has to be kept."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from deepsynth.metrics.corpus import join_pages, summarize
from deepsynth.metrics.scores import SCORE_COLUMNS, ScoreTable, score_table

Row = dict[str, Any]

_LOOP, _CUT = SCORE_COLUMNS.index("loop"), SCORE_COLUMNS.index("cut")


class DocumentScores:
    """Scores each document when the first page of the next one comes: pages of a document follow one another.

    Rows are those of the steps: ``document_id``, ``page``, ``prediction``, ``target``, ``stop``. A document whose
    target is not known does not count. One that generation stopped as a loop counts as one in ``loop_rate``, besides
    those whose text ends in one; one that ``max_new_tokens`` cut counts in ``cut_rate``.
    """

    def __init__(self) -> None:
        self._open: list[Row] = []
        self._scores: list[ScoreTable] = []

    def add(self, rows: Iterable[Row]) -> None:
        """Take the next rows."""
        for row in rows:
            if self._open and self._open[0]["document_id"] != row["document_id"]:
                self._close()
            if row["target"]:
                self._open.append(row)

    def table(self) -> ScoreTable:
        """Return the scores (L, C) of the L documents that came; no page of theirs may follow."""
        self._close()
        return np.concatenate(self._scores) if self._scores else np.zeros((0, len(SCORE_COLUMNS)))

    def _close(self) -> None:
        if self._open:
            self._scores.append(score_documents(self._open))
            self._open = []


def score_documents(rows: Sequence[Row]) -> ScoreTable:
    """Return the scores (L, C) of the documents that rows with known targets are pages of."""
    ids, pages = [row["document_id"] for row in rows], [row["page"] for row in rows]
    predictions = join_pages(ids, pages, [row["prediction"] for row in rows])
    targets = join_pages(ids, pages, [row["target"] for row in rows])
    table = score_table(list(predictions.values()), list(targets.values()))
    for stop, column in (("loop", _LOOP), ("length", _CUT)):
        stopped = {row["document_id"] for row in rows if row.get("stop") == stop}
        table[[name in stopped for name in predictions], column] = 1.0
    return table


def figures(table: ScoreTable) -> dict[str, float]:
    """Return the metrics of a table; empty when it is."""
    return summarize(table) if len(table) else {}
