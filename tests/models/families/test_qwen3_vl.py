"""Qwen3-VL: what its decoder's first layers add reaches them, in every way that the engine has."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import AutoModelForImageTextToText

from deepsynth.data import OcrProcessor
from deepsynth.models.engine.feature_cache import MemoryCache
from deepsynth.models.engine.layer_runner import LEVELS
from deepsynth.models.engine.training_forward import TrainingForward
from deepsynth.models.registry import family_of, load_pretrained
from tests.helpers.tiny_models import qwen3_vl
from tests.models.families.native import assert_same, batch_of, loss_and_gradients, module_of


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(qwen3_vl.make(tmp_path_factory.mktemp("model") / "qwen3_vl"))


def test_a_feature_is_followed_by_what_the_layers_add(folder: str) -> None:
    model: Any = load_pretrained(AutoModelForImageTextToText, folder).eval()
    images = batch_of(folder).inputs
    own = model.model.get_image_features(images["pixel_values"], image_grid_thw=images["image_grid_thw"])
    added = [part if isinstance(part, torch.Tensor) else torch.cat(part) for part in own.deepstack_features]
    found = family_of(model.config).image_features(model, images)
    assert [len(one) for one in found] == [OcrProcessor(folder).layout.tokens(*size) for size in SIZES]
    assert torch.equal(torch.cat(found), torch.cat([torch.cat(own.pooler_output), *added], dim=-1))
    assert len(added) == 2


#: Of the pages of ``batch_of``.
SIZES = [(112, 112), (300, 200), (30, 20), (57, 99), (28, 112)]


@pytest.mark.slow
@pytest.mark.parametrize("scope", [{}, {"vision": True, "projector": True}], ids=["frozen", "trained"])
def test_loss_and_gradients_are_transformers_own(scope: dict[str, Any], folder: str) -> None:
    plain = loss_and_gradients(module_of(folder, loss="plain", kernels="plain", mlp=True, **scope), batch_of(folder))
    assert_same(loss_and_gradients(module_of(folder, loss="chunked", mlp=True, **scope), batch_of(folder)), plain)
    for level in LEVELS:
        module = module_of(folder, activation_memory=level, mlp=True, **scope)
        assert_same(loss_and_gradients(module, batch_of(folder)), plain)
    packed = batch_of(folder, packed=True, pad_to_multiple_of=32)
    for settings in ({}, {"loss": "plain"}):
        assert_same(loss_and_gradients(module_of(folder, mlp=True, **scope, **settings), packed), plain)


@pytest.mark.slow
@pytest.mark.parametrize("at_once", [None, 1, 2])
def test_frozen_images_are_encoded_a_few_at_a_time_and_found_again(folder: str, at_once: int | None) -> None:
    model = load_pretrained(AutoModelForImageTextToText, folder).requires_grad_(False)
    inputs = batch_of(folder).inputs
    expected = family_of(model.config).image_features(model, inputs)
    forward = TrainingForward(model, vision_chunk=at_once, cache=MemoryCache(2**20))
    for hits in (0, 5):
        found = forward.image_features(inputs)
        assert forward.cache is not None
        assert forward.cache.hits == hits
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


def test_the_encoder_asks_the_host_alone_about_grids(folder: str) -> None:
    forward = module_of(folder).to(torch.device("meta")).training_forward
    grids = torch.tensor([[1, 4, 6], [1, 4, 6]])
    pixels = torch.empty(2 * 4 * 6, 3 * 2 * 16 * 16, device="meta")
    found = forward.image_features({"pixel_values": pixels, "image_grid_thw": grids})
    assert [tuple(one.shape) for one in found] == [(2 * 3, 3 * 64)] * 2


@pytest.mark.slow
def test_compiled_layers_compute_what_the_plain_ones_do(folder: str) -> None:
    expected = loss_and_gradients(module_of(folder, kernels="plain", loss="plain"), batch_of(folder))
    module = module_of(folder, compile="decoder", activation_memory="none")
    assert_same(loss_and_gradients(module, batch_of(folder)), expected)
