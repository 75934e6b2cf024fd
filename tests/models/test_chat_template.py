"""Prompts and answers by a chat template: where pages stand, what is learned, what ends a text."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tokenizers.processors import TemplateProcessing
from transformers import AutoConfig, AutoProcessor

from deepsynth import TextImageDataModule
from deepsynth.data import JsonlSource
from deepsynth.errors import UserError
from deepsynth.models.chat_template import (
    answer_frame,
    count_image_tokens,
    image_token_id,
    model_inputs,
    render,
    turn,
)
from deepsynth.models.registry import family_of, family_of_model, load_pretrained
from tests.helpers.tiny_models import byte_tokenizer, lighton_ocr


class TemplateOnly:
    """A processor that only renders a template."""

    def __init__(self, template: str | None, eos: str | None = "<end>") -> None:
        self.tokenizer = byte_tokenizer(["<user>", "<end>", "<pad>"], eos="<end>", pad="<pad>")
        self.tokenizer.eos_token = eos
        self.chat_template = template

    def apply_chat_template(self, messages: Any, chat_template: str, **options: Any) -> str:
        del options["tokenize"]
        text = self.tokenizer.apply_chat_template(messages, chat_template=chat_template, tokenize=False, **options)
        return str(text)


def template(before: str = "", after: str = "<end>", start: str = "A:") -> str:
    return (
        "{% for m in messages %}{% if m.role == 'user' %}<user>{% for c in m.content %}"
        "{% if c.type == 'image' %}[]{% else %}{{ c.text }}{% endif %}{% endfor %}"
        "{% else %}A:" + before + "{{ m.content[0].text }}" + after + "{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}" + start + "{% endif %}"
    )


@pytest.mark.parametrize(
    ("prompt", "pages", "expected"),
    [
        ("<image>\nRead.", 1, "<user>[]Read."),
        ("<image>\nRead.", 3, "<user>[][][]Read."),
        ("From <image> to <image>", 2, "<user>From[]to[]"),
    ],
)
def test_pages_stand_where_the_prompt_has_them(prompt: str, pages: int, expected: str) -> None:
    processor = TemplateOnly(template())
    assert render(processor, turn(prompt, pages), None, asks=False) == expected
    assert render(processor, turn(prompt, pages), None, asks=True) == f"{expected}A:"


@pytest.mark.parametrize(
    ("before", "after", "end"),
    [
        ("", "<end>", ["<end>"]),
        (" ", "<end>\n", ["<end>"]),
        ("", "\n <end>", ["<end>"]),
        ("", "##<end>", ["#", "#", "<end>"]),
        ("\n", "", ["<end>"]),  # the tokenizer's, where the template has none
    ],
)
def test_what_surrounds_an_answer(before: str, after: str, end: list[str]) -> None:
    processor = TemplateOnly(template(before, after))
    frame = answer_frame(processor)
    assert frame.before == before
    assert processor.tokenizer.convert_ids_to_tokens(list(frame.end)) == end


def test_a_tokenizer_that_begins_every_text_with_a_token_begins_no_end_with_it() -> None:
    processor = TemplateOnly(template(after="#<end>"))
    inner = processor.tokenizer.backend_tokenizer
    inner.post_processor = TemplateProcessing(single="<user> $A", special_tokens=[("<user>", 0)])
    assert processor.tokenizer.encode("#") == [0, *processor.tokenizer.encode("#", add_special_tokens=False)]
    found = processor.tokenizer.convert_ids_to_tokens(list(answer_frame(processor).end))
    assert found == ["#", "<end>"]


@pytest.mark.parametrize(
    ("bos", "text", "added"),
    [(None, "<user>a", True), ("<user>", "<user>a", False), ("<user>", "a<user>", True)],
)
def test_the_token_that_begins_a_text_is_written_once(bos: str | None, text: str, added: bool) -> None:
    given: dict[str, Any] = {}

    class Notes(TemplateOnly):
        def __call__(self, **options: Any) -> dict[str, Any]:
            given.update(options)
            return {"input_ids": "ids"}

    processor = Notes(None)
    processor.tokenizer.bos_token = bos
    assert model_inputs(processor, text, ("page",), {"size": 3}) == {"input_ids": "ids"}
    assert given == {"text": [text], "images": ["page"], "return_tensors": "pt", "add_special_tokens": added, "size": 3}


@pytest.mark.parametrize(
    ("prompt", "pages", "expected"),
    [
        ("Read.", 2, ["Read."]),  # nothing stands for a page
        ("<image> a <image> b <image>", 9, ["image", "a", "image", "b", "image"]),
        ("  <image>  ", 2, ["image", "image"]),
        ("a<image>b", 1, ["a", "image", "b"]),
    ],
)
def test_a_turn_has_texts_and_pages_in_their_order(prompt: str, pages: int, expected: list[str]) -> None:
    (found,) = turn(prompt, pages)
    assert found["role"] == "user"
    assert [part.get("text", part["type"]) for part in found["content"]] == expected


def test_a_processor_that_does_not_say_its_image_token_is_refused() -> None:
    assert image_token_id(SimpleNamespace(image_token_id=0)) == 0
    with pytest.raises(UserError, match=r"^SimpleNamespace does not say which token stands for an image"):
        image_token_id(SimpleNamespace())


def test_a_template_of_the_family_stands_in_for_none() -> None:
    with pytest.raises(UserError, match=r"no chat template.*put a chat_template\.jinja"):
        answer_frame(TemplateOnly(None))
    assert answer_frame(TemplateOnly(None), template(" ")).before == " "


def test_labels_that_cannot_be_told_from_the_prompt_are_refused() -> None:
    with pytest.raises(UserError, match=r"does not write an answer behind .* \('<user>\[\]Read\.A:Hm'\)"):
        answer_frame(TemplateOnly(template(start="A:Hm")))
    with pytest.raises(UserError, match="nothing of that"):
        answer_frame(TemplateOnly("{{ raise_exception('nothing of that') }}"))
    with pytest.raises(UserError, match=r"neither its chat template nor its eos_token ends a text"):
        answer_frame(TemplateOnly(template(after=""), eos=None))


def test_a_model_that_is_not_known_goes_the_generic_way(tmp_path: Path) -> None:
    folder = str(lighton_ocr.make(tmp_path / "model"))
    family = family_of_model(folder)
    assert family.name == "generic"
    assert "LoRA is on the decoder's linear layers" in family.note()
    processor = load_pretrained(AutoProcessor, folder)
    assert [count_image_tokens(processor, None, *size) for size in ((64, 64), (32, 64), (640, 320))] == [16, 8, 8]
    layout = family.layout(processor)
    assert layout.tokens(32, 64) == 8
    with pytest.raises(UserError, match=r"mode is 'base'; .* has no modes"):
        family.layout(processor, "base")
    with pytest.raises(UserError, match=r"data.packing is true, which does not work for .*set data.packing=false"):
        TextImageDataModule(JsonlSource("there-is-none"), model_name=folder, packing=True).setup("fit")


def test_a_family_is_known_by_its_architecture_and_not_by_its_type_alone(tmp_path: Path) -> None:
    config = load_pretrained(AutoConfig, str(lighton_ocr.make(tmp_path / "model")))
    config.architectures = ["LightOnOcrForRetrieval"]
    with pytest.raises(UserError, match=r"'lighton_ocr' \(LightOnOcrForRetrieval\); it must be one of"):
        family_of(config)
    known = load_pretrained(AutoConfig, "deepsynth/tiny")
    assert family_of(known).name == "deepseek_ocr"
    known.architectures = ["DeepseekOcrForSomethingElse"]
    with pytest.raises(UserError, match=r"'deepseek_ocr' \(DeepseekOcrForSomethingElse\)"):
        family_of(known)
    encoder_decoder = AutoConfig.for_model("florence2")
    encoder_decoder.is_encoder_decoder = True
    with pytest.raises(UserError, match="'florence2'"):
        family_of(encoder_decoder)
