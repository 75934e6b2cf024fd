"""The samples of ``predict``, one after the other: however many documents there are, few are in memory.

Training shuffles, so it has to know all documents before its first step. Prediction goes through them once, in order:
the main process walks the source, lays a document's pages out and hands (document, page) to the workers, a few batches
ahead of the model. Memory does not grow with the source, except for the ids, which must be unique.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from torch.utils.data import Dataset

from deepsynth.data.loading.loader import Workers
from deepsynth.data.pipeline import Pipeline
from deepsynth.data.processing.collator import Collator
from deepsynth.data.sources.base import Source, checked_documents
from deepsynth.types import Batch, Document, Sample, Task

#: Number of documents, and a hash of their ids in their order.
Fingerprint = tuple[int, str]
#: Key of a sample: a page of a document, or (``None``) all of its pages.
Key = tuple[Document, int | None]


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


@dataclass(frozen=True)
class PagesOnRequest(Dataset[Sample | None]):
    """The dataset of a stream's workers: a sample by its key (document, page)."""

    pipeline: Pipeline

    def __getitem__(self, key: Key) -> Sample | None:
        """Return the sample, ``None`` if it exceeds the token budget and such samples are to be dropped."""
        document, number = key
        return self.pipeline.sample(document, number, 0)


class PageStream:
    """Keys of this rank's samples: one per page, or one per document that is one sample.

    Document k belongs to rank k modulo the number of ranks, so that a rank lays out only its own documents.

    Args:
        source: a source, or a list of documents that have been checked.
        pipeline: makes samples of a document.
        rank: rank of this process.
        num_replicas: number of ranks that share the source.
    """

    def __init__(
        self, source: Source | Sequence[Document], pipeline: Pipeline, rank: int = 0, num_replicas: int = 1
    ) -> None:
        self.source = source
        self.pipeline = pipeline
        self.rank = rank
        self.num_replicas = num_replicas

    @property
    def streams(self) -> bool:
        """Whether the source is walked only once, because that takes long."""
        return isinstance(self.source, Source) and self.source.streaming

    @property
    def task(self) -> Task:
        """The task of all documents, taken from the first."""
        return next(self.documents()).task

    def documents(self) -> Iterator[Document]:
        """Yield the checked documents of all ranks."""
        return checked_documents(self.source, need_text=False) if isinstance(self.source, Source) else iter(self.source)

    def check(self) -> Fingerprint:
        """Walk the source once and return its fingerprint.

        Raises:
            UserError: for a row that is not a document, or documents that do not belong together.
        """
        walked = Fingerprinted(self.documents())
        for _ in walked:
            pass
        return walked.fingerprint

    def keys(self, documents: Fingerprinted) -> Iterator[Key]:
        """Yield the keys of this rank's samples, in the source's order."""
        for position, document in enumerate(documents):
            if position % self.num_replicas != self.rank:
                continue
            if document.is_whole:
                yield document, None
            else:
                yield from ((document, number) for number in range(self.pipeline.count_pages(document)))


@dataclass(frozen=True)
class CollatorOfKept:
    """A collator that leaves dropped samples out; a batch without any others is ``None``."""

    collator: Collator

    def __call__(self, samples: Sequence[Sample | None]) -> Batch | None:
        """Return the batch."""
        kept = [sample for sample in samples if sample is not None]
        return self.collator(kept) if kept else None


class StreamSampler:
    """The keys of a stream's samples in order, as torch's DataLoader takes them; each iteration walks the source anew.

    Attributes:
        fingerprint: of the documents of all ranks that the last iteration came by.
        count: number of keys that the last iteration gave.
    """

    def __init__(self, stream: PageStream) -> None:
        self._stream = stream
        self._documents = Fingerprinted(iter(()))
        self.count = 0

    @property
    def fingerprint(self) -> Fingerprint:
        """Fingerprint of the documents of all ranks that the last iteration came by."""
        return self._documents.fingerprint

    def __iter__(self) -> Iterator[Key]:
        """Yield the keys of this rank's samples."""
        self._documents = Fingerprinted(self._stream.documents())
        self.count = 0
        for key in self._stream.keys(self._documents):
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
        workers: Workers | None = None,
    ) -> None:
        self._at_end = at_end
        self._sampler = StreamSampler(stream)
        self._batches = (workers or Workers()).loader(
            PagesOnRequest(stream.pipeline),
            batch_size=batch_size,
            sampler=self._sampler,
            collate_fn=CollatorOfKept(collator),
        )

    def __iter__(self) -> Iterator[Batch]:
        """Yield the batches."""
        given = 0
        for batch in self._batches:
            if batch is not None:
                given += len(batch)
                yield batch
        self._at_end(self._sampler.fingerprint, given, self._sampler.count - given)
