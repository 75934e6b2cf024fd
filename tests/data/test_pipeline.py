"""What the seeds of layout and augmentation reach: the same where promised, and nothing but that."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from deepsynth.data import OcrProcessor, TextRenderer
from deepsynth.data.augmentation.augmenter import Augmenter
from deepsynth.data.pipeline import Pipeline
from deepsynth.data.text.cleaning import TextCleaning
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


def test_labels_have_the_lines_that_the_page_shows(processor: OcrProcessor) -> None:
    document = Document("d", "one soft\u00adhyphen\u200b and e\u0301 words " * 8)
    renderer = TextRenderer(**OPTIONS)

    def label(**options: Any) -> str:
        sample = Pipeline(renderer, None, processor, text=TextCleaning(**options)).sample(document, 0, 0)
        assert sample is not None
        ids = sample.labels[sample.labels >= 0].tolist()
        assert processor.hf_processor.tokenizer.decode(ids, skip_special_tokens=True) == sample.target
        return sample.target

    (page,) = Pipeline(renderer, None, processor).pages(document, 0, 0)
    shown, source = label(), label(line_breaks="source")
    assert shown.count("\n") == len(page.lines) - 1 > 0
    assert "\n" not in source
    assert shown.replace("-\n", "").replace("\n", " ") == source
    assert source == "one softhyphen and é words " * 7 + "one softhyphen and é words"
    assert "\u00ad" in label(invisible="keep")
    pixels = [Pipeline(renderer, None, processor, text=TextCleaning(invisible=keep)) for keep in ("keep", "remove")]
    assert len({pipeline.pages(document, 0, 0)[0].image.tobytes() for pipeline in pixels}) == 1


def test_targets_are_cleaned_like_transcriptions(processor: OcrProcessor) -> None:
    sample = Pipeline(TextRenderer(**OPTIONS), None, processor).sample(
        Document("d", "a", target="su\u00adm\r\n"), None, 0
    )
    assert sample is not None
    assert sample.target == "sum"
