"""Documents as samples: which pages there are, and how one becomes a sample.

A document's pages are laid out from a generator seeded by (seed, document id), so that an epoch, a worker or a rank
never changes where a page ends; the augmenter's generator is seeded by (seed, epoch, document id, page).
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from torch.utils.data import Dataset

from deepsynth.data.augmentation.augmenter import Augmenter
from deepsynth.data.processing.processor import Processor
from deepsynth.data.rendering.renderer import Renderer
from deepsynth.data.sources.images import load_image
from deepsynth.types import Document, Page, Sample


def stable_hash(text: str) -> int:
    """Return 64 bits of SHA-256: the same on every machine and in every process, unlike :func:`hash`."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


@dataclass(frozen=True)
class Pipeline:
    """Renderer, augmenter and processor with the seed that they share.

    With ``variants``, a page is degraded in so many ways and no more: epochs go through them again and again. With
    ``prompt_only``, samples are for reading alone: however long a known text is, it needs no tokens.
    """

    renderer: Renderer
    augmenter: Augmenter | None
    processor: Processor
    seed: int = 0
    max_pages: int = 8
    variants: int | None = None
    prompt_only: bool = False

    def layout_rng(self, document: Document) -> np.random.Generator:
        """Return the generator that fixes a document's layout."""
        return np.random.default_rng([self.seed, stable_hash(document.id)])

    def count_pages(self, document: Document) -> int:
        """Return the number of pages of a document, 1 for a scan."""
        if document.image is not None:
            return 1
        return self.renderer.count_pages(document, self.layout_rng(document))

    def pages(self, document: Document, number: int | None, epoch: int) -> list[Page]:
        """Return the augmented page ``number``, or all pages of the document.

        Raises:
            ValueError: when a summary's document has more than ``max_pages`` pages.
        """
        if document.image is not None:
            pages = [Page(image=load_image(document), text=document.text)]
        elif number is not None:
            page = self.renderer.page(document, self.layout_rng(document), number)
            pages = [replace(page, number=number)]
        else:
            pages = self.renderer(document, self.layout_rng(document))
            if len(pages) > self.max_pages:
                raise ValueError(
                    f"document {document.id!r} takes {len(pages)} pages, but data.max_pages is {self.max_pages}; raise "
                    "it, use a larger page or a smaller font"
                )
        if self.augmenter is None:
            return pages
        if self.variants is not None:
            epoch %= self.variants
        return [
            self.augmenter(page, np.random.default_rng([self.seed, epoch, stable_hash(document.id), page.number]))
            for page in pages
        ]

    def sample(self, document: Document, number: int | None, epoch: int) -> Sample | None:
        """Return the sample of one page, or of a whole document (``number`` is ``None``)."""
        return self.processor(document, self.pages(document, number, epoch), prompt_only=self.prompt_only)


class PageDataset(Dataset[Sample]):
    """Samples by (epoch, index): one per page when transcribing, one per document when summarising.

    Args:
        documents: all of the same task.
        pipeline: how a document becomes samples.
    """

    def __init__(self, documents: Sequence[Document], pipeline: Pipeline) -> None:
        self.documents = documents
        self.pipeline = pipeline
        self.entries: list[tuple[int, int | None]] = []
        for position, document in enumerate(documents):
            if document.task == "summarize":
                self.entries.append((position, None))
            else:
                self.entries.extend((position, number) for number in range(pipeline.count_pages(document)))
        self.dropped = 0
        if pipeline.processor.drops:
            self._drop_long_samples()

    def _drop_long_samples(self) -> None:
        """Leave out what exceeds the token budget; that takes a pass over all pages, before the first step."""
        kept = [
            (position, number)
            for position, number in self.entries
            if self.pipeline.sample(self.documents[position], number, 0) is not None
        ]
        self.dropped = len(self.entries) - len(kept)
        self.entries = kept

    @property
    def lengths(self) -> list[float]:
        """Return about how many characters each sample's target has; what a page shows is drawn later."""
        pages = Counter(position for position, _ in self.entries)
        texts = (self.documents[position] for position, _ in self.entries)
        return [
            len(document.text) / pages[position] if document.target is None else len(document.target)
            for document, (position, _) in zip(texts, self.entries, strict=True)
        ]

    @property
    def fingerprint(self) -> tuple[int, int]:
        """The number of samples, and a hash of which they are and in which order."""
        ids = "\n".join(f"{self.documents[position].id} {number}" for position, number in self.entries)
        return len(self.entries), stable_hash(ids)

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
