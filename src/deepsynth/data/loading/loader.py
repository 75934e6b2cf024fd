"""Which samples come in which order, and how a run goes on from the middle of an epoch.

Lightning tells the sampler the epoch, and saves and restores a loader's place when it has ``state_dict``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Sized
from typing import Any

import torch
from torch.utils.data import DataLoader
from torch.utils.data.distributed import DistributedSampler

from deepsynth.data.loading.workers import DatasetByFile
from deepsynth.types import Batch


class EpochSampler(DistributedSampler[Any]):
    """Yields (epoch, index), so that workers that outlive an epoch still know which one it is.

    It is a ``DistributedSampler``, which keeps Lightning from putting its own in its place.

    Args:
        dataset: only its length is used.
        shuffle: a new order every epoch, from ``seed`` and the epoch.
        seed: of the order.
        num_replicas: ranks that share the data; no sample goes to two of them.
        rank: of this process.
        even: leave out the last few samples (fewer than ranks) so that every rank takes the same number of steps;
            without it every sample comes, and ranks may differ by one.
        lengths: of the samples, in any unit; those of a batch, over all ranks, are then alike. Within every fifty
            batches samples are sorted, cut into batches, and the batches shuffled.
        batch_size: of one rank; for ``lengths`` alone.
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
    ) -> None:
        super().__init__(dataset, num_replicas=num_replicas, rank=rank, shuffle=shuffle, seed=seed)  # type: ignore[arg-type]
        #: Samples of the next epoch that all ranks together leave out, because they were handed out before.
        self.start = 0
        self.even = even
        self.lengths = lengths
        #: Samples of a batch over all ranks. A restored epoch keeps the one it was begun with.
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
        size = self.size
        if self.shuffle:
            generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
            order = torch.randperm(size, generator=generator).tolist()
            if self.lengths is not None:
                order = self._alike_together(order, self.lengths, generator)
        else:
            order = list(range(size))
        rest = order[self.start :]
        if self.even:
            rest = rest[: len(rest) // self.num_replicas * self.num_replicas]
        self.start = 0
        return iter([(self.epoch, index) for index in rest[self.rank :: self.num_replicas]])

    def _alike_together(self, order: list[int], lengths: Sequence[float], generator: torch.Generator) -> list[int]:
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


class ResumableLoader:
    """Batches of an epoch, and how many of its samples have been handed out.

    The place is counted in samples over all ranks, so a run may go on with another batch size or number of ranks; an
    epoch of batches of alike lengths ends in the order in which it was begun.
    What workers have prefetched does not count: a restored loader makes it again.

    It holds a DataLoader and is none itself: Lightning makes DataLoaders anew with samplers of its own, for prediction
    and for several ranks, and knows nothing of (epoch, index).

    Args:
        dataset: gives the sample of (epoch, index).
        sampler: gives the (epoch, index) of this rank.
        kwargs: for torch's DataLoader.
    """

    #: Lightning looks for it wherever there is a sampler.
    batch_sampler: None = None

    def __init__(self, dataset: Any, sampler: EpochSampler, **kwargs: Any) -> None:
        self.sampler = sampler
        if kwargs.get("multiprocessing_context") == "spawn":
            dataset = DatasetByFile(dataset)
        self._batches: DataLoader[Any] = DataLoader(dataset, sampler=sampler, **kwargs)
        self._samples_done = 0
        self._restored: dict[str, int] | None = None
        self._group = sampler.group  # of the epoch that is under way
        #: Batches of today's size that a restored epoch has behind it, when it was begun with batches of another size.
        self.batches_done_elsewhere: int | None = None

    def __len__(self) -> int:
        """Return the number of batches of a whole epoch."""
        return len(self._batches)

    def __iter__(self) -> Iterator[Batch]:
        """Yield batches; after ``load_state_dict`` the rest of the interrupted epoch first."""
        self._samples_done = 0
        if self._restored is not None:
            place, self._restored = self._restored, None
            if self.sampler.size - place["samples"] >= self.sampler.num_replicas:
                # A run that reached max_steps within an epoch counts as past it; the rest of that epoch comes first.
                self.sampler.set_epoch(place["epoch"])
                self._samples_done = place["samples"]
                self.sampler.restored_group = place.get("group")
            elif place["epoch"] == self.sampler.epoch:  # fewer samples are left than there are processes now
                self._samples_done = place["samples"]
                self._group = place.get("group", self._group)  # fewer processes may take what is left later
                return
        self._group = self.sampler.restored_group or self.sampler.group
        self.sampler.start = self._samples_done
        for batch in self._batches:
            self._samples_done += len(batch) * self.sampler.num_replicas
            yield batch

    def close(self) -> None:
        """End the workers. Left to the garbage collector, which ends their queues first, each is waited for in vain."""
        iterator: Any = self._batches._iterator
        if iterator is not None:
            iterator._shutdown_workers()
            self._batches._iterator = None

    def state_dict(self) -> dict[str, int]:
        """Return the epoch and the number of its samples handed out, over all ranks."""
        return {"epoch": self.sampler.epoch, "samples": self._samples_done, "group": self._group}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on from a saved place; a saved epoch that was complete is not begun again."""
        self._restored = state
        if state.get("group", self.sampler.group) != self.sampler.group:
            self.batches_done_elsewhere = state["samples"] // self.sampler.group
