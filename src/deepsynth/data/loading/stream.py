"""The samples of ``predict``, one after the other: however many documents there are, few are in memory.

Prediction goes through the documents once, in order: the main process walks the source, lays a document's pages out and
hands (document, page) to the workers, a few batches ahead of the model. Memory does not grow with a source that
streams; of others the ids are kept, which must be unique. Training shuffles, so it knows all documents before its first
step, unless they stream: :mod:`deepsynth.data.loading.training_stream`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from torch.utils.data import Dataset

from deepsynth.data.loading.entries import OnError
from deepsynth.data.loading.workers import Workers
from deepsynth.data.pipeline import Pipeline
from deepsynth.data.processing.collator import Collator
from deepsynth.data.shards import Shard
from deepsynth.data.sources.base import Source, checked_documents
from deepsynth.errors import UserError
from deepsynth.io.text import counted
from deepsynth.types import Batch, Document, Sample, Task

#: Number of documents, and a hash of their ids in their order.
Fingerprint = tuple[int, str]


class Key(NamedTuple):
    """Key of a sample: a page of a document, or (``None``) all of its pages, as they are in an epoch."""

    document: Document
    number: int | None
    epoch: int = 0


class Fingerprinted:
    """Documents that are counted and hashed while they are iterated over.

    Args:
        documents: iterated over once.
    """

    def __init__(self, documents: Iterator[Document]) -> None:
        self._documents = documents
        self._hash = hashlib.sha256()
        self._count = 0

    def __iter__(self) -> Iterator[Document]:
        """Yield the documents."""
        for document in self._documents:
            self._count += 1
            self._hash.update(document.id.encode("utf-8", "backslashreplace") + b"\n")
            yield document

    @property
    def fingerprint(self) -> Fingerprint:
        """Fingerprint of the documents so far."""
        return self._count, self._hash.hexdigest()[:16]


class Skipped(NamedTuple):
    """What gives no sample, and why."""

    place: str
    reason: str


@dataclass(frozen=True)
class PagesOnRequest(Dataset[Sample | Skipped | None]):
    """The dataset of a stream's workers: a sample by its key (document, page).

    Attributes:
        pipeline: makes samples.
        on_error: what to do with pages that cannot be made: raise, or return why.
    """

    pipeline: Pipeline
    on_error: OnError = "raise"

    def __getitem__(self, key: Key) -> Sample | Skipped | None:
        """Return the sample, ``None`` if it exceeds the token budget and such samples are to be dropped."""
        document, number, epoch = key
        try:
            return self.pipeline.sample(document, number, epoch)
        except UserError as error:
            if self.on_error == "raise":
                raise
            return Skipped(document.id if number is None else f"{document.id}#{number}", str(error))


class PageStream:
    """Keys of this rank's samples: one per page, or one per document that is one sample.

    Document k belongs to the part k modulo their number, so that a rank lays out only its own documents.

    Args:
        source: a source, or a list of documents that have been checked.
        pipeline: makes samples of a document.
        part: what of the source is read here; all by default.
        on_error: what to do with rows that are no documents, and pages that cannot be made.
        need_text: whether a scan whose text is unknown is a mistake too.

    Attributes:
        own_documents: number of this rank's documents, once :meth:`check` has counted them.
        own_pages: number of its pages, where that is known without laying them out.
    """

    def __init__(
        self,
        source: Source | Sequence[Document],
        pipeline: Pipeline,
        part: Shard | None = None,
        on_error: OnError = "raise",
        *,
        need_text: bool = False,
    ) -> None:
        self.source = source
        self.pipeline = pipeline
        self.part = part or Shard()
        self.on_error: OnError = on_error
        self.need_text = need_text
        self.own_documents: int | None = None
        self.own_pages: int | None = None

    @property
    def streams(self) -> bool:
        """Whether the source is walked only once, because that takes long."""
        return isinstance(self.source, Source) and self.source.streaming

    @property
    def task(self) -> Task:
        """The task of all documents, taken from the first."""
        return next(self.documents()).task

    def documents(self, skipped: list[Skipped] | None = None) -> Iterator[Document]:
        """Yield the checked documents of all ranks; what is passed over is added to ``skipped``."""
        if not isinstance(self.source, Source):
            return iter(self.source)

        def skip(place: str, error: UserError) -> None:
            if skipped is not None:
                skipped.append(Skipped(place, str(error)))

        return checked_documents(self.source, need_text=self.need_text, skip=skip if self.on_error == "skip" else None)

    def check(self) -> Fingerprint:
        """Walk the source once, count this rank's documents and pages, and return the fingerprint of all.

        Raises:
            UserError: for a row that is not a document, documents that do not belong together, or fewer of them than
                ranks.
        """
        walked = Fingerprinted(self.documents())
        pages: list[int | None] = [
            self._known_pages(document)
            for position, document in enumerate(walked)
            if position % self.part.count == self.part.index
        ]
        count, _ = walked.fingerprint
        if count < self.part.count:
            raise UserError(f"{self.source} has {counted(count, 'document')}, fewer than processes")
        self.own_documents = len(pages)
        self.own_pages = None if None in pages else sum(filter(None, pages))
        return walked.fingerprint

    def _known_pages(self, document: Document) -> int | None:
        if document.is_whole:
            return 1
        return None if document.image is None else self.pipeline.count_pages(document)

    def keys(self, documents: Fingerprinted, skipped: list[Skipped]) -> Iterator[Key]:
        """Yield the keys of this rank's samples, in the source's order; what is passed over is added to ``skipped``."""
        for position, document in enumerate(documents):
            if position % self.part.count != self.part.index:
                continue
            if document.is_whole:
                yield Key(document, None)
                continue
            try:
                count = self.pipeline.count_pages(document)
            except UserError as error:
                if self.on_error == "raise":
                    raise
                skipped.append(Skipped(document.id, str(error)))
                continue
            yield from (Key(document, number) for number in range(count))


@dataclass(frozen=True)
class CollatorOfKept:
    """A collator that leaves out samples that were dropped or skipped; a batch without any others is ``None``."""

    collator: Collator

    def __call__(self, samples: Sequence[Sample | Skipped | None]) -> tuple[Batch | None, list[Skipped]]:
        """Return the batch, and what was skipped."""
        kept = [sample for sample in samples if isinstance(sample, Sample)]
        return self.collator(kept) if kept else None, [one for one in samples if isinstance(one, Skipped)]


class StreamSampler:
    """The keys of a stream's samples in order, as torch's DataLoader takes them; each iteration walks the source anew.

    Attributes:
        fingerprint: of the documents of all ranks that the last iteration came by.
        count: number of keys that the last iteration gave.
        skipped: rows and documents that the last iteration passed over.
    """

    def __init__(self, stream: PageStream) -> None:
        self._stream = stream
        self._documents = Fingerprinted(iter(()))
        self.count = 0
        self.skipped: list[Skipped] = []

    @property
    def fingerprint(self) -> Fingerprint:
        """Fingerprint of the documents of all ranks that the last iteration came by."""
        return self._documents.fingerprint

    def __iter__(self) -> Iterator[Key]:
        """Yield the keys of this rank's samples."""
        rows: list[Skipped] = []
        self.skipped = rows if self._stream.part.index == 0 else []  # every rank passes over the same rows
        self._documents = Fingerprinted(self._stream.documents(rows))
        self.count = 0
        for key in self._stream.keys(self._documents, self.skipped):
            self.count += 1
            yield key


