"""Predictions as JSON lines: documents whole and in order, nothing overwritten, nothing lost."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from deepsynth.callbacks import PredictionWriter
from tests.training import make_data, make_module, make_trainer


def row(document: str, prediction: str, page: int = 0, target: str = "") -> dict[str, Any]:
    return {"document_id": document, "page": page, "prediction": prediction, "target": target}


def fake_trainer(folder: Path, **kwargs: Any) -> Any:
    settings = {"default_root_dir": str(folder), "world_size": 1, "global_rank": 0, "is_global_zero": True, **kwargs}
    return SimpleNamespace(strategy=SimpleNamespace(barrier=lambda: None), **settings)


def predict(folder: Path, batches: list[list[dict[str, Any]]], end: bool = True, **kwargs: Any) -> PredictionWriter:
    writer, trainer, module = PredictionWriter(), fake_trainer(folder, **kwargs), SimpleNamespace()
    writer.on_predict_start(trainer, module)  # type: ignore[arg-type]
    for number, rows in enumerate(batches):
        writer.on_predict_batch_end(trainer, module, rows, None, number)  # type: ignore[arg-type]
    if end:
        writer.on_predict_end(trainer, module)  # type: ignore[arg-type]
    return writer


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


def test_pages_are_joined_and_documents_keep_their_order(tmp_path: Path) -> None:
    predict(tmp_path, [[row("b", "two", 1, "zwei"), row("a", "x")], [row("b", "one", 0, "eins")]])
    assert read(tmp_path / "predictions.jsonl") == [
        {"id": "b", "prediction": "one\ntwo", "target": "eins\nzwei"},
        {"id": "a", "prediction": "x", "target": ""},
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["predictions.jsonl"]


@pytest.mark.parametrize(
    "text", ["\u06a9\u062a\u0627\u0628", "line\u2028separator", '"quoted" \\ \t', "\ud83d alone", ""]
)
def test_any_text_comes_back_as_it_was(text: str, tmp_path: Path) -> None:
    predict(tmp_path, [[row("a", text)]])
    assert [found["prediction"] for found in read(tmp_path / "predictions.jsonl")] == [text]


def test_older_predictions_stay(tmp_path: Path) -> None:
    for text in ("first", "second", "third"):
        predict(tmp_path, [[row("a", text)]])
    found = {path.name: read(path)[0]["prediction"] for path in tmp_path.iterdir()}
    assert found == {"predictions-1.jsonl": "first", "predictions-2.jsonl": "second", "predictions.jsonl": "third"}


def test_what_an_interrupted_run_read_stays_also_when_another_starts(tmp_path: Path) -> None:
    predict(tmp_path, [[row("a", "read")]], end=False)
    assert read(tmp_path / "predictions.jsonl.partial")[0]["prediction"] == "read"
    predict(tmp_path, [[row("b", "other")]])
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"predictions.jsonl", "predictions.jsonl-1.partial"}
    assert read(tmp_path / "predictions.jsonl-1.partial")[0]["prediction"] == "read"


def test_a_full_disk_at_the_end_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from deepsynth.callbacks import prediction_writer

    def fail(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    predict(tmp_path, [[row("a", "before")]])
    writer = predict(tmp_path, [[row("a", "now")]], end=False)
    monkeypatch.setattr(prediction_writer.os, "replace", fail)
    with pytest.raises(OSError, match="No space left"):
        writer.on_predict_end(fake_trainer(tmp_path), SimpleNamespace())  # type: ignore[arg-type]
    kept = [read(path)[0]["prediction"] for path in tmp_path.iterdir()]
    assert "before" in kept
    assert "now" in kept


def test_ranks_are_dealt_back_into_the_order_of_the_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ranks = [[row("a", "0"), row("c", "2"), row("e", "4")], [row("b", "1"), row("d", "3")]]

    def gather(into: list[Any], own: list[Any]) -> None:
        into[:] = ranks

    monkeypatch.setattr(torch.distributed, "all_gather_object", gather)
    predict(tmp_path, [ranks[1]], world_size=2, global_rank=1, is_global_zero=False)
    assert list(tmp_path.iterdir()) == []
    predict(tmp_path, [ranks[0]], world_size=2)
    assert [found["id"] for found in read(tmp_path / "predictions.jsonl")] == list("abcde")


def test_a_run_reads_every_document(tmp_path: Path, jsonl: Path) -> None:
    trainer = make_trainer(tmp_path, callbacks=[PredictionWriter(str(tmp_path / "out" / "read.jsonl"))])
    trainer.predict(make_module(max_new_tokens=2), make_data(jsonl, batch_size=4))
    found = read(tmp_path / "out" / "read.jsonl")
    assert [one["id"] for one in found] == [f"d{i}" for i in range(8)]
    assert all(set(one) == {"id", "prediction", "target"} for one in found)
