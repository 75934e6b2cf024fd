"""Captured graphs on a GPU; ``scripts/gpu.sh`` runs them."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from deepsynth.compat.torch import own_blas_workspace
from deepsynth.generation import Decoder
from deepsynth.generation.steps import StaticSteps
from tests.helpers.generation import batch_of, load, read, samples, stream, tokenizer_of

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]


@pytest.fixture(autouse=True)
def empty_gpu() -> Iterator[None]:
    yield
    gc.collect()
    torch.cuda.empty_cache()


@pytest.mark.parametrize("name", ["deepsynth/tiny", "deepsynth/tiny-random"])
def test_graphs_write_what_single_steps_and_transformers_write(name: str) -> None:
    """In float32 the dense model, in bfloat16 (whose grouped products can be captured) the one with experts."""
    dtype = torch.float32 if name == "deepsynth/tiny" else torch.bfloat16
    model = load(name, dtype, "cuda")
    of = samples(name, 13)  # the last one alone, whatever their lengths
    together = batch_of(name, of, "cuda", dtype)
    theirs = read(model, name, together, 60, "transformers")
    steps: list[StaticSteps] = []

    def captured(reader: Any, cache: Any) -> StaticSteps:
        steps.append(StaticSteps(reader, cache, graphs=True))
        return steps[-1]

    graphs = stream(model, name, of, 60, slots=4, submitted=5, steps=captured)
    assert steps[0].graphs is not None, "the step could not be captured; the log says why"
    assert len(steps[0].graphs) >= 2
    single = stream(model, name, of, 60, slots=4, submitted=5, steps=StaticSteps)
    assert graphs == single
    different = [number for number, pair in enumerate(zip(graphs, theirs, strict=True)) if pair[0] != pair[1]]
    print(f"\nRESULT {name} {dtype}: {len(different)} of {len(of)} texts differ from transformers' ({different})")
    if dtype == torch.float32:
        assert different == []


def test_merged_weights_and_moved_ones_are_seen_by_graphs() -> None:
    name = "deepsynth/tiny"
    model = load(name, device="cuda")
    of = samples(name, 2)
    decoder = Decoder(model, tokenizer_of(name), slots=2)
    for _ in range(2):
        decoder.submit(batch_of(name, of, "cuda"), 20)
        assert decoder.advance(drain=True) == read(model, name, batch_of(name, of, "cuda"), 20, "transformers")
        with torch.no_grad():
            for layer in model.model.language_model.layers:
                weight = layer.self_attn.q_proj.weight
                layer.self_attn.q_proj.weight = torch.nn.Parameter(weight.flip(0).contiguous())


def test_a_cache_that_grows_is_captured_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("deepsynth.generation.cache.GROWTH", 16)
    monkeypatch.setattr("deepsynth.generation.steps.GROWTH", 16)
    name = "deepsynth/tiny"
    model, of = load(name, device="cuda"), samples(name, 3)
    expected = read(model, name, batch_of(name, of, "cuda"), 60, "transformers")
    assert stream(model, name, of, 60, slots=2, submitted=3) == expected
    assert not caplog.records


def test_graphs_are_valid_after_training_has_recorded_its_own() -> None:
    """Then torch has freed the work space of cuBLAS, and given unused memory back."""
    name = "deepsynth/tiny-random"
    model, of = load(name, torch.bfloat16, "cuda"), samples(name, 4)
    batch = batch_of(name, of, "cuda", torch.bfloat16)
    decoder = Decoder(model, tokenizer_of(name), slots=4)
    written = []
    for _ in range(4):
        decoder.submit(batch, 20)
        written.append(decoder.advance(drain=True))
        with own_blas_workspace():
            torch.cuda.synchronize()
            torch.cuda.empty_cache()
    assert written == [written[0]] * 4


@pytest.mark.parametrize("compile", ["vision", "all"])
def test_compiled(compile: Any, caplog: pytest.LogCaptureFixture) -> None:
    name = "deepsynth/tiny"
    model, of = load(name, device="cuda"), samples(name, 3)
    expected = read(model, name, batch_of(name, of, "cuda"), 40, "transformers")
    assert stream(model, name, of, 40, slots=2, submitted=3, compile=compile) == expected
    assert not [record for record in caplog.records if record.name.startswith("deepsynth.")]


@pytest.mark.parametrize("experts", ["none", "all"])
def test_four_bits(experts: str, caplog: pytest.LogCaptureFixture) -> None:
    pytest.importorskip("bitsandbytes")
    from tests.generation.test_nf4 import NAME, quantized

    model, of = quantized(experts, dtype="bfloat16").to("cuda"), samples(NAME, 6)
    single = stream(model, NAME, of, 40, slots=4, submitted=3, steps=StaticSteps)
    assert stream(model, NAME, of, 40, slots=4, submitted=3) == single
    assert not [record for record in caplog.records if record.name.startswith("deepsynth.")]
