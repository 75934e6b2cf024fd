"""Scores while pages come in, and the settings of generation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lightning.pytorch import Callback

from deepsynth.callbacks import PredictionWriter
from deepsynth.data import JsonlSource
from deepsynth.generation import RepetitionCriterion
from deepsynth.metrics.corpus import CorpusMetrics, summarize
from deepsynth.metrics.documents import DocumentScores, score_documents
from tests.helpers.training import make_data, make_module, make_trainer


def row(document: str, page: int, prediction: str, target: str, stop: str = "eos") -> dict[str, Any]:
    return {"document_id": document, "page": page, "prediction": prediction, "target": target, "stop": stop}


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
    for one in ROWS:
        scores.add([one])
        assert len(scores._open) <= 2  # the pages of one document
    table = scores.table()
    assert scores._open == []
    metrics = CorpusMetrics(sync_on_compute=False)
    metrics.update(["one\ntwoo", "frist\nsecond", "la la la"], ["one\ntwo", "first\nsecond", "la la la, she sang"])
    expected = {name: value.item() for name, value in metrics.compute().items()}
    found = summarize(table)
    assert found["loop_rate"] == pytest.approx(1 / 3)  # generation said so; the text alone is too short to tell
    assert expected.pop("loop_rate") == 0.0
    assert {name: found[name] for name in expected} == pytest.approx(expected, rel=1e-6)
    dealt = score_documents([one for one in ROWS[::2] + ROWS[1::2] if one["target"]])
    assert np.array_equal(np.sort(dealt, axis=0), np.sort(table, axis=0))


def test_without_a_known_text_there_are_no_scores() -> None:
    scores = DocumentScores()
    scores.add([row("a", 0, "x", "")])
    assert scores.table().shape[0] == 0


@pytest.mark.parametrize("generation", ["auto", "deepsynth"])
def test_every_setting_of_generation_reads_the_same(generation: str, tmp_path: Path, jsonl: Path) -> None:
    rows: dict[str, list[Any]] = {}
    for setting in ("transformers", generation):
        module = make_module(max_new_tokens=5, implementation=setting)
        batches = make_trainer(tmp_path, limit_predict_batches=2).predict(module, make_data(jsonl))
        rows[setting] = [one for batch in batches or [] for one in batch]
    assert rows[generation] == rows["transformers"]
    assert {one["stop"] for one in rows[generation]} <= {"eos", "length"}


def test_loops_are_stopped_unless_the_setting_says_no(
    tmp_path: Path, jsonl: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(RepetitionCriterion, "for_tokenizer", classmethod(lambda cls, tokenizer: cls(1, 60)))
    caplog.set_level("INFO")
    for stops in (True, False):
        caplog.clear()
        module = make_module(max_new_tokens=40, stop_on_repetition=stops)
        trainer = make_trainer(tmp_path, limit_predict_batches=1, callbacks=[PredictionWriter()])
        batches = trainer.predict(module, make_data(jsonl))
        assert ("loop" in {one["stop"] for batch in batches or [] for one in batch}) == stops
        (told,) = [record.getMessage() for record in caplog.records if "known text" in record.getMessage()]
        assert ("loop_rate 0.0000" in told) != stops


class GeneratedRows(Callback):
    """Remembers the ids of the samples whose texts were generated, batch by batch."""

    def __init__(self) -> None:
        self.ids: list[list[str]] = []

    def on_validation_batch_end(self, trainer: Any, module: Any, outputs: Any, *args: Any) -> None:
        self.ids.append([row["id"] for row in outputs["rows"]])


@pytest.mark.parametrize(
    ("samples", "sizes"), [(0, [0, 0, 0]), (1, [1, 0, 0]), (3, [3, 0, 0]), (4, [3, 1, 0]), (7, [3, 3, 1])]
)
def test_as_many_texts_are_generated_as_asked_for(samples: int, sizes: list[int], tmp_path: Path, jsonl: Path) -> None:
    rows = GeneratedRows()
    module = make_module(max_new_tokens=2, samples=samples)
    data = make_data(jsonl, val_source=JsonlSource(str(jsonl)), eval_batch_size=3)
    make_trainer(tmp_path, callbacks=[rows]).validate(module, data, verbose=False)
    assert [len(ids) for ids in rows.ids] == sizes
    assert [name.split("#")[0] for ids in rows.ids for name in ids] == [f"d{number}" for number in range(samples)]


def test_the_decoder_is_kept_between_calls_and_forgotten_after_an_epoch(tmp_path: Path, jsonl: Path) -> None:
    module, data = make_module(max_new_tokens=3, samples=8), make_data(jsonl, val_fraction=0.5)
    make_trainer(tmp_path).validate(module, data, verbose=False)
    assert module.text_generator._decoder is None
    batch = next(iter(data.val_dataloader()))
    first = module.generate(batch)
    kept = module.text_generator._decoder
    assert kept is not None
    assert module.generate(batch) == first
    assert module.text_generator._decoder is kept
