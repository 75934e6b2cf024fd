"""The samples of a split: which there are, in which order, and how long they are."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pytest
from PIL import Image

from deepsynth.data.loading import entries
from deepsynth.data.loading.dataset import PageDataset
from deepsynth.data.loading.entries import entries_of
from deepsynth.errors import UserError
from deepsynth.types import Document
from tests.helpers.training import make_data

TEXTS = ["One.", "A text of many more words than the others have, in one line.", "Two.", "Three."]


@pytest.fixture
def dataset(tmp_path: Path) -> Callable[..., PageDataset]:
    def build(texts: list[str] = TEXTS, **kwargs: Any) -> PageDataset:
        path = tmp_path / "texts.jsonl"
        path.write_text("".join(json.dumps({"id": f"d{i}", "text": text}) + "\n" for i, text in enumerate(texts)))
        data = make_data(path, seed=3, **kwargs)
        data.setup("fit")
        found = data.datasets["train"]
        assert isinstance(found, PageDataset)
        return found

    return build


def test_samples_beyond_the_budget_alone_are_dropped_and_counted(
    dataset: Callable[..., PageDataset], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "deepsynth")
    everything = dataset()
    assert "train: 4 documents, 4 samples" in caplog.messages
    lengths = {everything[0, i].document_id: len(everything[0, i].input_ids) for i in range(len(everything))}
    assert everything.dropped == 0
    assert sorted(lengths) == ["d0", "d1", "d2", "d3"]
    second = sorted(lengths.values())[-2]
    assert second < lengths["d1"]
    some = dataset(max_tokens=second, on_max_tokens="drop")
    assert some.dropped == 1
    assert "train: 4 documents, 3 samples, 1 dropped as longer than data.max_tokens" in caplog.messages
    assert {some[0, i].document_id for i in range(len(some))} == {"d0", "d2", "d3"}


def test_a_split_says_what_was_changed_in_its_texts(
    dataset: Callable[..., PageDataset], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "deepsynth")
    changed = dataset(["e\u0301 and e\u0301", *TEXTS])
    said = changed.pipeline.text.count_changes(changed.documents)
    assert said
    assert caplog.messages[-1] == f"train: {said}"


def test_the_fingerprint_changes_with_text_order_and_number(dataset: Callable[..., PageDataset]) -> None:
    first = dataset().fingerprint
    assert dataset().fingerprint == first
    changed = [dataset([*TEXTS[:3], "Tree."]), dataset(TEXTS[:3]), dataset([TEXTS[1], TEXTS[0], *TEXTS[2:]])]
    assert len({first, *(one.fingerprint for one in changed)}) == 4
    assert [one.fingerprint[0] for one in changed] == [4, 3, 4]


@pytest.mark.parametrize("kind", ["tiff", "png"])  # whose pages are counted before they are drawn, or not
def test_scans_that_cannot_be_opened_are_an_error_or_skipped_by_name(kind: str, tmp_path: Path, jsonl: Path) -> None:
    Image.new("L", (8, 8)).save(tmp_path / f"good.{kind}")
    (tmp_path / f"bad.{kind}").write_bytes(b"no image")
    documents = [Document(name, "text", image=tmp_path / f"{name}.{kind}") for name in ("bad", "good")]
    pipeline = make_data(jsonl).pipeline()
    found = PageDataset(documents, pipeline, on_error="skip")
    assert [found[0, index].document_id for index in range(len(found))] == ["good"]
    [(name, reason)] = found.skipped
    assert name.partition("#")[0] == "bad"
    assert f"bad.{kind}" in reason
    with pytest.raises(UserError, match=rf"bad\.{kind}"):
        PageDataset(documents, pipeline)[0, 0]


@pytest.mark.parametrize("on_error", ["raise", "skip"])
def test_several_processes_find_the_samples_that_one_finds(
    on_error: Literal["raise", "skip"], tmp_path: Path, jsonl: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scan = tmp_path / "bad.png"
    scan.write_bytes(b"no image")
    texts = ["A word. " * (1 + 40 * (number % 3)) for number in range(40)]
    documents = [Document(f"d{number}", text) for number, text in enumerate(texts)]
    if on_error == "skip":
        documents.insert(7, Document("scan", "text", image=scan))
    pipeline = make_data(jsonl, max_tokens=400, on_max_tokens="drop").pipeline()
    alone = PageDataset(documents, pipeline, on_error)
    assert alone.dropped
    assert len(alone) > 20
    here: list[str] = []

    def noted(document: Document, *others: Any) -> entries.Entries:
        here.append(document.id)  # those of other processes stay there
        return entries_of(document, *others)

    monkeypatch.setattr(entries, "available_cores", lambda: 2)
    monkeypatch.setattr(entries, "PATIENCE_S", -1.0)
    monkeypatch.setattr(entries, "entries_of", noted)
    together = PageDataset(documents, pipeline, on_error)
    assert here == ["d0"]
    assert together.entries == alone.entries
    assert (together.dropped, together.skipped) == (alone.dropped, alone.skipped)


def test_the_first_mistake_that_another_process_finds_ends_the_search(
    tmp_path: Path, jsonl: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = [tmp_path / f"{name}.png" for name in ("bad", "worse")]
    for file in files:
        file.write_bytes(b"no image")
    documents = [Document("good", "text"), *(Document(file.name, "text", image=file) for file in files)]
    monkeypatch.setattr(entries, "available_cores", lambda: 2)
    monkeypatch.setattr(entries, "PATIENCE_S", -1.0)
    with pytest.raises(UserError, match=r"bad\.png"):
        PageDataset(documents, make_data(jsonl, on_max_tokens="drop").pipeline())
