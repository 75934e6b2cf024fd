"""Greedy texts are those of transformers' own generate, however the decoder comes to them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import get_peft_model
from safetensors.torch import load_file

from deepsynth.generation import Generation
from deepsynth.generation.cache import RowCache
from deepsynth.generation.model_runner import VISION_PATCHES, ModelRunner
from deepsynth.generation.prompt import Prompt
from deepsynth.generation.steps import StaticSteps
from deepsynth.models.lora import LoraSettings, lora_config
from tests.helpers.generation import batch_of, load, read, samples, stream, tokenizer_of

REFERENCE = Path(__file__).parents[1] / "fixtures/deepseek_ocr_v1"
FIRST, SECOND = "deepsynth/tiny", "deepsynth/tiny-random"


@pytest.fixture(scope="module")
def models() -> dict[str, Any]:
    return {name: load(name) for name in (FIRST, SECOND)}


def adapted(base: Any, experts: Any, seed: int = 0) -> Any:
    """Return the model with an adapter that changes what it writes."""
    config = lora_config(base, LoraSettings(rank=4, experts=experts), base_model_name="base")
    model = get_peft_model(base, config)
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
    return model.eval()


def check(model: Any, name: str, of: list[Any], most: int) -> list[Generation]:
    """Read alone, together, in a stream whose rows are refilled, and in fixed shapes; return what is written."""
    alone = [read(model, name, batch_of(name, [sample]), most, "transformers")[0] for sample in of]
    assert [read(model, name, batch_of(name, [sample]), most)[0] for sample in of] == alone
    together = batch_of(name, of)
    assert read(model, name, together, most, "transformers") == alone
    assert read(model, name, together, most) == alone
    assert stream(model, name, of, most, slots=2, submitted=2) == alone
    assert stream(model, name, of, most, slots=3, submitted=len(of), steps=StaticSteps) == alone
    return alone


@pytest.mark.parametrize("name", [FIRST, SECOND])
def test_alone_together_streamed_and_in_fixed_shapes(name: str, models: dict[str, Any]) -> None:
    found = check(models[name], name, samples(name, 3, longest=6), most=24)
    assert len({generation.text for generation in found}) > 1
    if name == FIRST:
        assert len({generation.tokens for generation in found}) > 1  # rows end at different times


def test_without_a_cache_too(models: dict[str, Any]) -> None:
    batch = batch_of(SECOND, samples(SECOND, 2))
    tokens = models[SECOND].generate(**batch.prompts, max_new_tokens=12, do_sample=False, use_cache=False)

    texts = tokenizer_of(SECOND).batch_decode(
        tokens[:, batch.prompts["input_ids"].shape[1] :], skip_special_tokens=True
    )
    assert [generation.text for generation in read(models[SECOND], SECOND, batch, 12)] == texts


@pytest.mark.parametrize("name", [pytest.param(FIRST, marks=pytest.mark.slow), SECOND])
def test_several_pages_a_sample_and_left_padding(name: str, models: dict[str, Any]) -> None:
    of = samples(name, 4, pages=3, max_tokens=4096)
    together = batch_of(name, of)
    assert (together.prompts["attention_mask"] == 0).any()
    check(models[name], name, of, most=16)


@pytest.mark.parametrize("patches", [1, 10**9], ids=["a page at a time", "all at once"])
def test_pages_in_tiles_write_the_reference_tokens(patches: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The published code's own tokens for a page in tiles, beside another page without."""
    monkeypatch.setitem(VISION_PATCHES, "cpu", patches)
    expected = load_file(REFERENCE / "generate/gundam.safetensors")
    stored = load_file(REFERENCE / "forward/gundam.safetensors")
    grids = stored["images_spatial_crop"].reshape(-1, 2)
    tiled = [index for index in range(2) if f"s{index}.local.pixels" in stored]
    images = {
        "pixel_values": torch.cat([_pixels(stored[f"s{index}.global.pixels"]) for index in range(2)]),
        "patches_grid": grids,
        "num_local_patches": grids.prod(1) * (grids.prod(1) > 1),
        "pixel_values_local": torch.cat([_pixels(stored[f"s{index}.local.pixels"]) for index in tiled]),
    }
    model = load(str(REFERENCE / "model"))
    reader = ModelRunner(model)
    seen: list[int] = []
    sam = model.model.vision_tower.sam_encoder
    hook = sam.patch_embed.register_forward_pre_hook(lambda module, inputs: seen.append(len(inputs[0])))
    with torch.inference_mode():
        features = reader.image_features(images)
        hook.remove()
        tiles = len(images["pixel_values_local"])
        assert seen == ([1] * (2 + tiles) if patches == 1 else [2, tiles])
        whole = model.get_image_features(**images).pooler_output
        for found, other in zip(features, whole, strict=True):
            assert torch.allclose(found, other, atol=1e-5)
        cache = RowCache(len(reader.layers), 1, reader.device)
        cache.reserve(2000)
        hidden, last = reader.embed([Prompt(expected["input_ids"][0], features[0])])
        token = reader.prefill(hidden, torch.tensor([0]), last, cache)
        tokens = [int(token[0, 0])]
        for place in range(len(expected["new_tokens"]) - 1):
            last_token = torch.tensor(tokens[-1:])
            token = reader.aligned_step(last_token, expected["input_ids"].shape[1] + place, cache)
            tokens.append(int(token[0, 0]))
    assert tokens == expected["new_tokens"].tolist()


def _pixels(stored: torch.Tensor) -> torch.Tensor:
    return (stored.float() / 255 - 0.5) / 0.5


@pytest.mark.parametrize("experts", [pytest.param("none", marks=pytest.mark.slow), "all"])
def test_adapters_unmerged_and_merged(experts: str) -> None:
    base = load(SECOND)
    of = samples(SECOND, 3)
    plain = read(base, SECOND, batch_of(SECOND, of), 16)
    model = adapted(base, experts)
    unmerged = check(model, SECOND, of, most=16)
    assert unmerged != plain
    merged = check(model.merge_and_unload(), SECOND, of, most=16)
    assert [generation.text for generation in merged] == [generation.text for generation in unmerged]


def test_prompts_without_a_page(models: dict[str, Any]) -> None:
    of = samples(SECOND, 2)
    for number, sample in enumerate(of):
        sample.input_ids = torch.tensor([0, 70, 71 + number, 72][: 3 + number])
        sample.labels, sample.prompt_length, sample.images = sample.input_ids, len(sample.input_ids), {}
    check(models[SECOND], SECOND, of, most=8)


def test_a_model_in_training_mode_with_checkpointing_reads_the_same_and_stays_so() -> None:
    model = load(SECOND)
    of = samples(SECOND, 2)
    expected = read(model, SECOND, batch_of(SECOND, of), 8)
    model.gradient_checkpointing_enable()
    model.set_attn_implementation("eager")
    model.train()
    frozen = model.model.vision_tower.eval()
    assert read(model, SECOND, batch_of(SECOND, of), 8) == expected
    assert model.training
    assert not frozen.training
    assert model.model.language_model.layers[0].training
    assert model.config.text_config._attn_implementation == "eager"


@pytest.mark.slow
@pytest.mark.parametrize("name", [FIRST, SECOND])
def test_a_hundred_pages(name: str, models: dict[str, Any]) -> None:
    check(models[name], name, samples(name, 100), most=160 if name == FIRST else 48)


@pytest.mark.slow
def test_a_hundred_pages_after_a_merge() -> None:
    check(adapted(load(FIRST), "none").merge_and_unload(), FIRST, samples(FIRST, 100), most=160)
