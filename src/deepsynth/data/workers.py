"""Processes that render beside the one that trains: how many, and how each behaves."""

from __future__ import annotations

import os

import torch


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
