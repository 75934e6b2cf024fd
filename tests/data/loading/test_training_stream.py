"""Training on sources that stream: what is read, in which order, and on from the middle."""

from __future__ import annotations

import logging
import random
from collections.abc import Iterator
from itertools import count, islice
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch import Callback

from deepsynth.data import Source, TextImageDataModule, TextRenderer
from deepsynth.data.loading import training_stream
from deepsynth.data.loading.stream import Key
from deepsynth.data.loading.training_stream import MIXED, mixed
from deepsynth.data.sources.base import KEPT_IDS
from deepsynth.errors import UserError
from deepsynth.types import Batch, Document
from tests.helpers.growth import grown_bytes
from tests.helpers.training import PAGE, RankOf, make_module, make_trainer


class Streamed(Source):
    """Documents of one page, some of two; what is read is counted."""

    streaming = True  # type: ignore[assignment]

    def __init__(self, size: int | None = None) -> None:
        self.size, self.read = size, 0

    def __iter__(self) -> Iterator[Document]:
        for number in islice(count(), self.size):
            self.read += 1
            yield Document(f"d{number}", "Words of a document. " * (1 if number % 5 else 60))


def data_of(source: Source, **settings: Any) -> TextImageDataModule:
    defaults: dict[str, Any] = {"val_fraction": 0.0, "test_fraction": 0.0, "batch_size": 2, "num_workers": 0, "seed": 3}
    return TextImageDataModule(source, TextRenderer(**PAGE), **{**defaults, **settings})


def ids_of(data: TextImageDataModule, trainer: Any = None, epoch: int = 0) -> list[str]:
    data.trainer = trainer
    data.setup("fit")
    loader = data.train_dataloader()
    loader.sampler.set_epoch(epoch)
    return [name for batch in loader for name in batch.ids]


@pytest.fixture(autouse=True)
def short_buffer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training_stream, "MIXED", 5)


# ---------------------------------------------------------------------- with a limit


def test_a_stream_is_read_up_to_its_limit() -> None:
    source = Streamed(20_000)
    data = data_of(source, max_train_documents=20, check="none")
    data.setup("fit")
    assert [document.id for document in data.datasets["train"].documents] == [f"d{number}" for number in range(20)]
    assert source.read == 20


def test_a_stream_is_read_once_for_training_and_validation() -> None:
    source = Streamed(20_000)
    data = data_of(source, max_train_documents=20, max_eval_documents=3, val_fraction=0.1, check="none")
    data.setup("fit")
    taken = [document.id for split in ("train", "val") for document in data.datasets[split].documents]
    assert (len(data.datasets["train"].documents), len(data.datasets["val"].documents)) == (20, 3)
    assert len(set(taken)) == 23
    assert source.read == 1 + max(int(name[1:]) for name in taken) < 100
    assert {data.splitter.split_of(document) for document in data.datasets["val"].documents} == {"val"}


def test_validation_without_a_limit_has_what_came_by() -> None:
    data = data_of(source := Streamed(20_000), max_train_documents=40, val_fraction=0.2, check="none")
    data.setup("fit")
    assert source.read < 100
    chosen = data.splitter.select(list(Streamed(source.read)), "val")
    assert [document.id for document in data.datasets["val"].documents] == [document.id for document in chosen]


# ---------------------------------------------------------------------- without one


def test_an_epoch_has_every_page_once_in_an_order_of_its_own(caplog: pytest.LogCaptureFixture) -> None:
    source = Streamed(23)
    data = data_of(source, val_fraction=0.2, max_eval_documents=2)
    with caplog.at_level(logging.INFO, "deepsynth"):
        first = ids_of(data)
    assert "train: Streamed streams: samples are mixed among the next 5" in caplog.text
    plain = data_of(Streamed(23), val_fraction=0.2, max_eval_documents=2, max_train_documents=1000)
    plain.setup("fit")
    assert sorted(first) == sorted(name for batch in plain.train_dataloader() for name in batch.ids)
    assert any(name.endswith("#1") for name in first)
    assert ids_of(data) == first != ids_of(data, epoch=1)
    assert sorted(ids_of(data, epoch=1)) == sorted(first)
    assert ids_of(data_of(source, val_fraction=0.2, max_eval_documents=2, seed=4)) != first


def test_a_sample_is_mixed_among_its_neighbors_alone() -> None:
    keys = [Key(Document(str(number), ""), None) for number in range(1000)]
    order = [int(key.document.id) for key in mixed(keys, 50, random.Random(0))]
    assert sorted(order) == list(range(1000))
    assert all(number <= place + 50 for place, number in enumerate(order))
    assert sum(abs(number - place) > 10 for place, number in enumerate(order)) > 500


