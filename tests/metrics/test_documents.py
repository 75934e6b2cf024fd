"""Scores of documents while their pages come in."""

from __future__ import annotations

import weakref
from typing import Any

import numpy as np
import pytest

from deepsynth.metrics.corpus import CorpusMetrics, summarize
from deepsynth.metrics.documents import DocumentScores, figures, score_documents


def row(document: str, page: int, prediction: str, target: str, stop: str = "eos") -> dict[str, Any]:
    return {"document_id": document, "page": page, "prediction": prediction, "target": target, "stop": stop}


class WatchedRow(dict[str, Any]):
    """A row that can be watched: plain dictionaries have no weak references."""


ROWS = [
    row("a", 0, "one", "one"),
    row("a", 1, "twoo", "two"),
    row("scan", 0, "anything", ""),
    row("b", 1, "second", "second"),
    row("b", 0, "frist", "first"),
    row("c", 0, "la la la", "la la la, she sang", "loop"),
]


def test_scores_come_document_by_document_and_are_those_of_all_texts_at_once() -> None:
    scores = DocumentScores()
    held: list[weakref.ref[WatchedRow]] = []
    for one in ROWS:
        taken = WatchedRow(one)
        held.append(weakref.ref(taken))
        scores.add([taken])
        del taken
        assert sum(row() is not None for row in held) <= 2  # the pages of one document
    table = scores.table()
    assert not any(row() for row in held)
    metrics = CorpusMetrics(sync_on_compute=False)
    metrics.update(["one\ntwoo", "frist\nsecond", "la la la"], ["one\ntwo", "first\nsecond", "la la la, she sang"])
    expected = {name: value.item() for name, value in metrics.compute().items()}
    found = summarize(table)
    assert found["loop_rate"] == pytest.approx(1 / 3)  # generation said so; the text alone is too short to tell
    assert found["cut_rate"] == 0.0
    assert expected.pop("loop_rate") == 0.0
    assert {name: found[name] for name in expected} == pytest.approx(expected, rel=1e-6)
    dealt = score_documents([one for one in ROWS[::2] + ROWS[1::2] if one["target"]])
    assert np.array_equal(np.sort(dealt, axis=0), np.sort(table, axis=0))


def test_without_a_known_text_there_are_no_scores() -> None:
    scores = DocumentScores()
    scores.add([row("a", 0, "x", "")])
    assert scores.table().shape[0] == 0


@pytest.mark.parametrize(("stop", "loop_rate", "cut_rate"), [("loop", 0.5, 0), ("length", 0, 0.5), ("eos", 0, 0)])
def test_one_page_that_was_stopped_counts_for_its_document(stop: str, loop_rate: float, cut_rate: float) -> None:
    rows = [row("a", 0, "x", "x"), row("a", 1, "x", "x", stop), row("b", 0, "y", "y"), row("b", 1, "y", "y")]
    found = figures(score_documents(rows))
    assert (found["loop_rate"], found["cut_rate"], found["cer"]) == (loop_rate, cut_rate, 0.0)


def test_nothing_has_no_figures() -> None:
    assert figures(DocumentScores().table()) == {}
