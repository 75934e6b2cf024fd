"""Batches of epochs, and how a run continues from the middle of an epoch.

Lightning saves and restores the position of a loader that has ``state_dict``.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from typing import Any, Self

from deepsynth.data.loading.sampler import EpochBatches, EpochSampler, Place
from deepsynth.data.loading.workers import Workers
from deepsynth.types import Batch

log = logging.getLogger(__name__)


class ResumableLoader:
    """Batches of an epoch that can be resumed in its middle.

    The position is counted in samples over all ranks, so a run may resume with another batch size or number of ranks. A
    resumed epoch keeps its order, also with batches of similar lengths. Samples that workers have prefetched do not
    count: they are made again.

    It holds a DataLoader and is not a subclass: Lightning replaces the samplers of DataLoaders, for prediction and for
    several ranks, by its own, which do not yield (epoch, index).

    Without an end the DataLoader continues into the next epoch by itself, so that its workers never run dry; an
    iteration takes the batches of one epoch from it. It starts anew where that is not the epoch that comes next: after
    a resumption, or an epoch that was not taken to its end.

    Args:
        dataset: maps (epoch, index) to a sample.
        sampler: knows the (epoch, index) of this rank.
        workers: make the samples; by default the main process does.
        batch_size: samples of a batch.
        endless: whether the next epoch is prefetched while one ends.
        collate_fn: joins samples into a batch.
    """

    #: Lightning looks for it wherever there is a sampler.
    batch_sampler: None = None

    def __init__(
        self,
        dataset: Any,
        sampler: EpochSampler,
        workers: Workers | None = None,
        *,
        batch_size: int,
        endless: bool = False,
        collate_fn: Callable[[Any], Any],
    ) -> None:
        self.sampler = sampler
        found: tuple[int, int] = getattr(dataset, "fingerprint", (len(dataset), 0))
        self._samples, self._content = found
        self._plan = EpochBatches(sampler, batch_size, endless=endless)
        self._workers = workers or Workers()
        self._batches = self._workers.loader(dataset, batch_sampler=self._plan, collate_fn=collate_fn)
        self._running: Iterator[Batch] = iter(())
        #: The place whose batches the running DataLoader gives next, and ``Workers.times_closed`` at that time;
        #: ``None`` in the middle of an epoch.
        self._ready: tuple[Place, int] | None = None
        self._samples_done = 0
        #: Seconds that the training loop has waited for batches, since the loader was made.
        self.waited_s = 0.0
        self._restored: dict[str, int] | None = None
        self._group = sampler.group  # of the current epoch
        #: Number of batches of the present size that a restored epoch has done, if it began with another batch size.
        self.batches_done_elsewhere: int | None = None

    def __len__(self) -> int:
        """Return the number of batches of a whole epoch."""
        return len(self._plan)

    def __iter__(self) -> Iterator[Batch]:
        """Yield the batches of an epoch; after ``load_state_dict``, first the rest of the interrupted one."""
        self._samples_done, self._group = 0, self.sampler.group
        if self._restored is not None:
            position, self._restored = self._restored, None
            if self.sampler.size - position["samples"] >= self.sampler.num_replicas:
                # A run that reached max_steps within an epoch counts as past it; the rest of that epoch comes first.
                self.sampler.set_epoch(position["epoch"])
                self._samples_done = position["samples"]
                self._group = position.get("group", self._group)
            elif position["epoch"] == self.sampler.epoch:  # fewer samples are left than there are processes now
                self._samples_done = position["samples"]
                self._group = position.get("group", self._group)  # fewer processes may take what is left later
                return
        yield from self._take(Place(self.sampler.epoch, self._samples_done, self._group))

    def start(self) -> Self:
        """Have the workers begin with the present epoch, before its batches are asked for."""
        self._begin(Place(self.sampler.epoch, 0, self.sampler.group))
        return self

    def _begin(self, place: Place) -> None:
        """Have the DataLoader begin at a place."""
        self._plan.place = place
        self._running = iter(self._batches)
        self._ready = place, self._workers.times_closed

    def _take(self, place: Place) -> Iterator[Batch]:
        """Yield the batches from a place to the end of its epoch."""
        if self._ready != (place, self._workers.times_closed):
            start = time.perf_counter()
            self._begin(place)
            self.waited_s += time.perf_counter() - start
        running, self._ready = self._running, None
        count = self._plan.left(place)
        for number in range(count):
            start = time.perf_counter()
            batch = next(running)
            self.waited_s += time.perf_counter() - start
            self._samples_done += len(batch) * self.sampler.num_replicas
            if number == count - 1 and self._plan.endless:
                # Here, as who knows the number of batches does not ask for one more.
                self._ready = (self._plan.after(place), self._workers.times_closed)
            yield batch

    def state_dict(self) -> dict[str, int]:
        """Return the epoch and the number of its samples handed out, over all ranks."""
        data = {"data_size": self._samples, "data_hash": self._content, "data_seed": self.sampler.seed}
        return {"epoch": self.sampler.epoch, "samples": self._samples_done, "group": self._group, **data}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Resume from a saved position; an epoch that was complete is not repeated.

        Where the data are not those of the run, or come in another order, the log says so.
        """
        self._restored = state
        self._compare_data(state)
        if state.get("group", self.sampler.group) != self.sampler.group:
            self.batches_done_elsewhere = state["samples"] // self.sampler.group

    def _compare_data(self, state: dict[str, int]) -> None:
        """Warn, once over all ranks, when the data or their order are not those of a saved position."""
        before, now = state.get("data_size", self._samples), self._samples
        seed = state.get("data_seed", self.sampler.seed)
        if (before, state.get("data_hash", self._content)) != (now, self._content):
            found = (
                f"{now} training samples, where the interrupted run had {before}"
                if before != now
                else (f"{now} training samples as the interrupted run had, but with other texts or in another order")
            )
        elif seed != self.sampler.seed:
            found = f"data.seed {self.sampler.seed}, where the interrupted run had {seed}"
        else:
            return
        if self.sampler.rank == 0:
            log.warning("resumed with other data: %s; the rest of the epoch is not what it would have been", found)
