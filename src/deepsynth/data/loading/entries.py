"""Which samples the documents of a data set have, found by all cores where it takes long."""

from __future__ import annotations

import multiprocessing
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from itertools import islice
from typing import Literal

import torch

from deepsynth.data.loading.server import METHOD
from deepsynth.data.loading.workers import initialize_worker
from deepsynth.data.pipeline import Pipeline
from deepsynth.errors import UserError
from deepsynth.profiling.cores import available_cores
from deepsynth.types import Document

OnError = Literal["raise", "skip"]

#: Seconds after which other processes help, if they save more than it takes to start them: they are forked on Linux,
#: and import for seconds elsewhere.
PATIENCE_S = 0.5 if sys.platform == "linux" else 2.0
#: Documents that a process gets at a time.
_CHUNK = 16


@dataclass
class Entries:
    """The samples of one document.

    Attributes:
        numbers: of its pages; ``None`` for a document that is one sample.
        dropped: samples beyond the token budget.
        skipped: ids of what gives no sample, and why.
    """

    numbers: list[int | None] = field(default_factory=list)
    dropped: int = 0
    skipped: list[tuple[str, str]] = field(default_factory=list)


def find_entries(documents: Sequence[Document], pipeline: Pipeline, on_error: OnError) -> Iterator[Entries]:
    """Yield the samples of each document, in order.

    Pages are laid out for it, or made once where not all of them can be used.

    Args:
        documents: of one task.
        pipeline: makes samples of a document.
        on_error: whether a document or a page that gives no sample is an error, or is skipped.

    Raises:
        UserError: for the first such document or page, with ``raise``.
    """
    start = time.perf_counter()
    done = 0
    processes = available_cores() // max(1, torch.cuda.device_count())
    for document in documents:
        spent = time.perf_counter() - start
        if done and processes > 1 and spent > PATIENCE_S and spent / done * (len(documents) - done) > PATIENCE_S:
            break
        yield entries_of(document, pipeline, on_error)
        done += 1
    if done == len(documents):
        return
    context = multiprocessing.get_context(METHOD if torch.cuda.is_available() else None)
    with closing(context.Pool(processes, _begin, (pipeline, on_error))) as pool:
        try:
            yield from pool.imap(_work, islice(documents, done, None), chunksize=_CHUNK)
        except BaseException:
            pool.terminate()
            raise


def entries_of(document: Document, pipeline: Pipeline, on_error: OnError) -> Entries:
    """Return the samples of a document; see :func:`find_entries`."""
    found = Entries()
    try:
        numbers: list[int | None] = [None] if document.is_whole else list(range(pipeline.count_pages(document)))
    except UserError as error:
        if on_error == "raise":
            raise
        found.skipped.append((document.id, str(error)))
        return found
    if not pipeline.processor.drops and on_error == "raise":
        found.numbers = numbers
        return found
    for number in numbers:
        try:
            if any(each.sample(document, number, 0) is None for each in pipeline.by_target()):
                found.dropped += 1
            else:
                found.numbers.append(number)
        except UserError as error:
            if on_error == "raise":
                raise
            found.skipped.append((document.id if number is None else f"{document.id}#{number}", str(error)))
    return found


_settings: tuple[Pipeline, OnError]


def _begin(pipeline: Pipeline, on_error: OnError) -> None:
    global _settings
    initialize_worker(0)
    _settings = pipeline, on_error


def _work(document: Document) -> Entries:
    return entries_of(document, *_settings)
