"""Compiled vision writes the same texts, and few shapes are compiled, whatever batches come along."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch
import torch._dynamo

from deepsynth.generation import Decoder
from deepsynth.generation.model_runner import VISION_PATCHES
from deepsynth.models.engine import vision_chunks
from deepsynth.models.engine.layer_runner import transformer_layers
from deepsynth.models.engine.vision_chunks import in_chunks
from deepsynth.modules.settings import GenerationSettings
from tests.helpers.generation import batch_of, load, read, samples, tokenizer_of
from tests.helpers.training import make_module

#: Images of the model that are encoded together below.
CHUNK = 2


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Return the graphs that are compiled, which then run as they were found."""
    found: list[Any] = []

    def backend(graph: Any, example_inputs: Any) -> Any:
        found.append(graph)
        return graph.forward

    torch._dynamo.reset()
    monkeypatch.setitem(vision_chunks.COMPILE_OPTIONS, "backend", backend)
    return found


def patches_of(model: Any) -> int:
    config = model.config.vision_config.sam_config
    return int((config.image_size // config.patch_size) ** 2)


@torch._dynamo.config.patch(recompile_limit=1)  # for more graphs of one function than torch would make
@pytest.mark.parametrize("name", ["deepsynth/tiny-random", pytest.param("deepsynth/tiny", marks=pytest.mark.slow)])
def test_texts_stay_and_batches_of_other_sizes_compile_nothing(
    name: str, graphs: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, of = load(name), samples(name, 3)
    monkeypatch.setitem(VISION_PATCHES, "cpu", CHUNK * patches_of(model))
    expected = read(model, name, batch_of(name, of), 4)
    counts = []
    for size in (3, 1, 2):  # a chunk of two and one alone; one alone; a chunk of two
        decoder = Decoder(model, tokenizer_of(name), slots=size, compile="vision")
        decoder.submit(batch_of(name, of[:size]), 4)
        assert decoder.advance(drain=True) == expected[:size]
        counts.append(len(graphs))
    assert counts[0] > 0
    assert set(counts) == {counts[0]}
    kinds = {
        (type(layer), getattr(layer, "window_size", None)) for layer in transformer_layers(model.model.vision_tower)
    }
    assert counts[0] == 2 * len(kinds)  # one for a chunk and one for a single image
    assert not any("forward" in layer.__dict__ for layer in transformer_layers(model.model.vision_tower))


def test_compiling_that_fails_is_said_once_and_reading_goes_on(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    name = "deepsynth/tiny-random"
    model, of = load(name), samples(name, 2)
    expected = read(model, name, batch_of(name, of), 4)

    def backend(graph: Any, example_inputs: Any) -> Any:
        raise RuntimeError("no compiler here")

    torch._dynamo.reset()
    monkeypatch.setitem(vision_chunks.COMPILE_OPTIONS, "backend", backend)
    decoder = Decoder(model, tokenizer_of(name), slots=2, compile="vision")
    with caplog.at_level(logging.WARNING, logger="deepsynth"):
        for _ in range(2):
            decoder.submit(batch_of(name, of), 4)
            assert decoder.advance(drain=True) == expected
    [said] = [record.getMessage() for record in caplog.records if record.name.startswith("deepsynth.")]
    assert "without torch.compile" in said
    assert "no compiler here" in said


@pytest.mark.parametrize(
    ("chosen", "device", "compiled"),
    [("auto", "cpu", False), ("auto", "cuda", True), ("none", "cuda", False), ("vision", "cpu", True)],
)
def test_the_option_is_automatic_on_a_gpu(
    chosen: Any, device: str, compiled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = make_module(generation=GenerationSettings(compile=chosen))
    module.configure_model()
    monkeypatch.setattr(type(module), "device", torch.device(device))
    assert module.text_generator.make_decoder(1).compiles_vision == compiled


@pytest.mark.parametrize(("rest", "runs"), [("together", [2, 2, 1]), ("filled", [2, 2, 2]), ("single", [2, 2, 1])])
def test_chunks(rest: Any, runs: list[int]) -> None:
    module = torch.nn.Linear(3, 2)
    images = torch.randn(5, 4, 3)
    expected = module(images)
    seen: list[int] = []
    plain = module.forward
    module.forward = lambda x: seen.append(len(x)) or plain(x)  # type: ignore[func-returns-value]
    with in_chunks(module, lambda images: 2, rest):
        assert torch.allclose(module(images), expected, atol=1e-6)
        assert seen == runs
        seen.clear()
        module(images[:1])
        assert seen == ([2] if rest == "filled" else [1])
    with in_chunks(module, lambda images: 3, rest):
        seen.clear()
        module(images)
        assert seen == {"together": [3, 2], "filled": [3, 3], "single": [3, 1, 1]}[rest]
    assert torch.equal(module(images), expected)
