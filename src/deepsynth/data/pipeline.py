"""The stages that make the pages and the samples of a document.

The layout of a document follows from a generator seeded by (seed, document id), so that epoch, worker and rank never
change where a page ends. The augmenter's generator is seeded by (seed, epoch, document id, page).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from deepsynth.data.augmentation.augmenter import Augmenter
from deepsynth.data.processing.processor import Processor
from deepsynth.data.processing.targets import Targets
from deepsynth.data.rendering.renderer import Renderer, TextRenderer
from deepsynth.data.scans import count_scan_pages, load_scan_pages
from deepsynth.data.text.cleaning import TextCleaning
from deepsynth.errors import UserError
from deepsynth.io.images import MAX_PIXELS
from deepsynth.types import Document, Page, Sample


def stable_hash(text: str) -> int:
    """Return 64 bits of SHA-256, which are the same on every machine and in every process, unlike :func:`hash`."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


@dataclass(frozen=True)
class Pipeline:
    """Renderer, augmenter and processor with the seed that they share.

    Attributes:
        renderer: draws the pages of a text.
        augmenter: degrades pages, or ``None``.
        processor: makes samples of pages.
        seed: seed of layout and augmentation.
        max_pages: largest number of pages of a document that is summarized.
        variants: number of ways in which a page is degraded, repeated in turn by the epochs; ``None`` for a new way in
            every epoch.
        max_image_pixels: largest number of pixels of a scan.
        prompt_only: make samples for prediction, without the tokens of the target.
        text: how texts become labels.
        targets: what is learned from a drawn page.
    """

    renderer: Renderer
    augmenter: Augmenter | None
    processor: Processor
    seed: int = 0
    max_pages: int = 8
    variants: int | None = None
    max_image_pixels: int = MAX_PIXELS
    prompt_only: bool = False
    text: TextCleaning = field(default_factory=TextCleaning)
    targets: Targets = field(default_factory=Targets)

    def layout_rng(self, document: Document) -> np.random.Generator:
        """Return the generator of a document's layout."""
        return np.random.default_rng([self.seed, stable_hash(document.id)])

    def count_pages(self, document: Document) -> int:
        """Return the number of pages of a document, 1 for a scan that is one image or one sample."""
        if document.image is not None:
            count = count_scan_pages(document)
        else:
            count = self.renderer.count_pages(document, self.layout_rng(document))
        if count > 1 and self.targets.fields:
            raise UserError(
                f"document {document.id!r} has {count} pages, and data.target is {self.targets}, a field of the whole "
                "row; put it on one page, or name the field as the source's target_field, which shows all pages"
            )
        return count

    def pages(self, document: Document, number: int | None, epoch: int) -> list[Page]:
        """Return the augmented page ``number``, or all pages of the document, with their texts as labels.

        Raises:
            UserError: when a document that is one sample has more than ``max_pages`` pages, or a document that is not
                drawn, or has a target of its own, is to have other targets than its text.
        """
        scanned = document.image is not None and self.targets.needs_blocks
        if not self.targets.is_text and (scanned or document.is_whole):
            what = "is a scan, whose blocks are not known" if scanned else "has one target for all pages"
            raise UserError(
                f"document {document.id!r} {what}, and data.target is {self.targets}; it must be 'text' for it"
            )
        if document.image is not None:
            pages = load_scan_pages(
                document, number, self.max_pages, self.max_image_pixels, self.processor.longest_side_px
            )
        elif number is not None:
            page = self.renderer.page(document, self.layout_rng(document), number)
            pages = [replace(page, number=number)]
        else:
            pages = self.renderer(document, self.layout_rng(document))
            if len(pages) > self.max_pages:
                raise UserError(
                    f"document {document.id!r} takes {len(pages)} pages, but data.max_pages is {self.max_pages}; raise "
                    "it, use a larger page or a smaller font, or leave such documents out with data.on_error=skip"
                )
        pages = [replace(page, text=self._label(document, page)) for page in pages]
        if self.augmenter is not None:
            variant = epoch if self.variants is None else epoch % self.variants
            pages = [self.augmenter(page, self._page_rng(document, page, variant)) for page in pages]
        if self.targets.is_text:
            return pages
        return [self._with_target(document, page, epoch) for page in pages]

    def _page_rng(self, document: Document, page: Page, epoch: int, *purpose: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, epoch, stable_hash(document.id), page.number, *purpose])

    def _with_target(self, document: Document, page: Page, epoch: int) -> Page:
        """Return the page with what is learned from it this time as its text."""
        target = self.targets.draw(page, self._page_rng(document, page, epoch, 1), document.fields)
        if target is None and document.fields and not (page.text or document.blank or self.prompt_only):
            raise UserError(
                f"document {document.id!r} is a scan without a text, and data.target is {self.targets}; leave 'text' "
                "out"
            )
        if target is None:
            return page
        prompt = None if self.targets.has_prompt else target.prompt(self.processor.prompt_of)
        text = self.processor.as_written(target.kind, target.text)
        return replace(page, text=self.text.label(text), prompt=prompt)

    def _label(self, document: Document, page: Page) -> str:
        if document.image is not None:
            return self.text.scan(page.text)
        markup = isinstance(self.renderer, TextRenderer) and self.renderer.markup != "plain"
        return self.text.page(page.text, page.lines, markup=markup)

    def sample(self, document: Document, number: int | None, epoch: int) -> Sample | None:
        """Return the sample of one page, or of a whole document (``number`` is ``None``).

        A page of a later epoch whose target has become too long, as its boxes have more digits, is that of the first.
        """
        sample = self.sample_of(document, self.pages(document, number, epoch))
        if sample is None and epoch and not self.targets.is_text:
            return self.sample(document, number, 0)
        return sample

    def by_target(self) -> list[Pipeline]:
        """Return a pipeline for each kind of target that is drawn: a page is of use when all of them fit."""
        return [replace(self, targets=targets) for targets in self.targets.each()]

    def sample_of(self, document: Document, pages: Sequence[Page]) -> Sample | None:
        """Return the sample of pages that :meth:`pages` gave."""
        if document.prompt is None and pages[0].prompt is not None:
            document = replace(document, prompt=pages[0].prompt)
        if document.target is not None:
            document = replace(document, target=self.text.label(document.target))
        elif document.one_sample:  # a rendered document's label is that of its pages
            document = replace(document, text=self.text.scan(document.text) if document.image is not None else "")
        return self.processor(document, pages, prompt_only=self.prompt_only)
