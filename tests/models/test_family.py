"""What a family says of itself: which configurations are its own, what ends a text, what does not work."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from transformers import AutoImageProcessor

from deepsynth.errors import UserError
from deepsynth.models.chat_template import render, turn
from deepsynth.models.family import Family
from deepsynth.models.native_resolution import PatchLayout
from deepsynth.models.registry import FAMILIES, resolve_model_name
from deepsynth.models.tokens import CountedLayout
from tests.helpers.tiny_models import skip_without_image_processors
from tests.models.test_chat_template import TemplateOnly, template

OWN = Family(name="own", title="Own-OCR", model_types=("own", "own-2"), architectures=("One", "Two"))


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"model_type": "own"}, True),
        ({"model_type": "own-2", "architectures": None}, True),
        ({"model_type": "own", "architectures": []}, True),
        ({"model_type": "own", "architectures": ["Three", "Two"]}, True),
        ({"model_type": "own", "architectures": ["Three"]}, False),
        ({"model_type": "other", "architectures": ["One"]}, False),
        ({}, False),
    ],
)
def test_a_configuration_is_known_by_type_and_architecture(config: dict[str, Any], expected: bool) -> None:
    assert OWN.matches(SimpleNamespace(**config)) is expected


def test_a_family_without_architectures_takes_all_of_its_type() -> None:
    family = Family(name="own", title="Own", model_types=("own",), architectures=())
    assert family.matches(SimpleNamespace(model_type="own", architectures=["Any"]))


@pytest.mark.parametrize(
    ("eos", "own", "expected"),
    [
        ("<end>", None, ["<end>"]),
        ("<pad>", None, ["<end>", "<pad>"]),  # the template's end first: targets have it
        ("<pad>", 0, ["<end>", "<pad>", "<user>"]),
        ("<end>", [2, 1, 0], ["<end>", "<pad>", "<user>"]),
        (None, [0], ["<end>", "<user>"]),
    ],
)
def test_texts_end_with_what_template_tokenizer_and_model_say(eos: str | None, own: Any, expected: list[str]) -> None:
    processor = TemplateOnly(template(), eos=eos)
    model = SimpleNamespace(generation_config=SimpleNamespace(eos_token_id=own))
    ids = OWN.stop_ids(processor, model)
    assert processor.tokenizer.convert_ids_to_tokens(list(ids)) == expected
    if eos is not None:
        eos_id = processor.tokenizer.convert_tokens_to_ids(eos)
        assert FAMILIES["deepseek_ocr"].stop_ids(processor, model) == (eos_id,), "which has no template"


def test_what_the_template_writes_before_an_answer_is_no_part_of_it() -> None:
    processor = TemplateOnly(template(before=" "))
    assert OWN.answer_prefix(processor) == " "
    assert FAMILIES["deepseek_ocr"].answer_prefix(processor) == ""


def test_images_are_counted_where_nothing_is_known_of_them() -> None:
    layout = OWN.layout(TemplateOnly(template()))
    assert isinstance(layout, CountedLayout)
    with pytest.raises(UserError, match=r"^mode is 'base'; Own-OCR has no modes: leave it out$"):
        OWN.check_mode("base")
    asked: list[tuple[int, int]] = []
    counted = CountedLayout(lambda width, height: asked.append((width, height)) or width // height)  # type: ignore[func-returns-value]
    assert [counted.tokens(*size) for size in ((600, 100), (600, 200), (600, 100))] == [6, 3, 6]
    assert asked == [(600, 100), (600, 200)]
    assert (counted.longest_side, counted.page_side, counted.processor_kwargs()) == (1024, 1024, {})


def test_what_does_not_work_is_named_with_its_reasons() -> None:
    family = Family(
        name="own", title="Own-OCR", model_types=(), architectures=(),
        unsupported={"packing": "no", "compile": "slow", "sharding": "no"},
    )  # fmt: skip
    assert family.without() == "packing, FSDP2 (no); compiled layers (slow)"
    assert family.note() == "not for Own-OCR: packing, FSDP2 (no); compiled layers (slow)"
    assert [family.supports("packing"), family.supports("loss")] == [False, True]
    family.refuse("loss", "model.engine.loss is liger", "leave it out")
    with pytest.raises(UserError, match=r"^data\.packing is true, which does not work for Own-OCR \(no\); leave it"):
        family.refuse("packing", "data.packing is true", "leave it out")


@pytest.mark.parametrize("rare", ["experts", "published", "vllm_lora"])
def test_who_asks_for_something_rare_is_refused_and_nobody_else_is_told(rare: Any) -> None:
    family = Family(name="own", title="Own", model_types=(), architectures=(), unsupported={rare: "no"})
    assert family.note() == ""
    assert family.without()
    assert OWN.without() == OWN.note() == ""


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("base_model.model.model.language_model.layers.0.q.lora_A", "base_model.model.model.layers.0.q.lora_A"),
        ("base_model.model.model.language_models.x", "base_model.model.model.language_models.x"),
        ("base_model.model.model.a.language_model.x", "base_model.model.model.a.language_model.x"),
        ("x.base_model.model.model.language_model.x", "x.base_model.model.model.language_model.x"),
    ],
)
def test_names_in_adapter_files_lack_what_transformers_would_double(name: str, expected: str) -> None:
    assert FAMILIES["deepseek_ocr2"].to_file_name(name) == expected
    assert OWN.to_file_name(name) == name


def test_each_family_is_of_its_kind() -> None:
    """By what is known of the models: who reads images at their own size, and whose parts lack torch's attention."""
    native = {"paddleocr_vl", "glm_ocr", "qwen2_5_vl", "qwen3_vl"}
    assert {name for name, each in FAMILIES.items() if each.by_grid} == native
    assert {name for name, each in FAMILIES.items() if not each.has_sdpa} == {"got_ocr2", "generic"}
    views = {"deepseek_ocr", "deepseek_ocr2", "unlimited_ocr"}
    assert {name for name, each in FAMILIES.items() if each.inputs == "views"} == views
    assert {name for name, each in FAMILIES.items() if each.repeatable} == {*views, "paddleocr_vl"}
    config = SimpleNamespace(get_text_config=lambda: SimpleNamespace(sliding_window=128))
    assert {name for name, each in FAMILIES.items() if each.window(config)} == {"unlimited_ocr"}
    generic = FAMILIES["generic"]
    assert [generic.supports(feature) for feature in ("layers", "unsloth", "packing", "loss")] == [
        True, True, False, False,
    ]  # fmt: skip


