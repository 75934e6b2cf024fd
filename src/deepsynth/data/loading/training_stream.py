"""Training on a source that streams: few of its documents are in memory, however many there are.

What needs all documents cannot be had: samples are mixed among the next :data:`MIXED` alone, an epoch's length is known
at its end, and two equal ids are found only near each other. The order follows from the seed and the epoch: a run that
goes on from a checkpoint reads the source up to there, makes nothing of it, and then gives what would have come.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING

from deepsynth.data.loading.split_reader import SplitReader, SplitSource
from deepsynth.data.loading.stream import CollatorOfKept, Fingerprinted, Key, PagesOnRequest, PageStream, Skipped
from deepsynth.data.loading.workers import Workers
from deepsynth.data.pipeline import Pipeline
from deepsynth.data.processing.collator import Collator
from deepsynth.data.sources.base import KEPT_IDS
from deepsynth.errors import UserError
from deepsynth.types import Batch

if TYPE_CHECKING:
    from lightning.pytorch import Trainer

log = logging.getLogger(__name__)

#: Samples among which a stream is mixed: they wait in the main process, with the texts or the files of their documents.
MIXED = 1000


def mixed(keys: Iterable[Key], size: int, rng: random.Random) -> Iterator[Key]:
    """Yield keys in another order: each time one of the next ``size``."""
    waiting: list[Key] = []
    for key in keys:
        if len(waiting) < size:
            waiting.append(key)
            continue
        place = rng.randrange(size)
        yield waiting[place]
        waiting[place] = key
    rng.shuffle(waiting)
    yield from waiting


class MixedStream:
    """The keys of this rank's training samples, epoch by epoch, as torch's DataLoader takes them.

    All ranks walk the same documents in the same order and take turns, so that each has equally many samples; the last
    few, fewer than ranks, are left out.

    Args:
        stream: of one rank, whose pages are those of all.
        seed: of the order.
        rank: rank of this process.
        num_replicas: number of ranks that take turns.

    Attributes:
        epoch: number of the epoch that the next iteration gives.
        begin: number of its samples that are passed over, of all ranks.
        given: number of keys that the last iteration gave.
        skipped: rows and documents that the last iteration passed over.
    """

    def __init__(self, stream: PageStream, seed: int, rank: int = 0, num_replicas: int = 1) -> None:
        self.stream = stream
        self.seed = seed
        self.rank = rank
        self.num_replicas = num_replicas
        self.epoch = self.begin = self.given = 0
        self.skipped: list[Skipped] = []

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch, as Lightning does when one begins."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[Key]:
        """Yield the keys of this rank."""
        self.given, self.skipped = 0, []
        documents = Fingerprinted(self.stream.documents(self.skipped))
        keys = (key._replace(epoch=self.epoch) for key in self.stream.keys(documents, self.skipped))
        order = mixed(keys, MIXED, random.Random(self.seed * 1_000_003 + self.epoch))
        order = islice(order, self.begin, None)
        for turn in zip(*[order] * self.num_replicas, strict=False):
            self.given += 1
            yield turn[self.rank]


def training_stream(reader: SplitReader, pipeline: Pipeline, trainer: Trainer | None, *, grouped: bool) -> MixedStream:
    """Return the keys of the training samples of a source that streams, and log what it cannot promise.

    Args:
        reader: knows the source, and how it is divided.
        pipeline: makes samples.
        trainer: knows the ranks.
        grouped: ``data.group_by_length``.

    Raises:
        UserError: for settings that need all documents, or a validation whose documents have no limit.
    """
    source = reader.source
    overfit: object = getattr(trainer, "overfit_batches", 0)
    for key, value in (("data.group_by_length", grouped), ("trainer.overfit_batches", overfit)):
        if value:
            raise UserError(
                f"{key} is {value}, which needs all documents in advance, but {source} streams; turn it off, or set "
                "data.max_train_documents"
            )
    if reader.splitter.val_fraction and reader.streams("val"):
        raise UserError(
            f"data.max_eval_documents is not set, and {source} streams: it would be read to its end for validation; "
            "set it, or give data.val_source, or data.val_fraction=0"
        )
    log.info(
        "train: %s streams: samples are mixed among the next %d, equal ids are found within %d documents, and the "
        "length of an epoch is not known; set trainer.max_steps",
        *(source, MIXED, KEPT_IDS),
    )
    rank, ranks = (trainer.global_rank, trainer.world_size) if trainer else (0, 1)
    split = SplitSource(source, reader.splitter, "train")
    stream = PageStream(split, pipeline, on_error=reader.on_error, need_text=True)
    return MixedStream(stream, pipeline.seed, rank, ranks)


class StreamTrainingLoader:
    """Batches of the epochs of a stream; how many an epoch has is not known in advance.

    A run resumes in the middle of an epoch, also with another batch size or number of ranks. Lightning fetches a batch
    in advance where it does not know the last one, so a batch counts as done when the next one is asked for.

    Args:
        sampler: gives the keys.
        batch_size: samples of a batch.
        collator: joins samples into batches.
        at_skipped: called with what an epoch has skipped.
        workers: make the samples; by default the main process does.
    """

    #: Lightning looks for it wherever there is a sampler.
    batch_sampler: None = None

    def __init__(
        self,
        sampler: MixedStream,
        batch_size: int,
        collator: Collator,
        at_skipped: Callable[[Sequence[Skipped]], None],
        workers: Workers | None = None,
    ) -> None:
        self.sampler = sampler
        self._batch_size = batch_size
        self._at_skipped = at_skipped
        self._batches = (workers or Workers()).loader(
            PagesOnRequest(sampler.stream.pipeline, sampler.stream.on_error),
            batch_size=batch_size,
            sampler=sampler,
            collate_fn=CollatorOfKept(collator),
        )
        self._samples_done = 0
        self._complete = False
        self._restored: dict[str, int] | None = None
        #: Seconds that the training loop has waited for batches, since the loader was made.
        self.waited_s = 0.0

    def __iter__(self) -> Iterator[Batch]:
        """Yield the batches of an epoch; after ``load_state_dict``, first the rest of the interrupted one."""
        sampler, place, self._restored = self.sampler, self._restored, None
        self._samples_done, self._complete = 0, False
        if place is not None and not place["complete"]:
            sampler.set_epoch(place["epoch"])
            self._samples_done = place["samples"]
        else:  # Lightning asks for a batch in advance, and tells a run that goes on its epoch only after that
            sampler.set_epoch(max(sampler.epoch, place["epoch"] + 1 if place else 0))
        sampler.begin = begin = self._samples_done
        skipped: list[Skipped] = []
        batches = iter(self._batches)
        for number in range(1, 1 << 62):
            start = time.perf_counter()
            batch, left_out = next(batches, (None, None))
            self.waited_s += time.perf_counter() - start
            if left_out is None:
                break
            skipped += left_out
            if batch is None and sampler.num_replicas > 1:
                raise UserError(
                    "no sample of a batch can be used, and other processes would wait for it; fix the data, or raise "
                    "data.batch_size"
                )
            if batch is not None:
                yield batch
            self._samples_done = begin + min(number * self._batch_size, sampler.given) * sampler.num_replicas
        self._complete = True
        if not sampler.given and not begin:
            raise UserError(f"{sampler.stream.source} gave no training sample")
        if sampler.skipped or skipped:
            self._at_skipped([*sampler.skipped, *skipped])

    def state_dict(self) -> dict[str, int]:
        """Return the epoch, the number of its samples that are done over all ranks, and whether these are all."""
        place = {"epoch": self.sampler.epoch, "samples": self._samples_done, "complete": int(self._complete)}
        return {**place, "data_seed": self.sampler.seed}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Resume from a saved position; an epoch that was complete is not repeated."""
        if "complete" not in state:
            raise UserError(
                "the interrupted run knew all of its documents, and data.source streams now; resume with the same data "
                "settings"
            )
        self._restored = state
