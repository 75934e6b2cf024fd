"""Processes that work together, forked: they start in a moment, and must not have to differentiate anything."""

from __future__ import annotations

import faulthandler
import multiprocessing
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

_PATIENCE_S = 60


def in_ranks(function: Callable[[], Any], count: int, folder: Path) -> list[Any]:
    """Return what a function returns in each of several processes, by rank; an error of one is raised here."""
    context = multiprocessing.get_context("fork")
    pipes = [context.Pipe() for _ in range(count)]
    workers = [
        context.Process(target=_work, args=(function, rank, count, folder / "store", theirs))
        for rank, (_, theirs) in enumerate(pipes)
    ]
    for worker in workers:
        worker.start()
    try:
        answers = [mine.recv() for mine, _ in pipes if mine.poll(_PATIENCE_S)]
    finally:
        for worker in workers:
            worker.kill()
            worker.join()
    for answer in answers:
        if isinstance(answer, BaseException):
            raise answer
    assert len(answers) == count, "a process waits for ever"
    return answers


def _work(function: Callable[[], Any], rank: int, count: int, store: Path, pipe: Connection) -> None:
    torch.set_num_threads(1)  # those of the parent are not there, and a product of several would wait for them
    faulthandler.dump_traceback_later(_PATIENCE_S - 10)  # where it waits, if it does
    try:
        dist.init_process_group("gloo", store=dist.FileStore(str(store), count), rank=rank, world_size=count)
        pipe.send(function())
    except BaseException as error:  # noqa: BLE001 - raised again by the test
        pipe.send(error)
