"""Weights in 4 bits, routed experts too: the texts are those of transformers' generate on the same module."""

from __future__ import annotations

from functools import partial
from importlib.util import find_spec
from typing import Any

import pytest
import torch

from deepsynth.generation.model_runner import ModelRunner
from deepsynth.generation.steps import StaticSteps, can_be_captured
from deepsynth.models.quantization.nf4_experts import Nf4Experts
from tests.helpers.generation import batch_of, read, samples, stream
from tests.helpers.recorded_graph import stand_in
from tests.helpers.training import make_module

pytestmark = pytest.mark.skipif(find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed (extra gpu)")

NAME = "deepsynth/tiny-random"


def quantized(experts: str, **kwargs: Any) -> Any:
    """Return peft's model around one in 4 bits, with an adapter that changes what it writes."""
    module = make_module(
        model_name=NAME, quantization="nf4", experts=experts, dtype=kwargs.pop("dtype", "float32"), **kwargs
    )
    module.configure_model()
    torch.manual_seed(1)
    with torch.no_grad():
        for name, parameter in module.model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=1.0)  # texts whose tokens differ
    return module.model.eval()


def check(model: Any, of: list[Any], most: int) -> Any:
    alone = [read(model, NAME, batch_of(NAME, [sample]), most, "transformers")[0] for sample in of]
    assert [read(model, NAME, batch_of(NAME, [sample]), most)[0] for sample in of] == alone
    together = batch_of(NAME, of)
    assert read(model, NAME, together, most) == read(model, NAME, together, most, "transformers") == alone
    assert stream(model, NAME, of, most, slots=2, submitted=2, steps=partial(StaticSteps, count=4)) == alone
    return alone


@pytest.mark.parametrize("experts", [pytest.param("none", marks=pytest.mark.slow), "all"])
def test_adapters_on_and_off(experts: str) -> None:
    model, of = quantized(experts), samples(NAME, 2, longest=6)
    assert any(isinstance(module, Nf4Experts) for module in model.modules())
    found = check(model, of, 8)
    assert found[0] != found[1]
    with model.disable_adapter():
        assert check(model, of, 4)[0].text != found[0].text


@pytest.mark.filterwarnings("ignore:Merge lora module to 4-bit")
def test_merged() -> None:
    model, of = quantized("none"), samples(NAME, 2, longest=6)
    with model.disable_adapter():
        plain = read(model, NAME, batch_of(NAME, of), 8)
    model.merge_adapter()
    assert check(model, of, 8) != plain


@pytest.mark.slow
def test_steps_can_be_captured(monkeypatch: pytest.MonkeyPatch) -> None:
    graphs = stand_in(monkeypatch)
    model, of = quantized("all", dtype="bfloat16"), samples(NAME, 3, longest=6)
    assert can_be_captured(ModelRunner(model))
    expected = stream(model, NAME, of, 9, slots=2, submitted=3, steps=partial(StaticSteps, count=4))
    captured = partial(StaticSteps, count=4, graphs=True)
    assert stream(model, NAME, of, 9, slots=2, submitted=3, steps=captured) == expected
    assert sum(graph.replays for graph in graphs) > 2
    assert not can_be_captured(ModelRunner(quantized("none", dtype="float16")))
