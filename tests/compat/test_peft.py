"""What the package assumes of peft's private parts."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn

from deepsynth.compat.peft import (
    is_expert_adapter,
    is_linear_adapter,
    parameter_adapter_class,
    register_custom_module,
)
from deepsynth.errors import UserError


class Experts(nn.Module):
    """A fused parameter, multiplied with its adapters by the layer itself."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(2, 4, 4), requires_grad=False)
        self.active: dict[str, list[tuple[torch.Tensor, torch.Tensor, float]]] = {}
        self.seen: list[tuple[torch.Tensor, torch.Tensor, float]] = []

    def placeholder(self, name: str) -> torch.Tensor:
        found: torch.Tensor = getattr(self, name)
        return found

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen = list(self.active.get("weight", []))
        return x @ self.weight[0]


def adapted(config: LoraConfig) -> Any:
    model = nn.Sequential()
    model.add_module("linear", nn.Linear(4, 4))
    model.add_module("experts", Experts())
    return get_peft_model(model, config)


def test_adapters_are_known_by_their_classes() -> None:
    model = adapted(LoraConfig(r=2, target_modules=["linear"], target_parameters=["experts.weight"])).base_model.model
    assert is_linear_adapter(model.linear)
    assert not is_linear_adapter(model.experts)
    assert is_expert_adapter(model.experts, ("weight",))
    assert not is_expert_adapter(model.experts, ("weight", "other"))
    assert not is_expert_adapter(model.linear, ("weight",))


def test_quantized_layers_have_adapters_of_known_classes() -> None:
    bnb = pytest.importorskip("bitsandbytes")
    base = nn.Sequential()
    base.add_module("linear", bnb.nn.Linear8bitLt(4, 4, has_fp16_weights=False))
    base.is_loaded_in_8bit = True
    model = get_peft_model(base, LoraConfig(r=2, target_modules=["linear"]))
    assert is_linear_adapter(model.base_model.model.linear)


def test_a_layer_gets_the_factors_of_its_adapters_for_a_call() -> None:
    config = LoraConfig(r=2, lora_alpha=4, target_modules=[], target_parameters=["experts.weight"])
    register_custom_module(config, Experts, parameter_adapter_class("not here"))
    model = adapted(config)
    wrapper = model.base_model.model.experts
    experts = wrapper.get_base_layer()
    assert isinstance(experts, Experts)
    x = torch.randn(3, 4)
    assert torch.equal(wrapper(x), x @ experts.weight[0])  # peft added nothing to the weights
    [(left, right, scale)] = experts.seen
    assert left.shape == (2, 4, 2)
    assert right.shape == (2, 2, 4)
    assert scale == 2.0
    assert not experts.active
    with pytest.raises(UserError, match="not here"):
        wrapper.merge()
