"""What predict reads: in order, over any number of ranks and workers, never more in memory than it needs."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from collections.abc import Iterator
from itertools import count, islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from deepsynth.callbacks import PredictionWriter
from deepsynth.callbacks.prediction_rows import by_document, document_row, round_robin
from deepsynth.data import Source, TextImageDataModule
from deepsynth.data.loading.stream import Fingerprinted
from deepsynth.data.loading.workers import Workers
from deepsynth.types import Document
from tests.helpers.training import make_data, make_module, make_trainer


class Streamed(Source):
    """Documents of very different lengths; without ``size`` they never end."""

    streaming = True  # type: ignore[assignment]

    def __init__(self, size: int | None = None, broken: int | None = None, target: str | None = None) -> None:
        self.size, self.broken, self.target, self.drawn = size, broken, target, 0

    def __iter__(self) -> Iterator[Document]:
        for number in islice(count(), self.size):
            if number == self.broken:
                raise ValueError(f"rows.jsonl, line {number + 1}: no text")
            self.drawn += 1
            yield Document(f"d{number}", "Some words of a document. " * (1 + 60 * (number % 3 == 1)), self.target)


class Ranks:
    """Stands for a strategy; rank 0 has said something."""

    def __init__(self, said: Any = None) -> None:
        self.said = said

    def broadcast(self, value: Any) -> Any:
        return self.said or value


def data_of(source: Source, folder: Path, rank: int = 0, ranks: int = 1, **settings: Any) -> TextImageDataModule:
    said = settings.pop("said", None)
    data = make_data(folder / "unused", eval_batch_size=3, **settings)
    data.source = source
    data.trainer = SimpleNamespace(world_size=ranks, global_rank=rank, strategy=Ranks(said))  # type: ignore[assignment]
    data.setup("predict")
    return data


def rows_of(data: TextImageDataModule) -> list[dict[str, Any]]:
    pages = [
        {"document_id": name, "page": page, "prediction": f"{name}/{page}", "target": "", "stop": "eos"}
        for batch in data.predict_dataloader()
        for name, page in zip(batch.document_ids, batch.pages, strict=True)
    ]
    data.teardown("predict")
    return pages


@pytest.mark.parametrize(("ranks", "workers"), [(1, 0), (1, 2), (2, 0), (3, 0)])
def test_every_page_comes_once_and_the_file_is_in_the_sources_order(ranks: int, workers: int, tmp_path: Path) -> None:
    files, several = [], 0
    for rank in range(ranks):
        rows = rows_of(data_of(Streamed(11), tmp_path, rank, ranks, num_workers=workers))
        several += sum(row["page"] > 0 for row in rows)
        files.append(tmp_path / f"rank{rank}")
        files[-1].write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = [document_row(pages) for pages in by_document(round_robin(files))]
    assert [row["id"] for row in found] == [f"d{number}" for number in range(11)]
    assert several, "some documents have several pages"
    assert all(row["prediction"].startswith(f"{row['id']}/0") for row in found)


def test_a_source_without_an_end_is_read_as_it_comes(tmp_path: Path) -> None:
    source = Streamed()
    data = make_data(tmp_path / "unused", eval_batch_size=2)
    data.source = source
    trainer = make_trainer(tmp_path, limit_predict_batches=3)
    trainer.predict(make_module(max_new_tokens=2), data, return_predictions=False)
    assert source.drawn < 10, "no more than what is read, and a batch ahead"


def test_what_was_read_before_a_broken_row_is_kept(tmp_path: Path) -> None:
    data = make_data(tmp_path / "unused", eval_batch_size=2)
    data.source = Streamed(20, broken=6)
    trainer = make_trainer(tmp_path, callbacks=[PredictionWriter()])
    with pytest.raises(ValueError, match=r"rows.jsonl, line 7: no text"):
        trainer.predict(make_module(max_new_tokens=2), data, return_predictions=False)
    assert json.loads((tmp_path / "predictions.jsonl.partial").read_text().splitlines()[0])["document_id"] == "d0"


def test_a_source_that_need_not_stream_is_checked_before_the_first_page(tmp_path: Path) -> None:
    source = Streamed(20, broken=15)
    source.streaming = False  # type: ignore[misc]
    with pytest.raises(ValueError, match=r"line 16: no text"):
        data_of(source, tmp_path)
    source = Streamed(2)
    source.streaming = False  # type: ignore[misc]
    with pytest.raises(ValueError, match="2 documents, fewer than processes"):
        data_of(source, tmp_path, ranks=3)


@pytest.mark.parametrize("streaming", [True, False])
def test_ranks_that_read_different_documents_are_refused(streaming: bool, tmp_path: Path) -> None:
    source = Streamed(5)
    source.streaming = streaming  # type: ignore[misc]
    with pytest.raises(ValueError, match=r"rank 1 has 5 documents .* rank 0 has 4"):
        rows_of(data_of(source, tmp_path, 1, 2, said=(4, "0")))


def test_ranks_of_which_only_some_came_to_the_end_agree(tmp_path: Path) -> None:
    data = data_of(Streamed(5), tmp_path, 1, 2, said=(4, "0"))  # what whole ranks are refused for
    first = next(iter(data.predict_dataloader()))
    assert set(first.document_ids) <= {"d1", "d3"}
    data.teardown("predict")
    assert data.workers.times_closed == 1


def test_what_is_dropped_is_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    summaries = Streamed(6, target="Words.")  # one sample a document, two of them of several pages
    lengths = [
        length
        for batch in data_of(summaries, tmp_path).predict_dataloader()
        for length in batch.prompts["attention_mask"].sum(dim=1).tolist()
    ]
    assert len(set(lengths)) == 2
    with caplog.at_level(logging.INFO):
        rows = rows_of(data_of(summaries, tmp_path, max_tokens=min(lengths), on_max_tokens="drop"))
    assert [row["document_id"] for row in rows] == ["d0", "d2", "d3", "d5"]
    assert "predict: 2 samples dropped as longer than data.max_tokens" in caplog.text
    with pytest.raises(ValueError, match=r"all 6 samples of predict exceed data\.max_tokens"):
        rows_of(data_of(summaries, tmp_path, max_tokens=4, on_max_tokens="drop"))


@pytest.mark.slow
def test_spawned_workers_read_the_same(jsonl: Path) -> None:
    """As they are started where there is a GPU; what a stream hands them has to be picklable, the stream has not."""

    def ids(workers: int) -> list[str]:
        data = make_data(jsonl, eval_batch_size=3, num_workers=workers)
        if workers:
            data.workers = Workers(workers, start_method="spawn")
        data.setup("predict")
        found = [name for batch in data.predict_dataloader() for name in batch.document_ids]
        data.teardown("predict")
        return found

    assert ids(2) == ids(0)


def test_a_worker_imports_no_lightning() -> None:
    code = (
        "import sys, deepsynth.data.loading.stream, deepsynth.data.processing.collator\n"
        "print('lightning' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"


def test_the_fingerprint_tells_documents_and_their_order_apart() -> None:
    def fingerprint(*ids: str) -> tuple[int, str]:
        walked = Fingerprinted(Document(name, "text") for name in ids)
        assert len(list(walked)) == len(ids)
        return walked.fingerprint

    assert fingerprint("a", "bc") == fingerprint("a", "bc")
    different = [("a", "bc"), ("ab", "c"), ("bc", "a"), ("a", "bd"), ("abc", ""), ("a", "bc", "")]
    assert len({fingerprint(*ids)[1] for ids in different}) == len(different)
