"""Families that read images at their own size: tokens, positions, the engine's loss, packing and cache."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

from deepsynth.callbacks.sample_gallery import pictures_of
from deepsynth.data.processing.collator import Collator
from deepsynth.data.processing.processor import OcrProcessor
from deepsynth.errors import UserError
from deepsynth.generation.decoder import Decoder
from deepsynth.generation.generate import generate
from deepsynth.generation.steps import StaticSteps
from deepsynth.generation.texts import TextFrame
from deepsynth.models.engine.feature_cache import MemoryCache
from deepsynth.models.engine.grid_positions import grid_positions
from deepsynth.models.engine.training_forward import TrainingForward
from deepsynth.models.registry import load_pretrained
from deepsynth.types import Batch, Document, Page, Sample
from tests.helpers.training import make_module
from tests.models.families.native import NAMES, assert_same, batch_of, loss_and_gradients, module_of, page, sample

#: Pages of several sizes: within the budget of pixels, above it, below it.
SIZES = ((112, 112), (112, 56), (300, 200), (30, 20), (57, 99), (28, 112), (700, 90))
#: Texts that end with the token of an image, which no model here writes.
NO_END = TextFrame((3,))


@pytest.fixture(scope="module", params=NAMES)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    maker = import_module(f"tests.helpers.tiny_models.{request.param}")
    return str(maker.make(tmp_path_factory.mktemp(request.param)))


# ---------------------------------------------------------------------- tokens


def test_tokens_are_those_of_the_processor_and_of_the_model(folder: str) -> None:
    processor = OcrProcessor(model_name=folder)
    model = load_pretrained(AutoModelForImageTextToText, folder)
    counts = set()
    for size in SIZES:
        made = Collator()([sample(processor, size)]).with_pixel_values()
        tokens = processor.layout.tokens(*size)
        assert int((made.tokens["input_ids"] == model.config.image_token_id).sum()) == tokens
        features = model.model.get_image_features(**made.images).pooler_output
        assert [len(own) for own in features] == [tokens]
        counts.add(tokens)
    assert len(counts) > 3


def test_a_page_of_the_longest_side_is_not_made_smaller(folder: str) -> None:
    layout = OcrProcessor(model_name=folder).layout
    assert (layout.longest_side, layout.page_side) == (112, 112)
    assert layout.tokens(112, 112) == 16
    assert layout.tokens(140, 140) <= 16


def test_an_image_that_is_too_narrow_is_refused_in_one_line(folder: str) -> None:
    with pytest.raises(UserError, match=r"an image of 3 x 900 pixels: .*aspect ratio"):
        OcrProcessor(model_name=folder).layout.tokens(3, 900)


def test_the_token_budget_counts_the_pages(folder: str) -> None:
    processor = OcrProcessor(model_name=folder)
    whole = sample(processor, (112, 112), (112, 56))
    length = len(whole.input_ids)
    assert len(sample(replace(processor, max_tokens=length), (112, 112), (112, 56)).input_ids) == length
    with pytest.raises(UserError, match=f"= {length}, but the budget is {length - 1}"):
        sample(replace(processor, max_tokens=length - 1), (112, 112), (112, 56))


@pytest.mark.parametrize("place", ["video_preprocessor_config.json", "processor_config.json"])
@pytest.mark.parametrize("name", ["glm_ocr", "qwen2_5_vl"])
def test_how_videos_are_read_is_passed_on(name: str, place: str, tmp_path: Path) -> None:
    """Pages need no video processor, and torchvision neither; who loads an export may want both."""
    source = import_module(f"tests.helpers.tiny_models.{name}").make(tmp_path / "model")
    settings = {"video_processor_type": "Qwen2VLVideoProcessor", "size": {"shortest_edge": 1, "longest_edge": 2}}
    if place == "processor_config.json":
        settings = {**json.loads((source / place).read_text()), "video_processor": settings}
    (source / place).write_text(json.dumps(settings))
    processor = load_pretrained(AutoProcessor, str(source))
    processor.save_pretrained(tmp_path / "written")
    shutil.copy(source / "config.json", tmp_path / "written")
    again = load_pretrained(AutoProcessor, str(tmp_path / "written"))
    assert again.video_settings == processor.video_settings
    assert again.video_settings["size"] == {"shortest_edge": 1, "longest_edge": 2}
    assert (tmp_path / "written/video_preprocessor_config.json").is_file()
    assert "video_settings" not in (tmp_path / "written/processor_config.json").read_text()
    assert type(again).__name__ == json.loads((source / "processor_config.json").read_text())["processor_class"]


def test_the_gallery_shows_the_pages_as_they_were(folder: str) -> None:
    """Of whole blocks, so that nothing was resized: of a sample of one page, and of one of two."""
    module = module_of(folder)
    sizes = [[(112, 112)], [(112, 56), (84, 112)]]
    samples = [sample(OcrProcessor(folder), *own) for own in sizes]
    found = pictures_of(Collator()(samples).with_pixel_values(), module)
    for pictures, own in zip(found, sizes, strict=True):
        assert len(pictures) == len(own)
        for picture, size in zip(pictures, own, strict=True):
            assert np.array_equal(picture, np.asarray(page(size).image))


# ---------------------------------------------------------------------- positions


def test_positions_are_those_of_the_model(folder: str) -> None:
    model = load_pretrained(AutoModelForImageTextToText, folder)
    inputs = batch_of(folder).inputs
    keys = ("input_ids", "attention_mask", "image_grid_thw", "mm_token_type_ids")
    expected, _ = model.model.get_rope_index(**{key: inputs[key] for key in keys})
    mask = inputs["input_ids"] == model.config.image_token_id
    found = grid_positions(mask, inputs["image_grid_thw"], 2)
    seen = inputs["attention_mask"].bool()
    assert not seen.all()
    assert torch.equal(found[:, seen], expected[:, seen])


def test_positions_of_a_packed_row_begin_again_with_each_sequence(folder: str) -> None:
    image_token = load_pretrained(AutoModelForImageTextToText, folder).config.image_token_id
    padded, packed = batch_of(folder).inputs, batch_of(folder, packed=True, pad_to_multiple_of=16).inputs
    expected = grid_positions(padded["input_ids"] == image_token, padded["image_grid_thw"], 2)
    starts = packed["position_ids"] == 0
    found = grid_positions(packed["input_ids"] == image_token, packed["image_grid_thw"], 2, starts)
    seen, own = padded["attention_mask"].bool(), packed["attention_mask"].bool()
    assert torch.equal(found[:, own], expected[:, seen])


# ---------------------------------------------------------------------- the engine


@pytest.mark.parametrize("scope", [{}, {"vision": True, "projector": True}], ids=["frozen", "vision"])
def test_loss_and_gradients_equal_the_models_own(folder: str, scope: dict[str, bool]) -> None:
    own = batch_of(folder, pad_to_multiple_of=16)
    assert not own.inputs["attention_mask"].all()
    assert_same(
        loss_and_gradients(module_of(folder, loss="chunked", mlp=True, **scope), own),
        loss_and_gradients(module_of(folder, loss="plain", kernels="plain", mlp=True, **scope), own),
    )


@pytest.mark.parametrize("settings", [{}, {"attn_implementation": "eager"}, {"loss": "plain"}], ids=str)
def test_a_packed_batch_has_the_loss_of_the_padded_one(folder: str, settings: dict[str, Any]) -> None:
    expected = loss_and_gradients(module_of(folder, loss="plain", kernels="plain"), batch_of(folder))
    packed = batch_of(folder, packed=True, pad_to_multiple_of=32)
    assert packed.inputs["input_ids"].shape[0] == 1
    assert_same(loss_and_gradients(module_of(folder, **settings), packed), expected)


@pytest.mark.parametrize("at_once", [None, 1, 2])
def test_frozen_images_are_encoded_a_few_at_a_time_without_a_graph(folder: str, at_once: int | None) -> None:
    model = load_pretrained(AutoModelForImageTextToText, folder).train()
    for parameter in model.model.visual.parameters():
        parameter.requires_grad_(False)
    if hasattr(model.model, "projector"):
        model.model.projector.requires_grad_(False)
    inputs = batch_of(folder).inputs
    images = {name: inputs[name] for name in ("pixel_values", "image_grid_thw")}
    expected = model.model.get_image_features(**images).pooler_output
    forward = TrainingForward(model, vision_chunk=at_once)
    found = forward.image_features(inputs)
    assert len(found) == len(expected) == 5
    for one, other in zip(found, expected, strict=True):
        assert not one.requires_grad
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


def test_features_are_found_again_by_pixels_and_grid(folder: str) -> None:
    module = module_of(folder)
    forward = TrainingForward(module.model, cache=MemoryCache(2**20))
    inputs = batch_of(folder).inputs
    before = forward.image_features(inputs)
    assert (forward.cache.hits, forward.cache.lookups) == (0, 5)
    after = forward.image_features(inputs)
    assert (forward.cache.hits, forward.cache.lookups) == (5, 10)
    assert all(torch.equal(one, other) for one, other in zip(before, after, strict=True))
    # The same white patches in another shape are another image.
    processor = OcrProcessor(model_name=folder)
    for size in ((112, 56), (56, 112)):
        found = processor(Document("white", ""), [Page(Image.new("RGB", size, "white"), "")])
        assert found is not None
        forward.image_features(Collator(0)([found]).inputs)
    assert (forward.cache.hits, forward.cache.lookups) == (5, 12)


def test_samples_together_are_what_they_are_one_by_one(folder: str) -> None:
    module = module_of(folder).eval()
    processor = OcrProcessor(model_name=folder)
    samples = [sample(processor, (112, 112), text="one"), sample(processor, (57, 99), (30, 20), text="another text")]
    collate: Callable[[list[Sample]], Batch] = Collator(processor.pad_token_id)
    together = module.generate(collate(samples))
    assert [own.ids for own in together] == [module.generate(collate([one]))[0].ids for one in samples]


def test_random_weights_have_the_buffers_of_a_model_that_is_made(folder: str) -> None:
    made = load_pretrained(AutoModelForImageTextToText, folder)
    module = make_module(model_name=folder, weights="random")
    module.configure_model()
    expected = dict(made.named_buffers())
    found = {name.replace(".base_layer", ""): own for name, own in module.model.get_base_model().named_buffers()}
    assert found.keys() == expected.keys()
    for name, buffer in found.items():
        assert torch.equal(buffer, expected[name]), name


def test_experts_that_are_not_there_can_be_chosen(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr("deepsynth.modules.loading.rank_zero_info", said.append)
    make_module(model_name=folder, experts_implementation="grouped_mm").configure_model()
    expected = "has no routed experts: model.engine.experts_implementation=grouped_mm does nothing"
    assert any(expected in line for line in said)


# ---------------------------------------------------------------------- generation


@pytest.mark.parametrize("folder", [*NAMES, "qwen3_vl"], indirect=True)
@pytest.mark.parametrize("static", [False, True], ids=["free", "static"])
def test_our_decoder_writes_what_transformers_does(folder: str, static: bool) -> None:
    """More samples than slots, of different lengths: slots are filled again, and rows move between them."""
    module = module_of(folder).eval()
    processor = module.processor
    whole = batch_of(folder)
    expected = generate(
        module.model, processor.tokenizer, whole, max_new_tokens=12, implementation="transformers", frame=NO_END
    )
    limits = [12, 3, 7]
    decoder = Decoder(
        module.model,
        processor.tokenizer,
        slots=2,
        frame=NO_END,
        steps=partial(StaticSteps, count=2) if static else None,
    )
    decoder.submit(whole, limits)
    found = decoder.advance(drain=True)
    assert expected is not None
    assert found is not None
    assert [own.ids for own in found] == [own.ids[:limit] for own, limit in zip(expected, limits, strict=True)]
    for one, other, limit in zip(found, expected, limits, strict=True):
        assert one.logprobs == pytest.approx(other.logprobs[:limit], abs=1e-4)


@pytest.mark.parametrize("folder", [*NAMES, "qwen3_vl"], indirect=True)
def test_text_alone_is_continued_too(folder: str) -> None:
    module = module_of(folder).eval()
    whole = batch_of(folder)
    tokens = {"input_ids": torch.tensor([[5, 6, 7]]), "attention_mask": torch.ones(1, 3, dtype=torch.long)}
    alone = replace(whole, prompt_tokens=tokens, images={}, targets=[""], ids=["text"])
    texts = [
        generate(module.model, module.processor.tokenizer, alone, max_new_tokens=5, implementation=kind, frame=NO_END)
        for kind in ("transformers", "deepsynth")
    ]
    assert texts[0] is not None
    assert texts[0] == texts[1]
