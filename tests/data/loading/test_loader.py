"""The order of samples: alike lengths together, over ranks, and on from the middle of an epoch."""

from __future__ import annotations

import json
import multiprocessing
import random
import time
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from torch.utils.data import Dataset

from deepsynth.data.loading.loader import ResumableLoader
from deepsynth.data.loading.sampler import EpochSampler
from deepsynth.data.loading.workers import Workers
from tests.helpers.training import make_data

_RANDOM = random.Random(0)
LENGTHS = [_RANDOM.lognormvariate(5, 1) for _ in range(1003)]


class Indices:
    """A data set whose samples are their (epoch, index)."""

    def __len__(self) -> int:
        return len(LENGTHS)

    def __getitem__(self, key: tuple[int, int]) -> tuple[int, int]:
        return key


def orders(ranks: int, batch_size: int, grouped: bool = True, epoch: int = 0, seed: int = 1) -> list[list[int]]:
    """Return the indices of each rank."""
    found = []
    for rank in range(ranks):
        sampler = EpochSampler(
            Indices(), shuffle=True, seed=seed, num_replicas=ranks, rank=rank, even=True,
            lengths=LENGTHS if grouped else None, batch_size=batch_size,
        )  # fmt: skip
        sampler.set_epoch(epoch)
        found.append([index for _, index in sampler])
    return found


def padding(order: list[int], batch_size: int) -> float:
    """Return the share of positions that padding takes."""
    batches = [[LENGTHS[i] for i in order[s : s + batch_size]] for s in range(0, len(order), batch_size)]
    return 1 - sum(map(sum, batches)) / sum(max(batch) * len(batch) for batch in batches)


@pytest.mark.parametrize("ranks", [1, 3])
def test_batches_of_alike_lengths_have_little_padding_on_every_rank(ranks: int) -> None:
    grouped, shuffled = orders(ranks, 8), orders(ranks, 8, grouped=False)
    for own, other in zip(grouped, shuffled, strict=True):
        assert padding(own, 8) < 0.2 * padding(other, 8)
    assert len({len(own) for own in grouped}) == 1
    flat = [index for own in grouped for index in own]
    assert len(set(flat)) == len(flat) == len(LENGTHS) // ranks * ranks