class StreamLoader:
    """Batches of a stream, in its order; their number is not known in advance.

    Args:
        stream: gives the samples.
        batch_size: pages of a batch.
        collator: joins samples into batches.
        at_end: called after the last batch with the fingerprint of the source and the numbers of this rank's samples
            that were given and dropped.
        at_skipped: called with what was skipped, also when the iteration ends early.
        workers: make the samples; by default the main process does.
    """

    #: Lightning looks for it wherever there is a sampler.
    batch_sampler: None = None

    def __init__(
        self,
        stream: PageStream,
        batch_size: int,
        collator: Collator,
        at_end: Callable[[Fingerprint, int, int], None],
        at_skipped: Callable[[Sequence[Skipped]], None],
        workers: Workers | None = None,
    ) -> None:
        self._at_end = at_end
        self._at_skipped = at_skipped
        self._sampler = StreamSampler(stream)
        self._batches = (workers or Workers()).loader(
            PagesOnRequest(stream.pipeline, stream.on_error),
            batch_size=batch_size,
            sampler=self._sampler,
            collate_fn=CollatorOfKept(collator),
        )

    def __iter__(self) -> Iterator[Batch]:
        """Yield the batches."""
        given, skipped = 0, list[Skipped]()
        try:
            for batch, left_out in self._batches:
                skipped += left_out
                if batch is not None:
                    given += len(batch)
                    yield batch
        finally:
            self._at_skipped([*self._sampler.skipped, *skipped])
        self._at_end(self._sampler.fingerprint, given, self._sampler.count - given - len(skipped))
