"""The samples of a split by (epoch, index)."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from functools import cached_property

from torch.utils.data import Dataset

from deepsynth.data.loading.entries import OnError, find_entries
from deepsynth.data.pipeline import Pipeline
from deepsynth.types import Document, Sample


class PageDataset(Dataset[Sample]):
    """Samples by (epoch, index): one per page, or one per document that is one sample.

    Args:
        documents: documents of one task.
        pipeline: makes samples of a document.
        on_error: what to do with documents and pages that give no sample: raise when their turn comes, or make every
            sample once in advance and leave those out.

    Attributes:
        dropped: number of samples beyond the token budget that were left out.
        skipped: ids of documents and samples that were left out by ``on_error``, and why.
    """

    def __init__(self, documents: Sequence[Document], pipeline: Pipeline, on_error: OnError = "raise") -> None:
        self.documents = documents
        self.pipeline = pipeline
        self.entries: list[tuple[int, int | None]] = []
        self.skipped: list[tuple[str, str]] = []
        self.dropped = 0
        for position, found in enumerate(find_entries(documents, pipeline, on_error)):
            self.entries.extend((position, number) for number in found.numbers)
            self.skipped += found.skipped
            self.dropped += found.dropped

    @property
    def lengths(self) -> list[float]:
        """Approximate number of characters of each sample's target; pages are not laid out for it."""
        pages = Counter(position for position, _ in self.entries)
        texts = (self.documents[position] for position, _ in self.entries)
        return [
            len(document.text) / pages[position] if document.target is None else len(document.target)
            for document, (position, _) in zip(texts, self.entries, strict=True)
        ]

    @cached_property
    def fingerprint(self) -> tuple[int, int]:
        """Number of samples, and a hash of their documents' ids and texts and of their pages, in order.

        Pixels of scans are not part of it: they would have to be read.
        """
        found = hashlib.sha256()
        for document in self.documents:
            own_fields = (part for pair in sorted(document.fields.items()) for part in pair)
            for part in (document.id, document.text, document.target, document.prompt, *own_fields):
                own = b"" if part is None else part.encode(errors="surrogatepass")
                found.update(b"%d " % (-1 if part is None else len(own)))
                found.update(own)
        found.update(repr(self.entries).encode())
        return len(self.entries), int.from_bytes(found.digest()[:8], "big")

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.entries)

    def __getitem__(self, key: tuple[int, int]) -> Sample:
        """Return the sample for (epoch, index)."""
        epoch, index = key
        position, number = self.entries[index]
        sample = self.pipeline.sample(self.documents[position], number, epoch)
        assert sample is not None, "samples beyond the token budget were left out of the entries"
        return sample
