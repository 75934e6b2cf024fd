"""Markup of the model family is tokens both ways; other special tokens in a text are text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from transformers import AutoProcessor

from deepsynth.data.processing.processor import OcrProcessor
from deepsynth.generation.texts import GenerationState, RepetitionCriterion, TextFrame, to_generation
from deepsynth.metrics.otsl import OTSL_TOKENS
from deepsynth.models.markup import MARKUP_TOKENS, TextCodec
from deepsynth.models.registry import load_pretrained
from deepsynth.types import Document, Page

FIRST = str(Path(__file__).parents[1] / "fixtures/deepseek_ocr_v1/model")
GROUNDED = "<|ref|>table<|/ref|><|det|>[[72, 518, 923, 737]]<|/det|>\n<table><tr><td>a</td></tr></table>"
#: Strings that are special tokens of a tokenizer and may stand in a document, for instance in one about these models.
LITERAL = (
    "<image>", "<|User|>", "<|Assistant|>", "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜▁pad▁｜>"
)  # fmt: skip


@pytest.fixture(scope="module", params=["v1", "v2"])
def tokenizer(request: pytest.FixtureRequest) -> Any:
    """The tokenizer of the published v1, cut down; and v2's built-in one with the markup of the published one."""
    if request.param == "v1":
        return load_pretrained(AutoProcessor, FIRST).tokenizer
    found = load_pretrained(AutoProcessor, "deepsynth/tiny-random").tokenizer
    found.add_special_tokens({"additional_special_tokens": [*MARKUP_TOKENS, "<|User|>", "<|Assistant|>"]})
    return found


def test_markup_is_tokens_both_ways(tokenizer: Any) -> None:
    codec = TextCodec(tokenizer)
    ids = codec.encode(GROUNDED)
    markup = [name for name in MARKUP_TOKENS if name in GROUNDED]
    assert [name for name in markup if tokenizer.convert_tokens_to_ids(name) not in ids] == []
    assert codec.decode(ids) == GROUNDED
    assert codec.decode([*ids, tokenizer.eos_token_id, tokenizer.pad_token_id]) == GROUNDED


@pytest.mark.parametrize("name", MARKUP_TOKENS)
def test_each_token_stands_for_itself(name: str, tokenizer: Any) -> None:
    own = tokenizer.get_added_vocab().get(name)
    assert own is not None or name in OTSL_TOKENS  # which the first one's does not have
    assert (TextCodec(tokenizer).encode(name) == [own]) == (own is not None)
    assert TextCodec(tokenizer).decode(TextCodec(tokenizer).encode(f"a {name} b")) == f"a {name} b"


@pytest.mark.parametrize("name", LITERAL)
def test_other_special_tokens_in_a_text_are_text(name: str, tokenizer: Any) -> None:
    codec = TextCodec(tokenizer)
    text = f"the token {name} and <td>{name}</td>"
    ids = codec.encode(text)
    assert tokenizer.convert_tokens_to_ids(name) not in ids
    assert codec.decode(ids) == text


def test_a_token_that_ends_or_pads_is_left_out_of_a_prediction(tokenizer: Any) -> None:
    codec = TextCodec(tokenizer)
    inside = [tokenizer.convert_tokens_to_ids(name) for name in LITERAL]
    assert codec.decode([*codec.encode("a"), *inside, *codec.encode("b")]) == "ab"


def test_text_is_encoded_as_without_markup(tokenizer: Any) -> None:
    text = "Plain text,  with two blanks\n\nand < signs | that are <td no tag."
    expected = tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True)
    assert TextCodec(tokenizer).encode(text) == expected


def test_a_tokenizer_without_markup_takes_it_as_text() -> None:
    codec = TextCodec(load_pretrained(AutoProcessor, "deepsynth/tiny-random").tokenizer)
    assert codec.decode(codec.encode(GROUNDED)) == GROUNDED


def test_labels_and_generated_text_agree() -> None:
    processor = OcrProcessor(FIRST)
    tokenizer = processor.hf_processor.tokenizer
    page = Page(Image.new("RGB", (256, 256), "white"), f"{GROUNDED} <image> <|User|>", 0)
    sample = processor(Document("d", ""), [page])
    assert sample is not None
    labels = sample.labels[sample.labels != -100].tolist()
    assert {tokenizer.convert_tokens_to_ids(name) for name in ("<|ref|>", "<td>", "<tr>")} < set(labels)
    assert processor.hf_processor.image_token_id not in labels
    state = GenerationState(frame=TextFrame([tokenizer.eos_token_id]), limit=999, repetition=None)
    assert state.add_all(labels) == "eos"
    assert to_generation(state, tokenizer, [0.0] * len(state.ids)).text == page.text


def test_the_repetition_rule_exempts_the_cells_of_these_tokens() -> None:
    tokenizer = load_pretrained(AutoProcessor, FIRST).tokenizer
    cells = {tokenizer.convert_tokens_to_ids(name) for name in ("<td>", "</td>")}
    assert RepetitionCriterion.for_tokenizer(tokenizer).repeatable == cells
    assert cells <= set(TextCodec(tokenizer).encode("<td></td>" * 3))