def test_got_reads_one_square_view_of_64_pixels_a_feature() -> None:
    """256 features of 1024 pixels, as its paper says."""
    family = FAMILIES["got_ocr2"]

    def layout(side: int) -> Any:
        size = {"height": side, "width": side}
        return family.layout(SimpleNamespace(image_processor=SimpleNamespace(size=size)))

    assert [layout(side).tokens(300, 2000) for side in (1024, 512, 128)] == [256, 64, 4]
    assert (layout(512).longest_side, layout(512).page_side) == (512, 512)
    assert layout(512).processor_kwargs() == {"size": {"height": 512, "width": 512}, "num_image_tokens": 64}
    assert family.layout(None, "base").tokens(1, 1) == 256
    with pytest.raises(UserError, match=r"^mode is 'large'; GOT-OCR 2 has base$"):
        family.layout(None, "large")


def test_gots_prompt_is_the_one_that_transformers_processor_writes() -> None:
    text = render(TemplateOnly(None), turn("<image>\nOCR:", 1), FAMILIES["got_ocr2"].chat_template, asks=True)
    assert text == (
        "<|im_start|>system\nYou should follow the instructions carefully and explain your answers in detail."
        "<|im_end|><|im_start|>user\n<img><imgpad></img>\n OCR: <|im_end|><|im_start|>assistant\n"
    )


@pytest.mark.parametrize(
    ("name", "side", "page"),
    [
        ("paddleocr-vl", 980, 980),  # 35 x 35 tokens of 28 pixels: one row more would be beyond its 1280
        ("glm-ocr", 2184, 1024),  # which counts an image as two frames of 4,816,896 pixels
        ("qwen2.5-vl", 3584, 1024),  # 12,845,056 pixels
        ("qwen3-vl", 4096, 1024),  # 16,777,216 pixels
    ],
)
def test_pages_have_the_side_that_the_budget_of_pixels_allows(name: str, side: int, page: int) -> None:
    skip_without_image_processors()
    layout = PatchLayout(AutoImageProcessor.from_pretrained(resolve_model_name(f"deepsynth/full-size-{name}")))
    assert (layout.longest_side, layout.page_side) == (side, page)
    assert layout.tokens(side, side) == (side // (32 if name == "qwen3-vl" else 28)) ** 2
    assert layout.processor_kwargs() == {}
