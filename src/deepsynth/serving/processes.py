"""Pages are prepared in processes of their own beside a GPU, which would wait for a thread that holds Python's lock."""

from __future__ import annotations

import logging
import multiprocessing
import os
import threading
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import fields, replace
from typing import Any

import numpy as np
import torch

from deepsynth.data.loading.server import METHOD, start_server
from deepsynth.data.loading.workers import initialize_worker
from deepsynth.serving.jobs import Job, Limits, RequestError
from deepsynth.serving.models import ModelSettings, processor_of
from deepsynth.serving.preparation import Preparation, PreparedPage
from deepsynth.types import Sample

log = logging.getLogger(__name__)

#: What makes samples in one of the processes.
_preparation: Preparation | None = None


class PreparationProcesses:
    """A :class:`Preparation` that works in other processes, and may be called from any thread.

    Args:
        settings: of the models.
        limits: of a request.
        count: of the processes.
    """

    def __init__(self, settings: ModelSettings, limits: Limits, count: int) -> None:
        if METHOD == "forkserver":
            start_server()
        self._settings, self._limits, self._count = settings, limits, count
        self._lock = threading.Lock()
        self._pool = self._start()

    def _start(self) -> ProcessPoolExecutor:
        """Return processes that are being started."""
        context, own = multiprocessing.get_context(METHOD), (self._settings, self._limits)
        pool = ProcessPoolExecutor(self._count, context, initializer=_begin, initargs=own)
        for _ in range(self._count):  # each starts with a task that no other is idle for
            pool.submit(os.getpid)
        return pool

    def __call__(self, job: Job, prompt: str | None, index: int) -> PreparedPage:
        """Do as :meth:`Preparation.__call__`.

        Raises:
            RequestError: as there; 503 when a process has died, after which there are new ones.
        """
        pool = self._pool
        try:
            found = pool.submit(_prepare, job, prompt, index).result()
        except BrokenProcessPool:
            with self._lock:
                if pool is self._pool:
                    log.exception("a process that prepares pages has died; new ones are started")
                    self._pool = self._start()
            raise RequestError(503, "a process of the service has died; ask again") from None
        return replace(found, sample=_with(found.sample, torch.from_numpy))

    def close(self) -> None:
        """End the processes."""
        self._pool.shutdown(cancel_futures=True)


def _begin(settings: ModelSettings, limits: Limits) -> None:
    """Load what a process needs."""
    global _preparation
    initialize_worker(0)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    processor = processor_of(settings)
    processor.longest_side_px  # noqa: B018  loads the rest
    _preparation = Preparation(processor, limits)


def _end_with_parent() -> None:
    """End this process with the one that wants its pages, which may have been killed."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(0)


def _prepare(job: Job, prompt: str | None, index: int) -> PreparedPage:
    assert _preparation is not None
    found = _preparation(job, prompt, index)
    # As arrays, which travel through a pipe: torch sends a file for each tensor, which others have to fetch.
    return replace(found, sample=_with(found.sample, torch.Tensor.numpy))


def _with(sample: Sample, change: Callable[[Any], Any]) -> Sample:
    """Return a sample whose tensors, or arrays in their places, are changed."""
    changed: dict[str, Any] = {}
    for each in fields(sample):
        value = getattr(sample, each.name)
        if isinstance(value, dict):
            changed[each.name] = {name: change(one) for name, one in value.items()}
        elif isinstance(value, torch.Tensor | np.ndarray):
            changed[each.name] = change(value)
    return replace(sample, **changed)
