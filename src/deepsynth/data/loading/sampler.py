"""The order of the samples of an epoch, over all ranks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Sized
from typing import Any

import torch
from torch.utils.data.distributed import DistributedSampler


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
        #: Number of samples, over all ranks, that the next iteration leaves out because they were done before.
        self.start = 0
        self.even = even
        self.lengths = lengths
        self.repeat = repeat
        #: Number of samples of a batch over all ranks. A restored epoch keeps that with which it began.
        self.group = batch_size * num_replicas
        self.restored_group: int | None = None
        self.size = size = len(dataset)
        if even and num_replicas > 1:
            self.total_size = size // num_replicas * num_replicas
            self.num_samples = size // num_replicas
        else:
            self.total_size = size
            self.num_samples = len(range(rank, size, num_replicas))

    def __iter__(self) -> Iterator[tuple[int, int]]:
        """Yield this rank's (epoch, index) from ``start`` on, once; the next epoch starts at 0."""
        size, epoch = self.size, 0 if self.repeat else self.epoch
        if self.shuffle:
            generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
            order = torch.randperm(size, generator=generator).tolist()
            if self.lengths is not None:
                order = self._group_by_length(order, self.lengths, generator)
        else:
            order = list(range(size))
        rest = order[self.start :]
        if self.even:
            rest = rest[: len(rest) // self.num_replicas * self.num_replicas]
        self.start = 0
        return iter([(epoch, index) for index in rest[self.rank :: self.num_replicas]])

    def _group_by_length(self, order: list[int], lengths: Sequence[float], generator: torch.Generator) -> list[int]:
        group, self.restored_group = self.restored_group or self.group, None
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
