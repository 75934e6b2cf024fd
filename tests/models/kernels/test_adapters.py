"""Adapters' products are peft's, in training and in generation; on a GPU see ``test_on_gpu``."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn

from deepsynth.generation import Decoder
from deepsynth.models.kernels.adapters import AdapterFactors, AdapterProduct, adapt, add_adapter
from tests.generation.test_equality import adapted
from tests.helpers.generation import batch_of, load, samples, tokenizer_of

NAME = "deepsynth/tiny-random"
cuda = pytest.param(
    "cuda",
    marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")],
)


def adapted_linear(dtype: torch.dtype = torch.float32, *, second: bool = False, **settings: Any) -> Any:
    torch.manual_seed(0)
    config = LoraConfig(**{"r": 4, "target_modules": ["0"], "init_lora_weights": False, **settings})
    peft = get_peft_model(nn.Sequential(nn.Linear(24, 40)).to(dtype), config)
    if second:
        peft.add_adapter("other", config)
    return peft.base_model.model[0]


def result(function: Any, layer: Any, x: torch.Tensor) -> list[torch.Tensor]:
    torch.manual_seed(1)
    layer.zero_grad()
    x = x.clone().requires_grad_()
    output = function(layer, x)
    output.square().sum().backward()
    trained = [parameter.grad for parameter in layer.parameters() if parameter.requires_grad]
    return [output.detach(), x.grad, *(gradient.clone() for gradient in trained)]


@pytest.mark.parametrize(
    "settings",
    [{}, {"use_rslora": True}, {"lora_dropout": 0.3}, {"use_dora": True}, {"lora_bias": True}],
    ids=lambda settings: next(iter(settings), "plain"),
)
def test_outputs_and_gradients_are_those_of_peft(settings: dict[str, Any]) -> None:
    layer = adapted_linear(**settings)
    x = torch.randn(2, 5, 24, generator=torch.Generator().manual_seed(2))
    ours, theirs = (result(function, layer, x) for function in (adapt, type(layer).forward))
    assert len(ours) == len(theirs) >= 4
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_adapters_of_float32_train_through_products_of_16_bits() -> None:
    layer, exact = adapted_linear(torch.bfloat16), adapted_linear()
    exact.load_state_dict(layer.state_dict())
    x = torch.randn(3, 24, generator=torch.Generator().manual_seed(2)).bfloat16()
    ours, theirs = result(adapt, layer, x), result(type(layer).forward, layer, x)
    truth = result(type(exact).forward, exact, x.float())
    assert [tensor.dtype for tensor in ours] == [tensor.dtype for tensor in theirs]
    assert ours[2].dtype == torch.float32
    for one, other, wanted in zip(ours, theirs, truth, strict=True):
        distances = [float((found.float() - wanted).norm() / wanted.norm()) for found in (one, other)]
        assert distances[0] < 2 * distances[1] + 4e-3


@pytest.mark.parametrize("device", ["cpu", cuda])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("shape", [(1, 1280, 1280, 16), (40, 96, 200, 5), (65, 64, 48, 8)], ids=str)
def test_products_on_few_rows_are_as_near_to_the_truth_as_torch(
    device: str, dtype: torch.dtype, shape: tuple[int, int, int, int]
) -> None:
    generator, (rows, inputs, outputs, rank) = torch.Generator().manual_seed(3), shape
    shapes = (rows, 1, outputs), (rows, 1, inputs), (rank, inputs), (outputs, rank)
    tensors = [torch.randn(shape, generator=generator).to(device, dtype) for shape in shapes]
    base, x, left, right = (tensor.double() for tensor in tensors)
    wanted = base + (x @ left.T) @ right.T
    in_torch = tensors[0] + (tensors[1] @ tensors[2].T) @ tensors[3].T
    found = add_adapter(*tensors)
    assert found.shape == wanted.shape
    assert float((found - wanted).norm()) < 1.1 * float((in_torch - wanted).norm())


def test_the_input_gets_its_gradient_whether_or_not_the_base_needs_one() -> None:
    generator = torch.Generator().manual_seed(0)
    base, x, left, right = (torch.randn(*shape, generator=generator) for shape in ((2, 3), (2, 4), (1, 4), (3, 1)))
    product: Any = AdapterProduct.apply
    for needs in ((True, False), (False, True)):
        given = [one.clone().requires_grad_(needed) for one, needed in zip((base, x), needs, strict=True)]
        product(*given, left, right, 2.0, None, None).sum().backward()
        expected = (torch.ones_like(base), torch.ones_like(base) @ (2 * right @ left))
        for one, wanted, needed in zip(given, expected, needs, strict=True):
            assert (one.grad is not None) == needed
            if one.grad is not None:
                torch.testing.assert_close(one.grad, wanted)


def test_factors_in_16_bits_follow_the_adapters_that_train() -> None:
    layer, factors = adapted_linear(torch.bfloat16), AdapterFactors(torch.bfloat16)
    x = torch.randn(3, 24, generator=torch.Generator().manual_seed(2)).bfloat16()
    seen = []
    for _ in range(3):
        plain = result(adapt, layer, x)
        with factors.cast_adapters([layer]):
            places = [factor.data_ptr() for factor in layer.factors["default"]]
            found = result(adapt, layer, x)
        for one, other in zip(found, plain, strict=True):
            torch.testing.assert_close(one, other)
        seen.append((found[0], places))
        for factor in (layer.lora_A, layer.lora_B):
            factor["default"].weight.data.mul_(1.5)  # as an average of weights would, unseen by autograd
    assert not torch.equal(seen[0][0], seen[1][0])
    assert seen[0][1] == seen[2][1]  # a captured graph reads them there
    layer.set_scale("default", 0.25)
    with torch.no_grad(), factors.cast_adapters([layer]):
        torch.testing.assert_close(adapt(layer, x), type(layer).forward(layer, x), rtol=2e-2, atol=2e-2)
    assert "factors" not in vars(layer)  # who runs the layer next may have trained it


def test_a_second_forward_pass_before_the_backward_pass() -> None:
    layer, factors = adapted_linear(torch.bfloat16), AdapterFactors(torch.bfloat16)
    x = torch.randn(3, 24).bfloat16().requires_grad_()
    total = torch.zeros(())
    for _ in range(2):
        with factors.cast_adapters([layer]):
            total = total + adapt(layer, x).float().square().sum()
    (gradient,) = torch.autograd.grad(total, x)
    (wanted,) = torch.autograd.grad(2 * adapt(layer, x).float().square().sum(), x)
    torch.testing.assert_close(gradient, wanted)


def test_factors_that_were_made_in_inference_mode_train() -> None:
    layer, factors = adapted_linear(torch.bfloat16), AdapterFactors(torch.bfloat16)
    x = torch.randn(3, 24).bfloat16()
    with torch.inference_mode(), factors.cast_adapters([layer]):
        adapt(layer, x)
    with factors.cast_adapters([layer]):
        adapt(layer, x).float().square().sum().backward()
    assert layer.lora_A["default"].weight.grad is not None


def test_factors_of_an_adapter_that_was_replaced() -> None:
    layer, factors = adapted_linear(torch.bfloat16), AdapterFactors(torch.bfloat16)
    x = torch.randn(3, 24).bfloat16()
    for rank in (4, 8, 1):
        layer.update_layer("default", r=rank, lora_alpha=rank, config=LoraConfig(init_lora_weights=False))
        plain = result(adapt, layer, x)
        with factors.cast_adapters([layer]):
            torch.testing.assert_close(result(adapt, layer, x)[0], plain[0])


@pytest.mark.parametrize("state", ["disabled", "merged", "two active", "none active"])
def test_what_is_unusual_is_left_to_peft(state: str) -> None:
    layer = adapted_linear(second=True)
    if state == "disabled":
        layer.enable_adapters(False)
    elif state == "merged":
        layer.merge()
    else:
        layer.set_adapter(["default", "other"] if state == "two active" else [])
    x = torch.randn(3, 24, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        assert torch.equal(adapt(layer, x), type(layer).forward(layer, x))


def test_generation_sees_adapters_that_were_trained_since_and_leaves_nothing_behind() -> None:
    model, of = adapted(load(NAME, torch.bfloat16), "none"), samples(NAME, 2)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data = parameter.data.float()
    before = {name: dict(vars(module)) for name, module in model.named_modules()}

    def read(decoder: Decoder) -> list[str]:
        decoder.submit(batch_of(NAME, of, dtype=torch.bfloat16), 12)
        return [generation.text for generation in decoder.advance(drain=True) or []]

    decoder = Decoder(model, tokenizer_of(NAME), slots=2)
    first = read(decoder)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.mul_(-3)
    second = read(decoder)
    assert second == read(Decoder(model, tokenizer_of(NAME), slots=2))
    assert second != first
    for name, module in model.named_modules():
        assert vars(module).keys() == before[name].keys(), name
