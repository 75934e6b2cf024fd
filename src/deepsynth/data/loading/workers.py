"""Processes that render beside the one that trains: how many, and how each behaves."""

from __future__ import annotations

import mmap
import os
import pickle
import tempfile
from multiprocessing import reduction
from typing import IO, Any

import torch
from torch.utils.data import Dataset


def default_workers() -> int:
    """Return how many processes render for one GPU: none where there is no GPU, whose cores would be taken away."""
    if not torch.cuda.is_available():
        return 0
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(8, max(1, (cores - 1) // torch.cuda.device_count()))


def quiet_worker(worker_id: int) -> None:
    """Keep a worker to one thread: there are as many workers as cores, and OpenCV and torch would each take all.

    It also leaves the group of its process: Ctrl-C, torchrun and SLURM send their signals to the whole group, and a
    worker that ends of them takes the samples along that the last step before the checkpoint needs.
    """
    if hasattr(os, "setpgrp"):
        os.setpgrp()
    torch.set_num_threads(1)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"


class DatasetByFile(Dataset[Any]):
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
