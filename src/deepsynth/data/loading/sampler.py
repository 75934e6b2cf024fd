"""The order of the samples of an epoch, over all ranks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Sized
from typing import Any, NamedTuple

import torch
from torch.utils.data import Sampler
from torch.utils.data.distributed import DistributedSampler


class Place(NamedTuple):
    """A place in the data.

    Attributes:
        epoch: its number, from 0.
        samples: number of its samples that are done, over all ranks.
        group: number of samples of a batch over all ranks, with which the epoch began.
    """

    epoch: int
    samples: int
    group: int


class EpochSampler(DistributedSampler[Any]):
    """Yields (epoch, index), because workers outlive an epoch and must know which one it is.

    It is a ``DistributedSampler``, so that Lightning does not replace it by its own.

    Args:
        dataset: only its length is used.
        shuffle: whether each epoch has a new order, which follows from ``seed`` and the epoch.
        seed: seed of the order.
        num_replicas: number of ranks that share the data; no sample goes to two of them.
        rank: rank of this process.
        even: leave out the last few samples (fewer than ranks), so that every rank takes the same number of steps;
            otherwise all samples are used, and ranks may differ by one.
        lengths: lengths of the samples in any unit; a batch, over all ranks, then has samples of similar lengths.
            Within every fifty batches samples are sorted and cut into batches, and the batches are shuffled.
        batch_size: batch size of one rank; used with ``lengths`` only.
        repeat: whether every epoch is the first one again: same order, same pages.
    """

    def __init__(
        self,
        dataset: Sized,
        *,
        shuffle: bool,
        seed: int,
        num_replicas: int = 1,
        rank: int = 0,
        even: bool = False,
        lengths: Sequence[float] | None = None,
        batch_size: int = 1,
        repeat: bool = False,
    ) -> None:
        super().__init__(dataset, num_replicas=num_replicas, rank=rank, shuffle=shuffle, seed=seed)  # type: ignore[arg-type]
        self.even = even
        self.lengths = lengths
        self.repeat = repeat
        #: Number of samples of a batch over all ranks.
        self.group = batch_size * num_replicas
        self.size = size = len(dataset)
        if even and num_replicas > 1:
            self.total_size = size // num_replicas * num_replicas
            self.num_samples = size // num_replicas
        else:
            self.total_size = size
            self.num_samples = len(range(rank, size, num_replicas))

    def __iter__(self) -> Iterator[tuple[int, int]]:
        """Yield this rank's (epoch, index) of the present epoch."""
        return (key for batch in self.batches(Place(self.epoch, 0, self.group), 1) for key in batch)

    def batches(self, place: Place, batch_size: int) -> Iterator[list[tuple[int, int]]]:
        """Yield the (epoch, index) of this rank's batches from a place on, to the end of its epoch.

        Without shuffling the epoch is always 0: validation looks at the same pages every time.
        """
        size, epoch = self.size, place.epoch if self.shuffle and not self.repeat else 0
        order: Sequence[int] | torch.Tensor = range(size)
        if self.shuffle:
            generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
            order = torch.randperm(size, generator=generator)
            if self.lengths is not None:
                order = self._group_by_length(order.tolist(), self.lengths, place.group, generator)
        own = order[place.samples + self.rank :: self.num_replicas][: self.samples_left(place)]
        for first in range(0, len(own), batch_size):
            batch = own[first : first + batch_size]
            yield [(epoch, int(index)) for index in batch]

    def samples_left(self, place: Place) -> int:
        """Return the number of this rank's samples from a place to the end of its epoch."""
        if self.even:
            return (self.size - place.samples) // self.num_replicas
        return len(range(place.samples + self.rank, self.size, self.num_replicas))

    @staticmethod
    def _group_by_length(
        order: list[int], lengths: Sequence[float], group: int, generator: torch.Generator
    ) -> list[int]:
        arranged: list[int] = []
        for start in range(0, len(order), 50 * group):
            window = sorted(order[start : start + 50 * group], key=lambda index: lengths[index])
            whole = len(window) // group
            for number in torch.randperm(whole, generator=generator).tolist():
                arranged += window[number * group : (number + 1) * group]
            arranged += window[whole * group :]  # at the very end: a short batch would shift all that follow
        return arranged

    def __len__(self) -> int:
        """Return the number of this rank's samples in a whole epoch."""
        return self.num_samples


class EpochBatches(Sampler[list[tuple[int, int]]]):
    """Batches of (epoch, index) from a place on, to the end of its epoch or without an end.

    Without an end, workers make the first batches of an epoch while training ends the one before; an epoch of few
    batches would otherwise wait for its first one every time.

    Args:
        sampler: knows the order of each epoch.
        batch_size: samples of a batch.
        endless: whether the next epoch follows.
    """

    def __init__(self, sampler: EpochSampler, batch_size: int, *, endless: bool) -> None:
        self.sampler = sampler
        self.batch_size = batch_size
        self.endless = endless
        #: Where the next iteration begins.
        self.place = Place(0, 0, sampler.group)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        """Yield the keys of one batch after the other."""
        place = self.place
        yield from self.sampler.batches(place, self.batch_size)
        while self.endless and len(self.sampler):
            place = self.after(place)
            yield from self.sampler.batches(place, self.batch_size)

    def after(self, place: Place) -> Place:
        """Return the beginning of the next epoch."""
        return Place(place.epoch + 1, 0, self.sampler.group)

    def left(self, place: Place) -> int:
        """Return the number of batches from a place to the end of its epoch."""
        return -(-self.sampler.samples_left(place) // self.batch_size)

    def __len__(self) -> int:
        """Return the number of batches of a whole epoch."""
        return -(-len(self.sampler) // self.batch_size)