@pytest.mark.parametrize("even", [True, False])
@pytest.mark.parametrize("ranks", [1, 2, 3, 4])
def test_ranks_share_the_samples_and_know_how_many_they_have(ranks: int, even: bool) -> None:
    samplers = [
        EpochSampler(Indices(), shuffle=False, seed=1, num_replicas=ranks, rank=rank, even=even)
        for rank in range(ranks)
    ]
    own = [[index for _, index in sampler] for sampler in samplers]
    assert [len(sampler) for sampler in samplers] == [len(indices) for indices in own]
    assert len({len(indices) for indices in own}) == (1 if even or len(LENGTHS) % ranks == 0 else 2)
    flat = sorted(index for indices in own for index in indices)
    assert flat == list(range(len(LENGTHS) // ranks * ranks if even else len(LENGTHS)))


def test_ranks_have_alike_lengths_at_the_same_step() -> None:
    first, second = orders(2, 8)
    ratios = [
        sum(LENGTHS[i] for i in first[s : s + 8]) / sum(LENGTHS[i] for i in second[s : s + 8])
        for s in range(0, 400, 8)
    ]  # fmt: skip
    assert sorted(abs(ratio - 1) for ratio in ratios)[len(ratios) // 2] < 0.05


def test_every_epoch_has_another_order_of_batches_and_other_batches() -> None:
    first, second = orders(1, 8)[0], orders(1, 8, epoch=1)[0]
    batches = [{frozenset(order[s : s + 8]) for s in range(0, 1000, 8)} for order in (first, second)]
    assert first != second
    assert len(batches[0] & batches[1]) < 10
    means = [sum(LENGTHS[i] for i in first[s : s + 8]) for s in range(0, 400, 8)]
    assert means != sorted(means)


@pytest.mark.parametrize("grouped", [False, True])
def test_the_order_follows_from_the_seed_and_the_epoch(grouped: bool) -> None:
    assert orders(1, 4, grouped, epoch=1, seed=1) == orders(1, 4, grouped, epoch=1, seed=1)
    (first,), (other,), (later,) = (
        orders(1, 4, grouped, epoch=epoch, seed=seed) for epoch, seed in ((1, 1), (1, 5), (2, 1))
    )
    assert first != other
    assert first != later
    assert sorted(first) == sorted(other) == sorted(later) == list(range(len(LENGTHS)))


def loader(batch_size: int) -> ResumableLoader:
    sampler = EpochSampler(Indices(), shuffle=True, seed=1, lengths=LENGTHS, batch_size=batch_size)
    return ResumableLoader(Indices(), sampler, batch_size=batch_size, collate_fn=list)


@pytest.mark.parametrize("later_batch_size", [8, 4])
def test_an_epoch_ends_in_the_order_in_which_it_was_begun(later_batch_size: int) -> None:
    first = loader(8)
    seen: list[Any] = []
    whole = [item for batch in loader(8) for item in batch]
    for number, batch in enumerate(first):
        seen += batch
        if number == 9:
            break
    second = loader(later_batch_size)
    second.load_state_dict(first.state_dict())
    seen += next(iter(second))  # and interrupted once more
    rest = loader(later_batch_size)
    rest.load_state_dict(second.state_dict())
    seen += [item for batch in rest for item in batch]
    assert seen == whole
    rest.sampler.set_epoch(1)
    assert [item for batch in rest for item in batch] != whole  # the next epoch is grouped for its own batches


def test_lengths_of_a_data_set_follow_its_texts(jsonl: Any) -> None:
    data = make_data(jsonl, group_by_length=True)
    data.setup("fit")
    dataset = data.datasets["train"]
    assert dataset.lengths == [len(document.text) for document in dataset.documents]
    assert data.train_dataloader().sampler.lengths == dataset.lengths


# ---------------------------------------------------------------------- one epoch after another


class Asked(Dataset[tuple[int, int]]):
    """Samples that are their keys, each noted in a file when it is made."""

    def __init__(self, file: Path, size: int) -> None:
        self.file, self.size = file, size

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, key: tuple[int, int]) -> tuple[int, int]:
        with self.file.open("a") as file:
            file.write(f"{key[0]} {key[1]}\n")
        return key


def asked_loader(
    folder: Path, workers: Workers | None = None, *, endless: bool = True, size: int = 7, **kwargs: Any
) -> ResumableLoader:
    sampler = EpochSampler(range(size), shuffle=True, seed=3, even=True, **kwargs)
    dataset = Asked(folder / "asked", size)
    return ResumableLoader(dataset, sampler, workers, batch_size=2, endless=endless, collate_fn=list)


def epochs_of(loader: ResumableLoader, *numbers: int) -> list[list[Any]]:
    found = []
    for number in numbers:
        loader.sampler.set_epoch(number)
        found.append(list(islice(loader, len(loader))))  # as Lightning, which does not ask for one more
    return found


def test_the_next_epoch_is_made_while_this_one_ends(tmp_path: Path) -> None:
    workers = Workers(1, start_method="fork")
    loader = asked_loader(tmp_path, workers)
    try:
        (first,) = epochs_of(loader, 0)
        assert sum(map(len, first)) == 7
        end = time.monotonic() + 30
        while not (asked := [line for line in (tmp_path / "asked").read_text().split("\n") if line[:2] == "1 "]):
            assert time.monotonic() < end, "no sample of epoch 1 before it was asked for"
            time.sleep(0.01)
        (second,) = epochs_of(loader, 1)
        assert asked[0] == f"1 {second[0][0][1]}"
        made = (tmp_path / "asked").read_text().split("\n")
        assert len(made) == len(set(made)), "a sample was made twice"
    finally:
        workers.close()


def test_workers_begin_before_batches_are_asked_for(tmp_path: Path) -> None:
    plain = epochs_of(asked_loader(tmp_path, endless=False), 0, 1)
    (tmp_path / "asked").unlink()
    workers = Workers(1, start_method="fork")
    loader = asked_loader(tmp_path, workers).start()
    try:
        end = time.monotonic() + 30
        while not (tmp_path / "asked").exists():
            assert time.monotonic() < end, "no sample before it was asked for"
            time.sleep(0.01)
        assert epochs_of(loader, 0, 1) == plain
        made = (tmp_path / "asked").read_text().split("\n")
        assert len(made) == len(set(made)), "a sample was made twice"
        other = asked_loader(tmp_path, workers).start()
        other.load_state_dict({"epoch": 0, "samples": 4, "group": 1})  # a run that goes on
        assert epochs_of(other, 0)[0] == plain[0][2:]
    finally:
        workers.close()


@pytest.mark.parametrize("count", [0, 1, 2])
def test_epochs_are_the_same_with_and_without_prefetching(count: int, tmp_path: Path) -> None:
    plain = epochs_of(asked_loader(tmp_path, endless=False), 0, 1, 2, 5, 5)
    workers = Workers(count, start_method="fork" if count else None)
    loader = asked_loader(tmp_path, workers)
    try:
        assert epochs_of(loader, 0, 1, 2, 5, 5) == plain  # epochs that do not follow each other too
    finally:
        workers.close()
    assert [sorted(index for batch in epoch for _, index in batch) for epoch in plain] == [list(range(7))] * 5
    assert [epoch[0][0][0] for epoch in plain] == [0, 1, 2, 5, 5]
    assert [len(batch) for batch in plain[0]] == [2, 2, 2, 1]


@pytest.mark.parametrize("done", range(1, 5))
def test_an_epoch_goes_on_where_it_was_although_the_next_was_prefetched(done: int, tmp_path: Path) -> None:
    plain = epochs_of(asked_loader(tmp_path, endless=False), 0, 1, 2)
    workers = Workers(1, start_method="fork")
    first, later = asked_loader(tmp_path, workers), asked_loader(tmp_path, workers)
    try:
        epochs_of(first, 0)
        first.sampler.set_epoch(1)
        seen = list(islice(first, done))
        later.load_state_dict(first.state_dict())
        later.sampler.set_epoch(1)
        assert seen + list(later) == plain[1]
        assert epochs_of(later, 2) == plain[2:]
    finally:
        workers.close()


def test_a_loader_whose_workers_were_ended_starts_new_ones(tmp_path: Path) -> None:
    before = set(multiprocessing.active_children())
    workers = Workers(1, start_method="fork")
    loader = asked_loader(tmp_path, workers)
    try:
        first = epochs_of(loader, 0, 1)
        assert len(set(multiprocessing.active_children()) - before) == 1
        workers.close()
        assert set(multiprocessing.active_children()) <= before
        assert epochs_of(loader, 2, 0, 1)[1:] == first
    finally:
        workers.close()


def test_an_epoch_left_early_is_begun_anew(tmp_path: Path) -> None:
    loader = asked_loader(tmp_path)
    whole = epochs_of(asked_loader(tmp_path), 0)[0]
    assert list(islice(loader, 2)) == whole[:2]
    assert list(loader) == whole


def test_validation_sees_the_same_pages_in_every_epoch(jsonl: Path) -> None:
    from deepsynth.data import PageAugmenter

    data = make_data(jsonl, val_fraction=0.5, augmenter=PageAugmenter("hard"))
    data.setup("fit")
    loader = data.val_dataloader()
    views = []
    for epoch in range(2):
        loader.sampler.set_epoch(epoch)  # as Lightning does
        views.append(next(iter(loader)).images["pixel_values"])
    assert views[0].equal(views[1])


def test_the_loader_knows_how_long_it_was_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SimpleNamespace(now=0.0, perf_counter=lambda: clock.now)

    class Slow(Indices):
        def __getitem__(self, key: tuple[int, int]) -> tuple[int, int]:
            clock.now += 1
            return key

    monkeypatch.setattr("deepsynth.data.loading.loader.time", clock)
    sampler = EpochSampler(Slow(), shuffle=True, seed=1)
    loader = ResumableLoader(Slow(), sampler, batch_size=4, collate_fn=list)
    for _ in islice(loader, 3):
        clock.now += 100  # a step
    assert loader.waited_s == 3 * 4


# ---------------------------------------------------------------------- other data


class Content(Indices):
    """The indices, of data with a fingerprint."""

    def __init__(self, size: int, content: int) -> None:
        self.fingerprint = (size, content)


@pytest.mark.parametrize(
    ("size", "content", "seed", "said"),
    [
        (10, 1, 0, None),
        (12, 2, 0, "12 training samples, where the interrupted run had 10"),
        (10, 2, 0, "with other texts or in another order"),
        (10, 1, 5, "data.seed 5, where the interrupted run had 0"),
    ],
)
def test_a_run_that_goes_on_with_other_data_says_so(
    size: int, content: int, seed: int, said: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    def loader_with(dataset: Content, seed: int) -> ResumableLoader:
        return ResumableLoader(dataset, EpochSampler(dataset, shuffle=True, seed=seed), batch_size=2, collate_fn=list)

    state = loader_with(Content(10, 1), 0).state_dict()
    loader_with(Content(size, content), seed).load_state_dict(state)
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == (said is not None)
    assert all(line.startswith("resumed with other data: ") and str(said) in line for line in lines)


def test_the_fingerprint_of_a_data_set_follows_its_ids_texts_and_targets(tmp_path: Path) -> None:
    def fingerprint(*rows: dict[str, str]) -> tuple[int, int]:
        file = tmp_path / "rows.jsonl"
        file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        data = make_data(file)
        data.setup("fit")
        return data.datasets["train"].fingerprint

    one, two = {"id": "a", "text": "one"}, {"id": "b", "text": "two"}
    whole = fingerprint(one, two)
    assert whole == fingerprint(one, two)
    assert whole[0] == 2
    others = [
        fingerprint(two, one),
        fingerprint(one),
        fingerprint(one, {**two, "text": "twp"}),
        fingerprint(one, {**two, "id": "c"}),
        fingerprint({**one, "target": "x"}, {**two, "target": "y"}),
    ]
    assert len({whole, *others}) == 6
