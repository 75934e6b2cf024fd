"""From clean pages to pages as a scanner, a camera or a fax would give them: the base of every augmenter."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np

from deepsynth.types import Page


class Augmenter(ABC):
    """Degrades a page and keeps its text readable and whole."""

    @abstractmethod
    def __call__(self, page: Page, rng: np.random.Generator) -> Page:
        """Return the degraded page: same text, boxes moved along with the pixels."""
