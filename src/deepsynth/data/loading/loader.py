"""Batches from worker processes, and how a run continues from the middle of an epoch.

Lightning saves and restores the position of a loader that has ``state_dict``.
"""

from __future__ import annotations

import mmap
import os
import pickle
import tempfile
from collections.abc import Iterator
from multiprocessing import reduction
from typing import IO, Any
from weakref import WeakSet

import torch
from torch.utils.data import DataLoader, Dataset

from deepsynth.compat.torch import shut_down_workers
from deepsynth.data.loading.sampler import EpochSampler
from deepsynth.types import Batch


def default_workers() -> int:
    """Return how many processes render for one GPU: none where there is no GPU, whose cores would be taken away."""
    if not torch.cuda.is_available():
        return 0
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(8, max(1, (cores - 1) // torch.cuda.device_count()))


class Workers:
    """The worker processes of a run's loaders: how they start, and that they end.

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

    def loader(self, dataset: Dataset[Any], **kwargs: Any) -> DataLoader[Any]:
        """Return a DataLoader over these workers; ``kwargs`` are torch's."""
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
        """End the processes of all loaders that are still there."""
        for loader in list(self._loaders):
            shut_down_workers(loader)
        self._loaders.clear()


def initialize_worker(worker_id: int) -> None:
    """Keep a worker to one thread: there are as many workers as cores, and OpenCV and torch would each take all.

    It also leaves the group of its process: Ctrl-C, torchrun and SLURM send their signals to the whole group, and a
    worker that ends of them takes the samples along that the last step before the checkpoint needs.
    """
    if hasattr(os, "setpgrp"):
        os.setpgrp()
    torch.set_num_threads(1)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"


class DatasetInFile(Dataset[Any]):
    """A dataset that spawned workers read from a file, so that they start side by side.

    What a spawned process is to do goes through a pipe of 64 KiB, which it reads after its imports. With documents in
    there, each worker waits until the one before has imported everything. The file has no name: it goes with the last
    process that has it open, however that ends. Windows has no such files, and its workers wait.

    Args:
        dataset: what it is, which plain pickle can write; workers have it as it was when the first of them was started.
    """

    def __init__(self, dataset: Any) -> None:
        self._dataset = dataset
        self._file: IO[bytes] | None = None

    def __len__(self) -> int:
        """Return the dataset's length."""
        return len(self._dataset)

    def __getitem__(self, key: Any) -> Any:
        """Return the dataset's sample."""
        return self._dataset[key]

    def __getstate__(self) -> dict[str, Any]:
        """Return where the dataset is, which is written once."""
        if not hasattr(reduction, "DupFd"):
            return {"dataset": self._dataset}
        if self._file is None:
            file = tempfile.TemporaryFile()  # noqa: SIM115 - open as long as this object is there
            pickle.dump(self._dataset, file)
            file.flush()
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
    """Batches of an epoch, and how many of its samples have been handed out.

    The place is counted in samples over all ranks, so a run may go on with another batch size or number of ranks; an
    epoch of batches of alike lengths ends in the order in which it was begun.
    What workers have prefetched does not count: a restored loader makes it again.

    It holds a DataLoader and is none itself: Lightning makes DataLoaders anew with samplers of its own, for prediction
    and for several ranks, and knows nothing of (epoch, index).

    Args:
        dataset: gives the sample of (epoch, index).
        sampler: gives the (epoch, index) of this rank.
        workers: make the samples; by default the main process does.
        kwargs: for torch's DataLoader: ``batch_size`` and ``collate_fn``.
    """

    #: Lightning looks for it wherever there is a sampler.
    batch_sampler: None = None

    def __init__(self, dataset: Any, sampler: EpochSampler, workers: Workers | None = None, **kwargs: Any) -> None:
        self.sampler = sampler
        self._batches = (workers or Workers()).loader(dataset, sampler=sampler, **kwargs)
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

    def state_dict(self) -> dict[str, int]:
        """Return the epoch and the number of its samples handed out, over all ranks."""
        return {"epoch": self.sampler.epoch, "samples": self._samples_done, "group": self._group}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on from a saved place; a saved epoch that was complete is not begun again."""
        self._restored = state
        if state.get("group", self.sampler.group) != self.sampler.group:
            self.batches_done_elsewhere = state["samples"] // self.sampler.group
