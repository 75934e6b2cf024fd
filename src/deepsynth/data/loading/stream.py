"""The documents of ``predict``, one after the other: however many there are, few are in memory.

Training shuffles, so it has to know all documents before its first step. Reading goes through them once, in order: the
process that reads walks the source, lays a document's pages out and hands (document, page) to the workers, a few
batches ahead of what is read. Memory does not grow with the source, but for the ids, no two of which may be the same.
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
#: What a worker is asked for: a page of a document, or (``None``) all of it.
Key = tuple[Document, int | None]


class Fingerprinted:
    """Documents that are counted and hashed as they pass by.

    Args:
        documents: to walk, once.
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
        """Of what has passed by so far."""
        return self._count, self._hash.hexdigest()[:16]


@dataclass(frozen=True)
class PagesOnRequest(Dataset[Sample | None]):
    """What a worker has of a stream: it makes the sample that it is asked for."""

    pipeline: Pipeline

    def __getitem__(self, key: Key) -> Sample | None:
        """Return the sample, ``None`` if it exceeds the token budget and such samples are to be dropped."""
        document, number = key
        return self.pipeline.sample(document, number, 0)


class PageStream:
    """The samples of this rank's documents: one per page when transcribing, one per document when summarizing.

    Ranks deal out whole documents in turn, so that each lays out its own alone.

    Args:
        source: of all documents, or a list of some.
        pipeline: how a document becomes samples.
        rank: of this process.
        num_replicas: processes that share the source.
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
        """Whether walking the source takes so long that it is done once alone."""
        return isinstance(self.source, Source) and self.source.streaming

    @property
    def task(self) -> Task:
        """The task of the first document, which is that of all."""
        return next(self.documents()).task

    def documents(self) -> Iterator[Document]:
        """Yield the documents of all ranks, checked."""
        return checked_documents(self.source, need_text=False) if isinstance(self.source, Source) else iter(self.source)

    def survey(self) -> Fingerprint:
        """Walk the source once, for its mistakes.

        Raises:
            UserError: for documents that cannot be read together, or rows that are none.
        """
        walked = Fingerprinted(self.documents())
        for _ in walked:
            pass
        return walked.fingerprint

    def keys(self, documents: Fingerprinted) -> Iterator[Key]:
        """Yield what there is to render of this rank's documents, in the source's order."""
        for position, document in enumerate(documents):
            if position % self.num_replicas != self.rank:
                continue
            if document.task == "summarize":
                yield document, None
            else:
                yield from ((document, number) for number in range(self.pipeline.count_pages(document)))


@dataclass(frozen=True)
class CollatorOfKept:
    """Joins the samples that were not dropped; a batch of dropped ones is ``None``."""

    collator: Collator

    def __call__(self, samples: Sequence[Sample | None]) -> Batch | None:
        """Return the batch."""
        kept = [sample for sample in samples if sample is not None]
        return self.collator(kept) if kept else None


class StreamLoader:
    """Batches of a stream, in its order; how many there will be is not known.

    Args:
        stream: gives the samples.
        batch_size: of pages.
        collator: joins them.
        at_end: is told what the whole source was, and how many samples of this rank were given and dropped.
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
        self.stream = stream
        self._at_end = at_end
        self._walked: Fingerprinted | None = None
        self._asked = 0
        self._batches = (workers or Workers()).loader(
            PagesOnRequest(stream.pipeline),
            batch_size=batch_size,
            sampler=self._Keys(self),
            collate_fn=CollatorOfKept(collator),
        )

    class _Keys:
        """What the loader takes for a sampler: asked anew for every walk."""

        def __init__(self, loader: StreamLoader) -> None:
            self._loader = loader

        def __iter__(self) -> Iterator[Key]:
            loader = self._loader
            loader._walked = Fingerprinted(loader.stream.documents())
            loader._asked = 0
            for key in loader.stream.keys(loader._walked):
                loader._asked += 1
                yield key

    def __iter__(self) -> Iterator[Batch]:
        """Yield the batches."""
        given = 0
        for batch in self._batches:
            if batch is not None:
                given += len(batch)
                yield batch
        assert self._walked is not None, "the sampler was asked"
        self._at_end(self._walked.fingerprint, given, self._asked - given)
