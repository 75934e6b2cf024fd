"""What each family is asked: published prompts and DeepSynth's own; boxes where there are tokens for them."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import Any

import pytest

from deepsynth.data.pipeline import Pipeline
from deepsynth.data.processing.processor import OcrProcessor
from deepsynth.data.processing.prompts import check_boxes, unpublished
from deepsynth.data.processing.targets import Target, make_targets
from deepsynth.data.rendering.renderer import TextRenderer
from deepsynth.errors import UserError
from deepsynth.models.prompts import BOX_TOKENS, BOXED, OWN_PROMPTS
from deepsynth.models.registry import FAMILIES
from deepsynth.types import Document

#: Kinds that a published model card, or transformers' processor, has a prompt for; a new family need not be here.
PUBLISHED = {
    "deepseek_ocr": {"transcribe", "markdown", "markdown_pipes", "grounded", "lines", "locate", "table"},
    "deepseek_ocr2": {"transcribe", "markdown", "markdown_pipes", "grounded", "lines", "locate", "table"},
    "unlimited_ocr": {"transcribe"},
    "paddleocr_vl": {"transcribe", "table"},
    "glm_ocr": {"transcribe", "table"},
    "got_ocr2": {"transcribe", "markdown", "markdown_pipes"},
    "qwen2_5_vl": set(),
    "qwen3_vl": set(),
    "generic": set(),
}


def tokenizer(*tokens: str) -> Any:
    return SimpleNamespace(added_tokens_decoder=dict(enumerate(tokens)))


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_has_a_prompt_for_every_kind(name: str) -> None:
    family = FAMILIES[name]
    published = PUBLISHED.get(name, set(family.prompts))
    assert set(family.prompts) == published
    assert set(make_targets(dict.fromkeys(OWN_PROMPTS.keys() - {"transcribe", "summarize"}, 1.0)).kinds)  # all exist
    for kind in OWN_PROMPTS:
        prompt = family.prompt(kind)
        assert prompt.count("<image>") == 1
        assert ("{phrase}" in prompt) == (kind == "locate")
        assert ("<|grounding|>" in prompt) == (kind in ("grounded", "lines") and "<|grounding|>" in family.markup)
        line = unpublished(family, [kind, "text", "field:total"])
        assert (line == "") == (kind in published)
        assert not line or (repr(prompt) in line and family.title in line and "\n" not in line)


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("kind", BOXED)
def test_boxes_need_tokens(name: str, kind: str) -> None:
    family = FAMILIES[name]
    check_boxes(family, tokenizer(*BOX_TOKENS), [kind])  # an heir, whose family is not known
    check_boxes(family, tokenizer(), ["text", "markdown", "table", "field:a"])
    if set(BOX_TOKENS) <= set(family.markup):
        check_boxes(family, tokenizer(), [kind])
        return
    with pytest.raises(
        UserError, match=rf"data.target is '{kind}', whose boxes are written in <\|ref\|>, .* no tokens"
    ):
        check_boxes(family, tokenizer(), ["markdown", kind])


def test_a_processor_refuses_boxes_and_says_what_is_asked(caplog: pytest.LogCaptureFixture) -> None:
    processor = OcrProcessor("deepsynth/full-size-glm-ocr")
    with pytest.raises(UserError, match="target is 'lines'"):
        processor.check(packing=False, targets=["lines"])
    with caplog.at_level(logging.INFO):
        processor.check(packing=False, targets=["text"])
        processor.check(packing=False, targets=["table", "field:total"])
        OcrProcessor(processor.model_name, prompt="<image>\nMine.").check(packing=False, targets=["markdown"])
        assert not caplog.records
        processor.check(packing=False, targets=["table", "markdown"])
    assert [record.message for record in caplog.records] == [
        "GLM-OCR has no published prompt for every kind of data.target: markdown is asked for by "
        "'<image>\\nConvert the page to Markdown, tables to HTML.'"
    ]


def test_tables_are_written_as_the_published_model_writes_them() -> None:
    """PaddleOCR-VL's alone are OTSL; within Markdown they are HTML for all, as the prompt says."""
    assert {name for name, family in FAMILIES.items() if family.tables != "html"} == {"paddleocr_vl"}
    document = Document("d", "words\n\n| a | b |\n|---|---|\n| 1 | |\n")
    renderer = TextRenderer(page_width_px=200, page_height_px=200, margin_px=10, system_fonts=False, markup="markdown")
    html = "<table><tr><td>a</td><td>b</td></tr><tr><td>1</td><td></td></tr></table>"
    found = {}
    for name in ("paddleocr-vl", "glm-ocr"):
        processor = OcrProcessor(f"deepsynth/full-size-{name}")
        for kind in ("table", "markdown"):
            [page] = Pipeline(renderer, None, processor, targets=make_targets(kind)).pages(document, None, 0)
            found[name, kind] = page.text
    assert found == {
        ("paddleocr-vl", "table"): "<fcel>a<fcel>b<nl><fcel>1<ecel><nl>",
        ("paddleocr-vl", "markdown"): f"words\n\n{html}",
        ("glm-ocr", "table"): html,
        ("glm-ocr", "markdown"): f"words\n\n{html}",
    }


def test_a_prompt_names_the_field_or_the_phrase() -> None:
    prompts = FAMILIES["deepseek_ocr"].prompt
    assert Target("12", "field:a {b}").prompt(prompts) == "<image>\nExtract the field a {b}."
    asked = Target("", "locate", "a {phrase}").prompt(prompts)
    assert asked == "<image>\nLocate <|ref|>a {phrase}<|/ref|> in the image."
