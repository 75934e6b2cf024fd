"""Captured steps: what a CUDA graph would fix at its capture changes nothing that is written."""

from __future__ import annotations

import gc
import logging
import weakref
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model

from deepsynth.generation import Decoder
from deepsynth.generation import cache as cache_module
from deepsynth.generation import steps as steps_module
from deepsynth.generation.cache import RowCache
from deepsynth.generation.graphs import MOST_CALLS, NotCaptured, StepGraphs
from deepsynth.generation.model_runner import ModelRunner
from deepsynth.generation.prompt import Prompt
from deepsynth.generation.steps import Choice, StaticSteps, can_be_captured
from tests.generation.test_equality import adapted
from tests.helpers.generation import batch_of, load, read, samples, stream, tokenizer_of
from tests.helpers.recorded_graph import RecordedGraph, stand_in

NAME = "deepsynth/tiny-random"
captured = partial(StaticSteps, count=4, graphs=True)


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> list[RecordedGraph]:
    return stand_in(monkeypatch)


@pytest.fixture(scope="module")
def model() -> Any:
    return load(NAME)


def with_adapter(experts: str, *, merged: bool = False) -> Callable[[], Any]:
    def make() -> Any:
        model = adapted(load(NAME), experts)
        return model.merge_and_unload() if merged else model

    return make


@pytest.mark.parametrize(
    "make",
    [lambda: load(NAME), lambda: load(NAME, torch.bfloat16), with_adapter("none"), with_adapter("all")],
    ids=["float32", "bfloat16", "adapter", "adapter on routed experts"],
)
def test_replays_write_what_single_steps_write(make: Any, graphs: list[RecordedGraph]) -> None:
    model = make()
    of = samples(NAME, 5, longest=6)
    expected = stream(model, NAME, of, 11, slots=4, submitted=3, steps=partial(StaticSteps, count=4))
    assert stream(model, NAME, of, 11, slots=4, submitted=3, steps=captured) == expected
    assert len(graphs) >= 2  # four rows; the last ones alone
    assert sum(graph.replays for graph in graphs) > len(graphs)


@pytest.mark.parametrize("name", [NAME, "deepsynth/tiny"])
def test_a_page_and_its_prompt_are_captured_when_they_come_again(name: str, graphs: list[RecordedGraph]) -> None:
    model = load(name)
    of = samples(name, 4, longest=6)
    expected = stream(model, name, of, 5, slots=1, submitted=1)
    assert stream(model, name, of, 5, slots=1, submitted=1, steps=captured) == expected
    # A step, 4 times in each text; the encoders and the prompt from the second text on, so that the last two replay.
    assert [graph.replays for graph in graphs] == [16, 2, 2]


def test_shapes_that_never_end_do_not_fill_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    made = stand_in(monkeypatch)
    graphs = StepGraphs(torch.device("cpu"))
    for _ in range(3):
        for length in range(1, MOST_CALLS + 5):
            found = graphs.call("twice", lambda tensor: tensor * 2, [torch.full((length,), float(length))])
            assert found.tolist() == [2.0 * length] * length
    assert len(made) == len(graphs) == MOST_CALLS


