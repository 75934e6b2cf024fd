"""The order of samples: alike lengths together, over ranks, and on from the middle of an epoch."""

from __future__ import annotations

import io
import json
import multiprocessing
import pickle
import random
from pathlib import Path
from typing import Any

import pytest
from torch.utils.data import Dataset

from deepsynth.data.loading.loader import DatasetInFile, ResumableLoader, Workers
from deepsynth.data.loading.sampler import EpochSampler
from deepsynth.errors import UserError
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
    from tests.helpers.training import make_data

    data = make_data(jsonl, group_by_length=True)
    data.setup("fit")
    dataset = data.datasets["train"]
    assert dataset.lengths == [len(document.text) for document in dataset.documents]
    assert data.train_dataloader().sampler.lengths == dataset.lengths


DOCUMENTS = [f"{index} " + "word " * 200 for index in range(1003)]


class Documents(Dataset[str]):
    """A data set of texts."""

    def __init__(self, documents: list[str]) -> None:
        self.documents = documents

    def __len__(self) -> int:
        return len(self.documents)

    def __getitem__(self, key: tuple[int, int]) -> str:
        return self.documents[key[1]]


def test_spawned_workers_are_told_little_so_that_none_waits_for_anothers_imports() -> None:
    dataset = DatasetInFile(Documents(DOCUMENTS))
    told = [pickle.dumps(dataset) for _ in range(2)]
    assert len(pickle.dumps(DOCUMENTS)) > 2**16 > 2**10 > len(told[0])
    for message in told:
        received = pickle.loads(message)
        assert [received[0, index] for index in range(len(received))] == DOCUMENTS


def test_a_full_disk_is_said_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    class Full(io.BytesIO):
        def write(self, *_: Any) -> int:
            raise OSError(28, "No space left on device")

    dataset = DatasetInFile(Documents(DOCUMENTS))
    monkeypatch.setattr("deepsynth.data.loading.loader.tempfile.TemporaryFile", Full)
    for _ in range(2):
        with pytest.raises(UserError, match="No space left on device; set TMPDIR"):
            pickle.dumps(dataset)


@pytest.mark.slow
def test_spawned_workers_give_what_there_is() -> None:
    workers = Workers(3, start_method="spawn")
    sampler = EpochSampler(DOCUMENTS, shuffle=False, seed=0)
    loader = ResumableLoader(Documents(DOCUMENTS), sampler, workers, batch_size=8)
    assert [text for batch in loader for text in batch] == DOCUMENTS
    assert len(multiprocessing.active_children()) >= 3
    workers.close()
    assert not multiprocessing.active_children()


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
        return ResumableLoader(dataset, EpochSampler(dataset, shuffle=True, seed=seed), batch_size=2)

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
