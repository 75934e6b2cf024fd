"""Samples of pages: what is prompt, what is label, and what has no room."""

from __future__ import annotations

import pickle
from dataclasses import replace

import pytest
import torch
from PIL import Image

from deepsynth.data.processing.processor import OcrProcessor
from deepsynth.errors import UserError
from deepsynth.types import Document, Page, Sample

DOCUMENT = Document("d", "a page", language="en", source="letters")


@pytest.fixture(scope="module")
def processor() -> OcrProcessor:
    return OcrProcessor("deepsynth/tiny-random")


def page(text: str = "a page", number: int = 0) -> Page:
    return Page(Image.new("RGB", (64, 64), "white"), text, number=number)


def sample_of(processor: OcrProcessor, document: Document = DOCUMENT, *pages: Page, **options: bool) -> Sample:
    sample = processor(document, pages or [page()], **options)
    assert sample is not None
    return sample


def test_the_labels_are_the_target_and_its_end(processor: OcrProcessor) -> None:
    sample = sample_of(processor)
    tokenizer = processor.hf_processor.tokenizer
    own = sample.input_ids[sample.prompt_length :].tolist()
    assert own == [*tokenizer.encode("a page", add_special_tokens=False), tokenizer.eos_token_id]
    assert sample.labels.tolist() == [-100] * sample.prompt_length + own
    prompt = sample.input_ids[: sample.prompt_length].tolist()
    assert prompt[0] == tokenizer.bos_token_id
    assert prompt.count(processor.hf_processor.image_token_id) == processor.layout.tokens(64, 64) > 0
    assert (sample.target, sample.language, sample.source) == ("a page", "en", "letters")


def test_for_prediction_there_is_the_prompt_alone(processor: OcrProcessor) -> None:
    whole, prompt = sample_of(processor), sample_of(processor, prompt_only=True)
    assert torch.equal(prompt.input_ids, whole.input_ids[: whole.prompt_length])
    assert (prompt.labels == -100).all()
    assert prompt.target == "a page"  # for the metrics


def test_a_sample_may_have_as_many_tokens_as_the_budget(processor: OcrProcessor) -> None:
    length = len(sample_of(processor).input_ids)
    assert len(sample_of(replace(processor, max_tokens=length)).input_ids) == length
    short = replace(processor, max_tokens=length - 1)
    with pytest.raises(UserError, match=rf"document 'd': .* = {length}, but the budget is {length - 1}; raise"):
        short(DOCUMENT, [page()])
    assert not short.drops
    assert len(sample_of(short, prompt_only=True).input_ids) < length
    drops = replace(short, on_max_tokens="drop")
    assert drops.drops
    assert drops(DOCUMENT, [page()]) is None
    assert processor.token_budget == 2048  # the positions of its decoder


def test_a_page_of_several_has_its_number_in_the_id(processor: OcrProcessor) -> None:
    rendered = sample_of(processor, DOCUMENT, page("second", number=1))
    assert (rendered.id, rendered.document_id, rendered.page, rendered.target) == ("d#1", "d", 1, "second")
    scan = replace(DOCUMENT, image=Image.new("RGB", (64, 64)))
    assert sample_of(processor, scan).id == "d"
    whole = sample_of(processor, replace(DOCUMENT, one_sample=True, text=""), page("one"), page("two", number=1))
    assert (whole.id, whole.target) == ("d", "one\ntwo")
    summary = sample_of(processor, replace(DOCUMENT, target="short"))
    assert (summary.id, summary.target) == ("d", "short")


@pytest.mark.parametrize("prompt", ["read", "<image> and <image>"])
def test_a_prompt_for_all_has_one_place_for_the_pages(prompt: str) -> None:
    with pytest.raises(UserError, match=r"data.prompt is .*; it must hold <image> exactly once"):
        OcrProcessor("deepsynth/tiny-random", prompt=prompt)


def test_a_budget_of_nothing_is_refused() -> None:
    with pytest.raises(UserError, match=r"data.max_tokens is 0; it must be at least 1"):
        OcrProcessor("deepsynth/tiny-random", max_tokens=0)
    assert OcrProcessor("deepsynth/tiny-random", max_tokens=1).token_budget == 1


def test_workers_get_the_settings_and_load_the_rest_themselves(processor: OcrProcessor) -> None:
    sample = sample_of(processor)
    content = pickle.dumps(processor)
    assert len(content) < 1000
    copy = pickle.loads(content)
    assert copy == processor
    assert torch.equal(sample_of(copy).input_ids, sample.input_ids)