def test_what_a_call_raises_by_itself_is_no_fault_of_graphs(monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(monkeypatch)
    graphs = StepGraphs(torch.device("cpu"))

    def fail(tensor: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("its own")

    with pytest.raises(RuntimeError, match="its own") as raised:
        graphs.call("fails", fail, [torch.zeros(1)])
    assert not isinstance(raised.value, NotCaptured)

    graphs.call("waits", lambda tensor: tensor + tensor.sum().item(), [torch.zeros(1)])
    with pytest.raises(NotCaptured, match="not permitted when stream is capturing"):
        graphs.call("waits", lambda tensor: tensor + tensor.sum().item(), [torch.zeros(1)])


def test_a_prompt_too_long_for_the_cache_voids_graphs_that_read_where_it_was(
    model: Any, graphs: list[RecordedGraph], monkeypatch: pytest.MonkeyPatch
) -> None:
    short, long = samples(NAME, 2, longest=6)
    long = replace(long, input_ids=torch.cat([long.input_ids[: long.prompt_length], torch.full((300,), 7)]))
    long = replace(long, prompt_length=len(long.input_ids), labels=torch.full_like(long.input_ids, -100))
    of = [short, short, long, short, short]
    expected = [stream(model, NAME, [sample], 5, slots=1, submitted=1)[0] for sample in of]
    assert stream(model, NAME, of, 5, slots=1, submitted=1, steps=captured) == expected
    assert graphs


def test_a_cache_that_grows_gives_up_its_graphs_and_their_pool(
    model: Any, graphs: list[RecordedGraph], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(cache_module, "GROWTH", 16)
    monkeypatch.setattr(steps_module, "GROWTH", 16)
    of = samples(NAME, 3, longest=6)
    expected = stream(model, NAME, of, 40, slots=2, submitted=3)
    with caplog.at_level(logging.WARNING, logger="deepsynth"):
        assert stream(model, NAME, of, 40, slots=2, submitted=3, steps=captured) == expected
    assert len(graphs) >= 3
    assert not caplog.records


def test_a_pool_without_a_graph_is_not_asked_for_again(graphs: list[RecordedGraph]) -> None:
    kept, value = StepGraphs(torch.device("cpu")), torch.zeros(1)

    def step() -> None:
        value.add_(1)

    def restore() -> None:
        value.zero_()

    first, second = kept.capture("a", step, restore), kept.capture("b", step, restore)
    assert first.pool() == second.pool()
    kept.clear()
    graphs.clear()
    del first, second
    gc.collect()
    graph = kept.capture("a", step, restore)
    graph.replay()
    graph.replay()
    assert value == 2
    assert len(kept) == 1


def test_what_waits_for_the_host_ends_the_graphs_and_not_the_reading(
    model: Any, graphs: list[RecordedGraph], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    of = samples(NAME, 2, longest=6)
    expected = read(model, NAME, batch_of(NAME, of), 9)
    original = ModelRunner.step

    def waits(self: ModelRunner, tokens: torch.Tensor, *args: Any) -> torch.Tensor:
        assert int(tokens.max()) >= 0
        return original(self, tokens, *args)

    monkeypatch.setattr(ModelRunner, "step", waits)
    with caplog.at_level(logging.WARNING, logger="deepsynth"):
        assert stream(model, NAME, of, 9, slots=2, submitted=2, steps=captured) == expected
    [said] = [record.getMessage() for record in caplog.records if record.name.startswith("deepsynth.")]
    assert "without CUDA graphs" in said
    assert "not permitted when stream is capturing" in said
    assert "advice" not in said


def test_adapters_that_are_switched_off_scaled_or_merged_are_seen(graphs: list[RecordedGraph]) -> None:
    model = adapted(load(NAME), "none")
    batch = batch_of(NAME, samples(NAME, 2, longest=6))
    decoder = Decoder(model, tokenizer_of(NAME), slots=2, steps=captured)

    def written() -> Any:
        decoder.submit(batch, 9)
        found = decoder.advance(drain=True)
        assert found == read(model, NAME, batch, 9)
        return found

    found = [written()]
    with model.disable_adapter():
        found.append(written())
    for module in model.modules():
        if hasattr(module, "scale_layer"):
            module.scale_layer(3.0)
    found.append(written())
    model.merge_adapter()
    found.append(written())
    assert found[0] != found[1]
    assert found[0] != found[2]


def test_adapters_of_vision_that_are_switched_off_are_seen(graphs: list[RecordedGraph]) -> None:
    config = LoraConfig(r=4, target_modules=r".*vision_tower.*\.(qkv|q_proj)", init_lora_weights=False)
    model = get_peft_model(load(NAME), config).eval()
    batch = batch_of(NAME, samples(NAME, 1, longest=6))  # a single page is encoded by a graph
    seen: list[torch.Tensor | None] = []

    class Watching(StaticSteps):
        def prefill(self, prompts: list[Prompt], slots: list[int]) -> list[Choice]:
            seen.extend(prompt.features for prompt in prompts)
            return super().prefill(prompts, slots)

    decoder = Decoder(model, tokenizer_of(NAME), slots=1, steps=partial(Watching, count=4, graphs=True))

    def features() -> torch.Tensor:
        decoder.submit(batch, 2)
        decoder.advance(drain=True)
        found = seen.pop()
        assert found is not None
        return found

    found = [features() for _ in range(3)]
    assert torch.equal(found[0], found[2])
    with model.disable_adapter():
        off = features()
    assert not torch.allclose(off, found[0])
    model.merge_adapter()
    torch.testing.assert_close(features(), found[0], rtol=1e-3, atol=1e-3)


def test_graphs_of_an_earlier_decoder_are_not_collected_during_a_capture(graphs: list[RecordedGraph]) -> None:
    gone: list[Any] = []

    def step() -> None:
        earlier: list[Any] = [RecordedGraph()]
        earlier.append(earlier)  # as a decoder, its reader and its steps know each other
        gone.append(weakref.ref(earlier[0]))
        del earlier
        kept: list[Any] = []
        for _ in range(5000):  # more than Python lets pass without looking for such circles
            kept.append([kept])

    StepGraphs(torch.device("cpu")).capture("step", step, lambda: None)
    assert gone[0]() is None  # from a run that warms up
    assert gc.isenabled()


def test_autocast_keeps_no_copy_of_a_weight_across_steps(
    graphs: list[RecordedGraph], monkeypatch: pytest.MonkeyPatch
) -> None:
    original, kept = ModelRunner.step, []

    def step(*args: Any) -> torch.Tensor:
        kept.append(torch.is_autocast_cache_enabled())
        return original(*args)

    monkeypatch.setattr(ModelRunner, "step", step)
    name = "deepsynth/tiny"
    model, of = load(name), samples(name, 1, longest=4)
    with torch.autocast("cpu", torch.bfloat16):
        expected = stream(model, name, of, 6, slots=1, submitted=1, steps=partial(StaticSteps, count=4))
        kept.clear()
        assert stream(model, name, of, 6, slots=1, submitted=1, steps=captured) == expected
    assert graphs
    assert not any(kept)


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda: load(NAME), marks=pytest.mark.slow),
        pytest.param(with_adapter("none"), marks=pytest.mark.slow),
        lambda: adapted(load(NAME, torch.bfloat16), "none"),
    ],
    ids=["plain", "adapter", "adapter in 16 bits"],
)
def test_a_step_is_one_graph_without_a_break(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """torch traces all of it: no branch depends on what is in a tensor."""
    model, found = make(), []

    def backend(graph: Any, example_inputs: Any) -> Any:
        found.append(graph)
        return graph.forward

    torch._dynamo.reset()
    monkeypatch.setattr(steps_module, "COMPILE_OPTIONS", {"dynamic": False, "fullgraph": True, "backend": backend})
    of = samples(NAME, 2, longest=6)
    expected = stream(model, NAME, of, 9, slots=2, submitted=2)
    assert stream(model, NAME, of, 9, slots=2, submitted=2, steps=partial(StaticSteps, compiled=True)) == expected
    assert len(found) == 1


def test_what_can_be_captured() -> None:
    def of(model: Any) -> bool:
        return can_be_captured(ModelRunner(model))

    assert of(load(NAME, torch.bfloat16))
    assert not of(load(NAME))  # its experts' products would wait
    assert of(load("deepsynth/tiny"))  # has no experts
    assert RowCache(1, 1, torch.device("cpu")).length == 0


def test_what_is_recorded_beforehand_is_all_that_texts_of_these_lengths_need(
    model: Any, graphs: list[RecordedGraph], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache_module, "GROWTH", 64)
    monkeypatch.setattr(steps_module, "GROWTH", 64)
    of = samples(NAME, 6, longest=6)
    expected = stream(model, NAME, of, 40, slots=3, submitted=3)
    decoder = Decoder(model, tokenizer_of(NAME), slots=3, steps=captured)
    shortest = min(sample.prompt_length for sample in of)
    decoder.warm_up(range(shortest, max(sample.prompt_length for sample in of) + 40 + 1))
    recorded = len(graphs)
    assert recorded == 3 * len({-(-length // 64) for length in range(shortest + 4, shortest + 45)})  # 1, 2 and 3 rows
    found = []
    for first in (0, 3):
        decoder.submit(batch_of(NAME, of[first : first + 3]), 40)
        found += decoder.advance(drain=True) or []
    assert found == expected
    assert [graph for graph in graphs[recorded:] if graph.replays == 0] == graphs[recorded:]
