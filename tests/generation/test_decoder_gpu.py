"""Decoding at full size on a GPU, with random weights: captured graphs, equality, latency, rate and memory.

    python -m pytest -m gpu tests/generation/test_decoder_gpu.py -s

Prints what it measures as ``RESULT`` lines; asserts nothing about speed.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from deepsynth.generation import Generation
from deepsynth.generation.steps import StaticSteps
from deepsynth.models.random_weights import fill_with_random_weights
from tests.generation.reading import batch_of, load, read, samples, stream

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]

FULL_SIZE = ("deepsynth/full-size-ocr", "deepsynth/full-size-ocr-2")
TOKENS = 128


def full_size(name: str, dtype: torch.dtype) -> Any:
    """Return a model of the published size with random weights on the GPU."""
    from transformers import AutoConfig, AutoModelForImageTextToText

    from deepsynth.models.names import load_pretrained

    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(load_pretrained(AutoConfig, name), dtype=dtype)
    fill_with_random_weights(model, torch.device("cuda"))
    return model.eval()


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
    of = samples(name, 12)
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
    from deepsynth.generation import Decoder
    from tests.generation.reading import tokenizer_of

    decoder = Decoder(model, tokenizer_of(name), slots=2)
    for _ in range(2):
        decoder.submit(batch_of(name, of, "cuda"), 20)
        assert decoder.advance(drain=True) == read(model, name, batch_of(name, of, "cuda"), 20, "transformers")
        with torch.no_grad():
            for layer in model.model.language_model.layers:
                weight = layer.self_attn.q_proj.weight
                layer.self_attn.q_proj.weight = torch.nn.Parameter(weight.flip(0).contiguous())


@pytest.mark.parametrize("name", FULL_SIZE)
def test_full_size_against_transformers(name: str) -> None:
    """Random weights give logits that lie close together: where bfloat16 texts part, the margin is printed."""
    model = full_size(name, torch.bfloat16)
    of = samples(name, 4, max_tokens=8192)
    for number in (1, len(of)):
        batch = batch_of(name, of[:number], "cuda", torch.bfloat16)
        ours, theirs = read(model, name, batch, 64), read(model, name, batch, 64, "transformers")
        same = [one == other for one, other in zip(ours, theirs, strict=True)]
        print(
            f"\nRESULT {name} batch {number}: {sum(same)} of {number} texts as transformers', {_parted(ours, theirs)}"
        )


def _parted(ours: list[Generation], theirs: list[Generation]) -> str:
    """Say after how many characters texts part."""
    places = []
    for one, other in zip(ours, theirs, strict=True):
        common = next((i for i, pair in enumerate(zip(one.text, other.text, strict=False)) if pair[0] != pair[1]), None)
        places.append("never" if one.text == other.text else str(common))
    return f"parted after characters {', '.join(places)}"


@pytest.mark.parametrize("name", FULL_SIZE)
@pytest.mark.parametrize("size", [1, 4, 16, 64])
def test_speed(name: str, size: int) -> None:
    """Latency to the first token, ms a token after it, tokens/s and peak memory; transformers' at 1 and 16 beside."""
    model = full_size(name, torch.bfloat16)
    of = samples(name, 4, max_tokens=8192)
    batch = batch_of(name, (of * -(-size // len(of)))[:size], "cuda", torch.bfloat16)
    from deepsynth.generation import Decoder
    from tests.generation.reading import tokenizer_of

    tokenizer = tokenizer_of(name)
    decoder = Decoder(model, _NoEnd(tokenizer), slots=size)  # random weights may end a text early

    def ours(most: int) -> float:
        torch.cuda.synchronize()
        begun = time.perf_counter()
        decoder.submit(batch, most)
        assert decoder.advance(drain=True) is not None
        torch.cuda.synchronize()
        return time.perf_counter() - begun

    ours(1), ours(TOKENS)  # captures its graphs
    torch.cuda.reset_peak_memory_stats()
    first = sorted(ours(1) for _ in range(3))[1]
    whole = sorted(ours(TOKENS) for _ in range(3))[1]
    _print(f"{name} deepsynth", size, first, whole, decoder._steps)
    if size in (1, 16):
        kwargs = {"do_sample": False, "eos_token_id": None, "pad_token_id": 0}

        def theirs(most: int) -> float:
            torch.cuda.synchronize()
            begun = time.perf_counter()
            model.generate(**batch.prompts, max_new_tokens=most, **kwargs)
            torch.cuda.synchronize()
            return time.perf_counter() - begun

        theirs(2)
        torch.cuda.reset_peak_memory_stats()
        _print(f"{name} transformers", size, theirs(1), theirs(TOKENS), None)


class _NoEnd:
    """A tokenizer without an end: every text has all its tokens."""

    eos_token_id = -1

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer

    def decode(self, ids: Any, **kwargs: Any) -> str:
        return str(self._tokenizer.decode(ids, **kwargs))


def _print(what: str, size: int, first: float, whole: float, steps: Any) -> None:
    graphs = "" if steps is None else f", graphs {'on' if getattr(steps, 'graphs', None) is not None else 'OFF'}"
    print(
        f"\nRESULT {what} batch {size}: prefill {1000 * first:.1f} ms, {1000 * (whole - first) / (TOKENS - 1):.2f} "
        f"ms/token, {size * TOKENS / whole:.0f} tokens/s, peak "
        f"{torch.cuda.max_memory_allocated() / 2**30:.2f} GiB{graphs}"
    )


def test_profile_of_a_step() -> None:
    """The kernels of one captured step at batch 1, by the time that they take."""
    name = FULL_SIZE[0]
    model = full_size(name, torch.bfloat16)
    batch = batch_of(name, samples(name, 1, max_tokens=8192), "cuda", torch.bfloat16)
    read(model, name, batch, 16)
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA, ProfilerActivity.CPU]) as found:
        read(model, name, batch, 32)
    print("\nRESULT profile\n" + found.key_averages().table(sort_by="self_device_time_total", row_limit=25))