def test_ranks_take_turns_and_have_equally_many_samples() -> None:
    whole = ids_of(data_of(Streamed(22)))
    ranks = [ids_of(data_of(Streamed(22)), make_trainer(Path("unused"), strategy=RankOf(rank, 3))) for rank in range(3)]
    assert {len(own) for own in ranks} == {len(whole) // 3}
    assert [name for turn in zip(*ranks, strict=True) for name in turn] == whole[: len(whole) // 3 * 3]


@pytest.mark.parametrize("workers", [0, 2])
def test_workers_give_the_same_batches_without_end(workers: int) -> None:
    data = data_of(Streamed(), num_workers=workers)
    data.setup("fit")
    try:
        found = [batch.ids for batch in islice(data.train_dataloader(), 4)]
    finally:
        data.workers.close()
    other = data_of(Streamed())
    other.setup("fit")
    assert found == [batch.ids for batch in islice(other.train_dataloader(), 4)]


def test_memory_does_not_grow_with_the_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    assert KEPT_IDS == 100_000
    monkeypatch.setattr("deepsynth.data.sources.base.KEPT_IDS", 10)

    class Scans(Streamed):  # whose pages are not laid out: the plans of the last 20,000 texts are kept
        def __iter__(self) -> Iterator[Document]:
            return (Document(f"d{number}", "Words. " * 100, image=b"bytes of an image") for number in count())

    data = data_of(Scans())
    data.setup("fit")
    loader = data.train_dataloader()
    keys = iter(loader.sampler)
    for _ in islice(keys, 3000):  # until Python's own lists of free objects are full
        pass
    assert grown_bytes(keys, 3000) < 3000 * 10


def test_the_ids_of_the_last_documents_alone_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    class Repeats(Streamed):
        def __iter__(self) -> Iterator[Document]:
            for number in (0, 1, 2, 3, 0, 4, 3):
                yield Document(f"d{number}", "Words.")

    monkeypatch.setattr("deepsynth.data.sources.base.KEPT_IDS", 3)
    documents = Repeats().walk()
    assert [document.id for document in islice(documents, 6)] == ["d0", "d1", "d2", "d3", "d0", "d4"]
    with pytest.raises(UserError, match="two documents have the id 'd3'"):
        next(documents)


# ---------------------------------------------------------------------- on from the middle


class Seen(Callback):
    """Remembers the ids of the batches that were trained on, and saves a checkpoint after each."""

    def __init__(self, folder: Path) -> None:
        self.ids: list[list[str]] = []
        self.folder = folder

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Batch, batch_idx: int) -> None:
        self.ids.append(batch.ids)
        trainer.save_checkpoint(self.folder / f"{trainer.global_step}.ckpt")


def train(folder: Path, steps: int, resume: Path | None = None, **settings: Any) -> list[list[str]]:
    seen = Seen(folder)
    trainer = make_trainer(folder, callbacks=[seen], max_steps=steps, max_epochs=-1)
    trainer.fit(make_module(), data_of(Streamed(9), **settings), ckpt_path=resume)
    return seen.ids


def test_a_run_goes_on_with_the_samples_that_would_have_come(tmp_path: Path) -> None:
    whole = train(tmp_path / "whole", 9)
    assert len({name for batch in whole[:6] for name in batch}) == 11
    for steps in (2, 6, 8):  # an epoch has 6 batches
        assert train(tmp_path / f"from-{steps}", 9, tmp_path / f"whole/{steps}.ckpt") == whole[steps:], steps


def test_a_run_goes_on_with_another_batch_size(tmp_path: Path) -> None:
    whole = [name for batch in train(tmp_path, 6) for name in batch]
    train(tmp_path, 2)
    rest = train(tmp_path, 4, tmp_path / "2.ckpt", batch_size=3)
    assert [name for batch in rest for name in batch][:6] == whole[4:10]


def test_a_checkpoint_of_other_data_settings_is_refused(tmp_path: Path) -> None:
    train(tmp_path, 2, max_train_documents=9)
    with pytest.raises(UserError, match="the interrupted run knew all of its documents"):
        train(tmp_path, 4, tmp_path / "2.ckpt")


# ---------------------------------------------------------------------- what cannot be had


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"group_by_length": True}, r"data.group_by_length is True, which needs all documents .*max_train_documents"),
        ({"val_fraction": 0.1}, r"data.max_eval_documents is not set, and Streamed streams"),
    ],
)
def test_what_needs_all_documents_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        data_of(Streamed(), **settings).setup("fit")


def test_a_stream_without_documents_is_said() -> None:
    data = data_of(Streamed(0))
    data.setup("fit")
    with pytest.raises(UserError, match="Streamed holds no document"):
        next(iter(data.train_dataloader()))


def test_the_real_number_of_mixed_samples() -> None:
    assert MIXED == 1000
