"""From text to pages: the base of every renderer."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np

from deepsynth.types import Document, Page


class Renderer(ABC):
    """Draws a document as one or more pages.

    Everything that varies between pages is drawn from the generator, so that the same seed gives the same pixels in
    any process.
    """

    @abstractmethod
    def __call__(self, document: Document, rng: np.random.Generator) -> list[Page]:
        """Return the document's pages in reading order.

        Raises:
            ValueError: when the text cannot be shown whole and the renderer was not told to do otherwise.
        """

    def count_pages(self, document: Document, rng: np.random.Generator) -> int:
        """Return how many pages the document takes with this generator; override where that is cheaper than drawing."""
        return len(self(document, rng))

    def page(self, document: Document, rng: np.random.Generator, number: int) -> Page:
        """Return one page, equal to ``self(document, rng)[number]``; override where the others need not be drawn."""
        return self(document, rng)[number]
