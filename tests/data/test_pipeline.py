"""What the seeds of layout and augmentation reach: the same where promised, and nothing but that."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from deepsynth.data import OcrProcessor, TextRenderer
from deepsynth.data.augmentation.augmenter import Augmenter
from deepsynth.data.pipeline import Pipeline
from deepsynth.types import Document, Page
from tests.helpers.training import PAGE

OPTIONS: dict[str, Any] = PAGE
LONG = Document("long", "some words of a document that takes several pages " * 40)


class FirstDraw(Augmenter):
    """Writes what the page's generator gives first in the place of its text."""

    def __call__(self, page: Page, rng: np.random.Generator) -> Page:
        return replace(page, text=str(rng.integers(2**63)))


@pytest.fixture(scope="module")
def processor() -> OcrProcessor:
    return OcrProcessor("deepsynth/tiny-random")


def draws(processor: OcrProcessor, document: Document = LONG, epoch: int = 0, **settings: Any) -> list[str]:
    """Return the first draw of the augmenter for each of the first two pages."""
    pipeline = Pipeline(TextRenderer(**OPTIONS), FirstDraw(), processor, **settings)
    assert pipeline.count_pages(document) >= 2
    return [page.text for number in (0, 1) for page in pipeline.pages(document, number, epoch)]


def test_the_augmenter_is_seeded_by_seed_epoch_document_and_page(processor: OcrProcessor) -> None:
    first = draws(processor)
    assert draws(processor) == first
    renamed = replace(LONG, id="other")
    all_draws = [*first, *draws(processor, epoch=1), *draws(processor, seed=1), *draws(processor, renamed)]
    assert len(set(all_draws)) == len(all_draws) == 8


def test_a_page_of_a_whole_document_is_degraded_as_the_page_alone(processor: OcrProcessor) -> None:
    pipeline = Pipeline(TextRenderer(**OPTIONS), FirstDraw(), processor, max_pages=50)
    assert [page.text for page in pipeline.pages(LONG, None, 0)[:2]] == draws(processor)


def test_variants_of_a_page_come_again_in_turn(processor: OcrProcessor) -> None:
    epochs = [draws(processor, epoch=epoch, variants=2) for epoch in range(4)]
    assert epochs[0] == epochs[2] != epochs[1] == epochs[3]


def test_the_layout_follows_from_seed_and_document_alone(processor: OcrProcessor) -> None:
    document = Document("d", "a few words")

    def layout(document: Document, epoch: int = 0, seed: int = 0) -> tuple[Any, ...]:
        options: dict[str, Any] = {**OPTIONS, "font_size_px": (8.0, 40.0)}
        renderer = TextRenderer(**options)
        (page,) = Pipeline(renderer, None, processor, seed=seed).pages(document, 0, epoch)
        return page.lines, page.image.tobytes()

    assert layout(document) == layout(document, epoch=3)
    assert layout(document) != layout(document, seed=1)
    assert layout(document) != layout(replace(document, id="e"))
