"""The settings of adapters: their scale, their form in files, the weights they may begin with."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModelForImageTextToText

from deepsynth.errors import UserError
from deepsynth.models.lora import LoraSettings, lora_config, untrained_adapters
from deepsynth.models.registry import load_pretrained


def test_by_default_attention_is_adapted_alone() -> None:
    """As ``fit --help`` and the guide on adapters say."""
    assert asdict(LoraSettings()) == {
        "rank": 16, "alpha": None, "dropout": 0.0, "attention": True, "mlp": False, "experts": "none", "vision": False,
        "projector": False, "rslora": False, "dora": False, "init": "default",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("settings", "stored"),
    [
        ({"rank": 4}, (4, 8, "default")),
        ({"rank": 4, "alpha": 3.0, "rslora": True}, (4, 3.0, "default")),
        ({"rank": 4, "init": "gaussian"}, (4, 8, "gaussian")),
        ({"rank": 4, "init": "loftq"}, (4, 8, "loftq")),
        ({"rank": 4, "init": "pissa"}, (8, 16, "default")),
        ({"rank": 4, "alpha": 3.0, "init": "olora"}, (8, 6.0, "default")),
        ({"rank": 4, "alpha": 3.0, "init": "pissa", "rslora": True}, (8, 3.0 * math.sqrt(2), "default")),
    ],
)
def test_adapters_that_begin_as_a_part_of_the_weights_are_stored_with_twice_the_rank(
    settings: dict[str, Any], stored: tuple[int, float, str]
) -> None:
    lora = LoraSettings(**settings)
    found = lora.as_stored()
    assert (found.rank, found.init) == (stored[0], stored[2])
    assert found.scale == pytest.approx(stored[1])
    assert lora.changes_base == (lora.init in ("pissa", "olora"))

    def factor(each: LoraSettings) -> float:  # of the product B A
        return each.scale / (math.sqrt(each.rank) if each.rslora else each.rank)

    assert factor(found) == pytest.approx(factor(lora))


@pytest.mark.parametrize("init", ["default", "gaussian", "loftq", "pissa", "olora"])
@pytest.mark.parametrize("quantization", ["none", "nf4", "int8"])
@pytest.mark.parametrize("weights", ["pretrained", "random"])
@pytest.mark.parametrize("adapter", [None, "runs/a"])
def test_a_start_is_refused_where_the_weights_do_not_allow_it(
    init: Any, quantization: str, weights: str, adapter: str | None
) -> None:
    own = f"model.lora.init is '{init}', "
    reason = None
    if init in ("pissa", "olora"):
        if quantization != "none":
            reason = f"which changes the frozen weights, and model.quantization is {quantization};"
        elif adapter:
            reason = "but training starts from the adapter runs/a;"
    if init == "loftq":
        if quantization != "nf4":
            reason = f"but model.quantization is {quantization};"
        elif weights == "random" and not adapter:
            reason = "but model.weights is random,"
    said = None
    try:
        LoraSettings(init=init).check_base(quantization=quantization, weights=weights, adapter=adapter)
    except UserError as error:
        said = str(error)
    assert said is None if reason is None else (said or "").startswith(own + reason)


@pytest.mark.parametrize("experts", ["none", "shared", "routed", "all"])
@pytest.mark.parametrize("other", [{"dropout": 0.1}, {"dora": True}])
def test_adapters_on_routed_experts_have_neither_dropout_nor_measured_weights(
    experts: Any, other: dict[str, Any]
) -> None:
    if experts in ("none", "shared"):
        assert LoraSettings(experts=experts, **other).experts == experts
        return
    with pytest.raises(UserError, match=r"set model\.lora"):
        LoraSettings(experts=experts, **other)


@pytest.mark.parametrize("init", ["default", "gaussian", "loftq", "pissa", "olora"])
def test_weights_are_measured_before_they_lose_a_part(init: Any) -> None:
    if init in ("default", "gaussian"):
        assert LoraSettings(dora=True, init=init).dora
        return
    with pytest.raises(UserError, match=rf"^model\.lora\.init is '{init}', but model\.lora\.dora measures"):
        LoraSettings(dora=True, init=init)


def test_adapters_without_a_gradient_are_named() -> None:
    model = nn.Module()
    gradients = {"none": None, "zero": torch.zeros(2), "half": torch.tensor([0.0, -1.0])}
    for name, gradient in gradients.items():
        for side in "AB":
            parameter = nn.Parameter(torch.ones(2))
            parameter.grad = gradient
            model.register_parameter(f"lora_{side}_{name}", parameter)
    model.register_parameter("lora_B_frozen", nn.Parameter(torch.ones(2), requires_grad=False))
    assert untrained_adapters(model) == ["lora_B_none", "lora_B_zero"]


def test_experts_of_a_dense_decoder_are_refused_with_the_reason() -> None:
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(load_pretrained(AutoConfig, "deepsynth/full-size-glm-ocr"))
    for experts in ("shared", "routed", "all"):
        expected = rf"model.lora.experts is {experts}, which .* GLM-OCR \(its decoder is dense\); set model"
        with pytest.raises(UserError, match=expected):
            lora_config(model, LoraSettings(experts=experts), base_model_name="base")  # type: ignore[arg-type]
