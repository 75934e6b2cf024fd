"""The processes that make samples beside training: how many, how they start, how they end."""

from __future__ import annotations

import gc
import logging
import math
import mmap
import os
import pickle
import statistics
import tempfile
from collections.abc import Sequence
from multiprocessing import reduction
from typing import IO, Any, Literal
from weakref import WeakSet

import cv2
import torch
from torch.utils.data import DataLoader, Dataset

from deepsynth.compat.torch import shut_down_workers
from deepsynth.data.loading.server import METHOD, start_server
from deepsynth.errors import UserError
from deepsynth.profiling.cores import available_cores

log = logging.getLogger(__name__)

#: Samples/s that the workers of a GPU shall be able to make. The fastest measured run takes 92 (docs/results); a core
#: that shares a machine with others makes fewer than one alone.
_RATE_PER_S = 200
#: Workers of a GPU where it is not known what a sample costs.
_USUAL = 8
#: New objects before a search for garbage; Python's own 700 are those of one page.
_NEW_OBJECTS = 20_000


def count_workers(seconds: Sequence[float] = ()) -> int:
    """Return the number of workers for each GPU; 0 without a GPU, where they would take cores from training.

    Args:
        seconds: that samples took to make, in turn. The first ones load fonts and more, and do not count.
    """
    if not torch.cuda.is_available():
        return 0
    most = max(1, (available_cores() - 1) // torch.cuda.device_count())
    if not seconds:
        return min(_USUAL, most)
    cost = statistics.median(seconds[len(seconds) // 2 :])
    return min(max(2, math.ceil(cost * _RATE_PER_S)), most)


class Workers:
    """The worker processes of a run's loaders: starts them the same way and ends them together.

    Args:
        count: processes of each loader; 0 makes samples in the main process, ``auto`` is :func:`count_workers`.
        seed: of the loaders' own generators.
        start_method: ``fork``, ``forkserver`` or ``spawn``; by default, where there is a GPU, which a forked process
            cannot use, ``forkserver`` (``spawn`` on Windows), and otherwise what the operating system prefers.
    """

    def __init__(self, count: int | Literal["auto"] = 0, seed: int = 0, start_method: str | None = None) -> None:
        self._chosen = count == "auto"
        self.count: int = count_workers() if count == "auto" else count
        self._seed = seed
        self._start_method = start_method or (METHOD if torch.cuda.is_available() else None)
        if self.count and self._start_method == "forkserver":
            start_server()
        self._loaders: WeakSet[DataLoader[Any]] = WeakSet()
        #: How often the processes were ended.
        self.times_closed = 0

    def choose_count(self, seconds: Sequence[float]) -> None:
        """Choose the number of processes by the seconds that samples took to make, unless it was given."""
        if not self._chosen or not seconds:
            return
        self.count = count_workers(seconds)
        if self.count:
            cost = statistics.median(seconds[len(seconds) // 2 :])
            log.info(
                "data: %d workers, as a sample takes %.0f ms on one of %d cores",
                self.count,
                1000 * cost,
                available_cores(),
            )

    def loader(self, dataset: Dataset[Any], **kwargs: Any) -> DataLoader[Any]:
        """Return a DataLoader with these workers; ``kwargs`` are torch's."""
        spawned = self.count > 0 and self._start_method in ("spawn", "forkserver")
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
    collect_seldom()
    if hasattr(os, "setpgrp"):
        os.setpgrp()
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"


def collect_seldom() -> None:
    """Look for garbage seldom, and not in what was imported.

    A page takes thousands of objects, which all are freed with their last reference: a search finds nothing, and took a
    tenth of the time in which a page with tables is drawn.
    """
    gc.freeze()
    gc.set_threshold(_NEW_OBJECTS)


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
