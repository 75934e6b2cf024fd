"""Batches from worker processes, and how a run continues from the middle of an epoch.

Lightning saves and restores the position of a loader that has ``state_dict``.
"""

from __future__ import annotations

import logging
import mmap
import os
import pickle
import tempfile
import time
from collections.abc import Callable, Iterator
from multiprocessing import reduction
from typing import IO, Any
from weakref import WeakSet

import torch
from torch.utils.data import DataLoader, Dataset

from deepsynth.compat.torch import shut_down_workers
from deepsynth.data.loading.sampler import EpochBatches, EpochSampler, Place
from deepsynth.errors import UserError
from deepsynth.types import Batch

log = logging.getLogger(__name__)


def default_workers() -> int:
    """Return the number of workers for each GPU; 0 without a GPU, where they would take cores from training."""
    if not torch.cuda.is_available():
        return 0
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(8, max(1, (cores - 1) // torch.cuda.device_count()))


class Workers:
    """The worker processes of a run's loaders: starts them the same way and ends them together.

    Args:
        count: processes of each loader; 0 makes samples in the main process.
        seed: of the loaders' own generators.
        start_method: ``fork`` or ``spawn``; by default ``spawn`` where there is a GPU, which a forked process cannot
            use, and otherwise what the operating system prefers.
    """

    def __init__(self, count: int = 0, seed: int = 0, start_method: str | None = None) -> None:
        self.count = count
        self._seed = seed
        self._start_method = start_method or ("spawn" if torch.cuda.is_available() else None)
        self._loaders: WeakSet[DataLoader[Any]] = WeakSet()
        #: How often the processes were ended.
        self.times_closed = 0

    def loader(self, dataset: Dataset[Any], **kwargs: Any) -> DataLoader[Any]:
        """Return a DataLoader with these workers; ``kwargs`` are torch's."""
        spawned = self.count > 0 and self._start_method == "spawn"
        loader: DataLoader[Any] = DataLoader(
            DatasetInFile(dataset) if spawned else dataset,
            num_workers=self.count,
            persistent_workers=self.count > 0,
            pin_memory=torch.cuda.is_available(),
            worker_init_fn=initialize_worker,
            # Its own generator: an iterator draws a seed, which must not change the random state that dropout uses.
            generator=torch.Generator().manual_seed(self._seed),
            multiprocessing_context=self._start_method if self.count else None,
            **kwargs,
        )
        self._loaders.add(loader)
        return loader

    def close(self) -> None:
        """End the processes of all loaders that are still referenced, together."""
        shut_down_workers(list(self._loaders))
        self._loaders.clear()
        self.times_closed += 1


def initialize_worker(worker_id: int) -> None:
    """Limit a worker to one thread, and shield it from signals to the process group.

    There are as many workers as cores, and OpenCV and torch would each use all of them. Ctrl-C, torchrun and SLURM send
    their signals to the whole group; a worker that they end takes along the samples that the last step before the
    checkpoint needs.
    """
    if hasattr(os, "setpgrp"):
        os.setpgrp()
    torch.set_num_threads(1)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"


class DatasetInFile(Dataset[Any]):
    """A dataset that spawned workers read from a file, so that they start in parallel.

    A spawned process gets its work through a pipe of 64 KiB, which it reads after its imports. Documents do not fit, so
    each worker would wait until the one before has imported everything. The file has no name: it disappears with the
    last process that has it open, however that ends. Windows has no such files; there the workers wait.

    Args:
        dataset: any picklable dataset; workers get its state at the time when the first of them starts.
    """

    def __init__(self, dataset: Any) -> None:
        self._dataset = dataset
        self._file: IO[bytes] | None = None

    def __len__(self) -> int:
        """Return the length of the dataset."""
        return len(self._dataset)

    def __getitem__(self, key: Any) -> Any:
        """Return a sample of the dataset."""
        return self._dataset[key]

    def __getstate__(self) -> dict[str, Any]:
        """Return the file of the dataset, which is written once.

        Raises:
            UserError: when there is no room for it.
        """
        if not hasattr(reduction, "DupFd"):
            return {"dataset": self._dataset}
        if self._file is None:
            try:
                file = tempfile.TemporaryFile()  # noqa: SIM115 - open as long as this object is there
                pickle.dump(self._dataset, file)
                file.flush()
            except OSError as error:
                raise UserError(
                    f"{tempfile.gettempdir()}: the data set cannot be written for the workers: {error.strerror}; set "
                    "TMPDIR to a folder with room, or data.num_workers=0"
                ) from None
            self._file = file
        return {"file": reduction.DupFd(self._file.fileno())}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Read the dataset, in the worker."""
        self._file = None
        if "dataset" in state:
            self._dataset = state["dataset"]
            return
        descriptor = state["file"].detach()
        # Mapped: all workers share one position in the file, and read at the same time.
        with mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ) as content:
            self._dataset = pickle.loads(content)
        os.close(descriptor)


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

    def _take(self, place: Place) -> Iterator[Batch]:
        """Yield the batches from a place to the end of its epoch."""
        if self._ready != (place, self._workers.times_closed):
            self._plan.place = place
            start = time.perf_counter()
            self._running = iter(self._batches)
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
