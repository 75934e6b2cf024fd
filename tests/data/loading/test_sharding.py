"""Every sample comes to one process and one worker, whatever the source, and whatever the number of processes was."""

from __future__ import annotations

import json
import multiprocessing
import os
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from deepsynth.data import HubSource, JsonlSource, MixedSource, Source
from deepsynth.data.loading.loader import ResumableLoader
from deepsynth.data.loading.sampler import EpochSampler
from tests.helpers.training import make_data

Place = dict[str, int]


# ---------------------------------------------------------------------- the order alone


class Numbers:
    """A data set whose samples are their (epoch, index)."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, key: tuple[int, int]) -> tuple[int, int]:
        return key


def ask_in_advance(loader: Any, batches: Iterator[Any]) -> None:
    """Ask for one more batch, as Lightning does of a loader without a length while it trains on the last one."""
    if not hasattr(loader, "__len__"):
        next(batches, None)


def on_every_rank(
    make: Callable[[int], ResumableLoader], ranks: int, batches: int | None, place: Place | None, epoch: int = 0
) -> tuple[list[list[Any]], Place]:
    """Return what each rank got in ``batches`` batches, and the place that all of them saved."""
    found: list[list[Any]] = []
    places: list[Place] = []
    for rank in range(ranks):
        loader = make(rank)
        loader.sampler.set_epoch(epoch)
        if place is not None:
            loader.load_state_dict(dict(place))
        given = iter(loader)
        found.append(list(islice(given, batches)))
        ask_in_advance(loader, given)
        places.append(loader.state_dict())
    assert all(other == places[0] for other in places)
    return found, places[0]


@settings(max_examples=60, deadline=None)
@example(size=8, stages=[(1, 1, 2), (7, 1, 1), (1, 1, 1)], grouped=True, seed=0)  # more processes than samples left
@given(
    size=st.integers(8, 120),
    stages=st.lists(st.tuples(st.integers(1, 7), st.integers(1, 4), st.integers(1, 9)), min_size=1, max_size=4),
    grouped=st.booleans(),
    seed=st.integers(0, 99),
)
def test_an_epoch_that_goes_on_with_other_ranks_and_batches_has_every_sample_once(
    size: int, stages: list[tuple[int, int, int]], grouped: bool, seed: int
) -> None:
    seen: list[int] = []
    place = None
    for number, (ranks, batch_size, batches) in enumerate([*stages, (stages[-1][0], 1, size)]):

        def make(rank: int, ranks: int = ranks, batch_size: int = batch_size) -> ResumableLoader:
            sampler = EpochSampler(
                Numbers(size), shuffle=True, seed=seed, num_replicas=ranks, rank=rank, even=True,
                lengths=[float(index * 7 % 13) for index in range(size)] if grouped else None, batch_size=batch_size,
            )  # fmt: skip
            return ResumableLoader(Numbers(size), sampler, batch_size=batch_size, collate_fn=list)

        found, place = on_every_rank(make, ranks, batches, place)
        assert len({sum(map(len, own)) for own in found}) == 1  # or a process would wait for the others for ever
        assert all(epoch == 0 for own in found for batch in own for epoch, _ in batch), number
        seen += [index for own in found for batch in own for _, index in batch]
    assert len(seen) == len(set(seen))
    assert size - len(seen) < ranks  # of the last stage: the leftover of an epoch


# ---------------------------------------------------------------------- sources


def write(folder: Path, name: str, size: int) -> Path:
    path = folder / f"{name}.jsonl"
    rows = [{"id": f"{name}{number}", "text": f"{name} {number}"} for number in range(size)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def source_of(kind: str, folder: Path) -> Source:
    if kind == "mixed":
        sources = {name: JsonlSource(str(write(folder, name, size))) for name, size in (("a", 9), ("b", 4))}
        return MixedSource(sources, weights={"a": 1, "b": 3}, epoch_size=22)  # b comes four times
    datasets = pytest.importorskip("datasets")
    datasets.Dataset.from_list([json.loads(line) for line in write(folder, "c", 21).open()]).save_to_disk(folder / "c")
    stream = HubSource(str(folder / "c"), streaming=True)
    if kind == "streaming":
        return stream
    other = JsonlSource(str(write(folder, "a", 9)))
    return MixedSource({"a": other, "c": stream}, weights={"a": 1, "c": 2}, epoch_size=25)


def loader_of(source: Source, folder: Path, rank: int, ranks: int, workers: int, split: str = "train") -> Any:
    data = make_data(folder / "unused", num_workers=workers)
    data.source = source
    data.trainer = SimpleNamespace(world_size=ranks, global_rank=rank, strategy=Alone(), overfit_batches=0)  # type: ignore[assignment]
    data.setup("fit" if split == "train" else split)
    return getattr(data, f"{split}_dataloader")()


class Alone:
    """Stands for a strategy whose other processes have the same."""

    def broadcast(self, value: Any) -> Any:
        return value


@pytest.mark.parametrize("kind", ["streaming", "mixed", "both"])
def test_streams_and_mixes_come_once_over_ranks_and_go_on_with_another_number(kind: str, tmp_path: Path) -> None:
    source = source_of(kind, tmp_path)
    expected = [document.id for document in source]
    seen: list[str] = []
    place = None
    for ranks, batches in ((2, 3), (3, 1), (1, None)):
        found, place = on_every_rank(lambda rank: loader_of(source, tmp_path, rank, ranks, 0), ranks, batches, place)  # noqa: B023
        seen += [name for own in found for batch in own for name in batch.document_ids]
    assert sorted(seen) == sorted(expected)
    assert seen != expected  # shuffled


@pytest.mark.parametrize("kind", ["streaming", "mixed"])
def test_a_rank_gets_the_same_from_two_workers_as_without_and_goes_on(kind: str, tmp_path: Path) -> None:
    source = source_of(kind, tmp_path)
    alone = [batch.document_ids for batch in loader_of(source, tmp_path, 1, 2, 0)]
    assert [batch.document_ids for batch in loader_of(source, tmp_path, 1, 2, 2)] == alone
    first = loader_of(source, tmp_path, 1, 2, 2)
    batches = iter(first)
    begun = [next(batches).document_ids for _ in range(2)]
    ask_in_advance(first, batches)
    place = first.state_dict()  # workers have made more than was handed out
    del batches, first
    rest = loader_of(source, tmp_path, 1, 2, 2)
    rest.load_state_dict(place)
    assert begun + [batch.document_ids for batch in rest] == alone


def test_reading_takes_every_document_of_a_stream_once_with_any_number_of_ranks(tmp_path: Path) -> None:
    source = source_of("streaming", tmp_path)
    found = [
        name
        for rank in range(4)
        for batch in loader_of(source, tmp_path, rank, 4, 0, "predict")
        for name in batch.document_ids
    ]
    assert sorted(found) == sorted(document.id for document in source)


# ---------------------------------------------------------------------- what several processes must agree on


def test_processes_that_read_different_documents_are_refused(tmp_path: Path) -> None:
    """A stream that broke off, or a file that is not the same on all machines: samples would be lost or come twice."""
    data = make_data(write(tmp_path, "a", 9))
    theirs = make_data(write(tmp_path, "a2", 8))

    class Other(Alone):
        def broadcast(self, value: Any) -> Any:
            return theirs.datasets["train"].fingerprint

    theirs.setup("fit")
    data.trainer = SimpleNamespace(world_size=2, global_rank=1, strategy=Other())  # type: ignore[assignment]
    with pytest.raises(ValueError, match=r"rank 1 has 9 train samples .* rank 0 has 8"):
        data.setup("fit")


@pytest.mark.skipif(not hasattr(os, "setpgrp"), reason="no groups of processes on this system")
def test_a_signal_to_the_group_of_processes_does_not_end_the_workers(tmp_path: Path) -> None:
    loader = loader_of(source_of("mixed", tmp_path), tmp_path, 0, 1, 1)
    batches = iter(loader)
    next(batches)
    (worker,) = multiprocessing.active_children()
    assert os.getpgid(worker.pid) == worker.pid
