"""Frozen weights in 4 and 8 bits: the numbers, the gradients, the memory, the table."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModelForImageTextToText

from deepsynth.models.quantization.nf4_experts import Nf4Experts, Nf4Tensor, expert_parameters, grouped_mm
from deepsynth.models.quantization.quantize import Quantization, quantize, require_bitsandbytes
from deepsynth.models.quantization.weight_table import count_parameters, format_weight_table, weight_table
from deepsynth.models.random_weights import fill_with_random_weights
from deepsynth.models.registry import load_pretrained, resolve_model_name

CPU = torch.device("cpu")
NF4 = Quantization("nf4", double=True, compute_dtype=torch.float32, vision=True)
needs_bitsandbytes = pytest.mark.skipif(
    __import__("importlib.util").util.find_spec("bitsandbytes") is None,
    reason="bitsandbytes is not installed (extra gpu)",
)


def load(name: str = "deepsynth/tiny-random", dtype: torch.dtype = torch.float32) -> Any:
    return load_pretrained(AutoModelForImageTextToText, name, dtype=dtype)


def on_meta(name: str, dtype: torch.dtype = torch.float32) -> Any:
    with torch.device("meta"):
        return AutoModelForImageTextToText.from_config(
            AutoConfig.from_pretrained(resolve_model_name(name)), dtype=dtype
        )


def experts_of(model: Any) -> Any:
    return model.model.language_model.layers[1].mlp.experts


def with_dequantized(experts: Any, quantized: Nf4Experts) -> Any:
    """Return transformers' experts with the weights that the quantized ones stand for."""
    with torch.no_grad():
        for name in Nf4Experts.PARAMETERS:
            getattr(experts, name).copy_(quantized.quantized(name).dequantize())
    return experts


@pytest.fixture
def routed() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Hidden states (20, 128), experts (20, 2) of 8 and their weights."""
    torch.manual_seed(0)
    index = torch.stack([torch.randperm(8)[:2] for _ in range(20)])
    return torch.randn(20, 128), index, torch.rand(20, 2)


@needs_bitsandbytes
@pytest.mark.parametrize("double", [True, False])
@pytest.mark.parametrize("shape", [(8, 64, 128), (8, 64, 96), (3, 6, 8)])
def test_weights_come_back_within_a_level_of_nf4(double: bool, shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    weight = torch.randn(shape)
    tensor = Nf4Tensor(weight, double=double, compute_dtype=torch.float32)
    # The widest gap of nf4's levels is 0.304 of a block's maximum: at most half of it, and what the scales lost.
    assert (tensor.dequantize() - weight).abs().max() < 0.5 * 0.304 * weight.abs().max() * 1.1
    assert (tensor.dequantize() - weight).norm() < 0.11 * weight.norm()  # with the scales of other blocks 0.24
    if tensor.can_gather:
        chosen = torch.tensor([2, 0, 2])
        assert torch.equal(tensor.dequantize(chosen), tensor.dequantize()[chosen])


@needs_bitsandbytes
def test_experts_compute_what_transformers_computes_with_the_same_weights(routed: Any) -> None:
    experts = experts_of(load())
    quantized = Nf4Experts(experts, device=CPU, double=True, compute_dtype=torch.float32)
    reference = with_dequantized(experts, quantized)
    hidden, index, weights = routed
    hidden.requires_grad_()
    expected, found = reference(hidden, index, weights), quantized(hidden, index, weights)
    torch.testing.assert_close(found, expected)
    direction = torch.randn_like(expected)
    (gradient,) = torch.autograd.grad(found, hidden, direction)
    torch.testing.assert_close(gradient, torch.autograd.grad(expected, hidden, direction)[0])


@needs_bitsandbytes
def test_single_tokens_dequantize_their_experts_alone(routed: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    quantized = Nf4Experts(experts_of(load()), device=CPU, double=True, compute_dtype=torch.float32)
    hidden, index, weights = (tensor[:2] for tensor in routed)
    expected = quantized(hidden, index, weights)
    asked: list[Any] = []
    dequantize = Nf4Tensor.dequantize
    monkeypatch.setattr(
        Nf4Tensor, "dequantize", lambda self, which=None: asked.append(which) or dequantize(self, which)
    )
    with torch.inference_mode():
        found = quantized(hidden, index, weights)
    torch.testing.assert_close(found, expected.detach())
    assert [len(which) for which in asked] == [4, 4]


@needs_bitsandbytes
@pytest.mark.parametrize("tokens", range(1, 9))
def test_a_few_tokens_read_no_expert_that_none_of_them_has(tokens: int) -> None:
    quantized = Nf4Experts(experts_of(load()), device=CPU, double=False, compute_dtype=torch.float32)
    torch.manual_seed(tokens)
    index = torch.stack([torch.randperm(4)[:2] * 2 + 1 for _ in range(tokens)])  # of 8 experts the odd ones at most
    hidden, weights = torch.randn(tokens, 128), torch.rand(tokens, 2)
    expected = quantized(hidden, index, weights).detach()
    for name in Nf4Experts.PARAMETERS:
        scales = quantized.quantized(name).scale.data.view(8, -1)
        for expert in set(range(8)) - set(index.flatten().tolist()):
            scales[expert] = torch.nan
    with torch.inference_mode():
        torch.testing.assert_close(quantized(hidden, index, weights), expected)


@needs_bitsandbytes
def test_parameters_of_experts_show_as_they_were_and_take_no_memory() -> None:
    experts = experts_of(load())
    quantized = Nf4Experts(experts, device=CPU, double=True, compute_dtype=torch.bfloat16)
    with expert_parameters(nn.ModuleList([quantized])):
        for name in Nf4Experts.PARAMETERS:
            shown = getattr(quantized, name)
            assert (shown.shape, shown.dtype) == (getattr(experts, name).shape, torch.bfloat16)
            assert shown.untyped_storage().nbytes() == 2  # one number for all
            assert not shown.requires_grad
    assert not hasattr(quantized, "down_proj")


def saved_for_backward(call: Callable[[], torch.Tensor]) -> int:
    """Return the size of the largest tensor that autograd keeps, in numbers."""
    sizes = [0]

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        sizes.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        call()
    return max(sizes)


@needs_bitsandbytes
def test_autograd_keeps_no_dequantized_experts(routed: Any) -> None:
    quantized = Nf4Experts(experts_of(load()), device=CPU, double=True, compute_dtype=torch.float32)
    weight = quantized.quantized("gate_up_proj")
    full = weight.dequantize().numel()
    hidden, index, weights = routed
    hidden.requires_grad_()
    assert saved_for_backward(lambda: quantized(hidden, index, weights)) < full / 4
    # What the layer is there to avoid, seen by the same measurement.
    ends = torch.full((8,), 20, dtype=torch.int32)
    assert saved_for_backward(lambda: grouped_mm(hidden, weight.dequantize().transpose(-2, -1), ends)) >= full


@needs_bitsandbytes
@pytest.mark.parametrize("kind", ["nf4", "int8"])
@pytest.mark.parametrize("vision", [True, False])
def test_what_is_quantized_and_that_the_rest_keeps_its_dtype(kind: Any, vision: bool) -> None:
    model = load(dtype=torch.bfloat16)
    before = {name: p.dtype for name, p in model.named_parameters()}
    assert set(before.values()) == {torch.bfloat16}
    quantize(model, Quantization(kind, double=True, compute_dtype=torch.bfloat16, vision=vision), CPU)
    stored = torch.uint8 if kind == "nf4" else torch.int8
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            covered = "language_model" in name or ("vision_tower" in name and vision)
            assert module.weight.dtype == (stored if covered else torch.bfloat16), name
    for name, parameter in model.named_parameters():
        if not name.rpartition(".")[2].startswith("scale"):
            assert parameter.dtype in (torch.bfloat16, stored), name
    assert isinstance(experts_of(model), Nf4Experts) == (kind == "nf4")


@needs_bitsandbytes
def test_eight_bits_take_the_windows_of_vision() -> None:
    """Inputs of four dimensions, in one of whose columns are outliers."""
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Linear(64, 48))
    x = torch.randn(3, 5, 7, 64)
    x[..., 10] *= 20
    expected = layers(x)
    quantize(layers, Quantization("int8", double=True, compute_dtype=torch.float32, vision=True), CPU, "vision_tower.")
    found = layers(x)
    assert found.shape == expected.shape == (3, 5, 7, 48)
    assert (found - expected).norm() < 0.02 * expected.norm()


@needs_bitsandbytes
@pytest.mark.parametrize("kind", ["nf4", "int8"])
def test_the_table_counts_every_byte(kind: Any) -> None:
    model = load()
    whole, numbers = sum(p.nbytes for p in model.parameters()), sum(p.numel() for p in model.parameters())
    plain = {row.group: row for row in weight_table(model, torch.float32)}
    quantize(model, Quantization(kind, double=True, compute_dtype=torch.float32, vision=False), CPU)
    rows = {row.group: row for row in weight_table(model, torch.float32)}
    assert sum(row.bytes_before for row in rows.values()) == whole
    assert sum(row.parameters for row in rows.values()) == count_parameters(model) == numbers
    for group, row in rows.items():
        assert row.parameters == plain[group].parameters
        assert row.bytes_before == plain[group].bytes_before == plain[group].bytes_after
        shrinks = group in {"attention", "dense MLP", "shared experts"} or (group == "routed experts" and kind == "nf4")
        assert row.bytes_after < 0.3 * row.bytes_before if shrinks else row.bytes_after == row.bytes_before, group
    lines = format_weight_table(list(rows.values())).splitlines()
    assert lines[0].split() == ["weights", "parameters", "before", "now", "bits"]
    assert f"{numbers:,}" in lines[-1]


@needs_bitsandbytes
def test_nf4_of_a_published_size_weighs_what_it_should() -> None:
    """Two experts of the published size: 4 bits, a byte for 64 of them, 4 for 64 * 256."""
    weight = torch.empty(2, 1280, 896, dtype=torch.bfloat16).normal_(std=0.02)
    tensor = Nf4Tensor(weight, double=True, compute_dtype=torch.bfloat16)
    stored = sum(p.nbytes for p in tensor.parameters())
    assert stored * 8 / weight.numel() == pytest.approx(4 + 8 / 64 + 32 / (64 * 256), abs=0.004)


@needs_bitsandbytes
@pytest.mark.parametrize("name", ["deepsynth/full-size-ocr", "deepsynth/full-size-ocr-2"])
def test_full_size_weights_in_nf4_are_within_the_budget(name: str) -> None:
    """By the sizes of a model on the meta device and the bits that the layers above were measured to take."""
    rows = {row.group: row for row in weight_table(on_meta(name, torch.bfloat16), torch.bfloat16)}
    linear = sum(
        module.weight.numel()
        for path, module in on_meta(name).named_modules()
        if isinstance(module, nn.Linear) and NF4.covers(path)
    )
    quantized = linear + rows["routed experts"].parameters
    rest = sum(row.parameters for row in rows.values()) - quantized
    assert (quantized * 4.127 / 8 + rest * 2) / 2**30 < 2.6


@pytest.mark.parametrize("name", ["deepsynth/tiny-random", "deepsynth/tiny"])
def test_random_weights_are_as_the_constructor_makes_them(name: str) -> None:
    model = on_meta(name)
    torch.manual_seed(0)
    fill_with_random_weights(model, CPU)
    reference = AutoModelForImageTextToText.from_config(model.config, dtype=torch.float32)
    for buffer_name, buffer in reference.named_buffers():
        assert torch.equal(model.get_buffer(buffer_name), buffer), buffer_name
    for parameter_name, parameter in reference.named_parameters():
        own = model.get_parameter(parameter_name)
        assert own.shape == parameter.shape
        assert bool(own.isfinite().all()), parameter_name
        if parameter.numel() > 500:
            assert own.std().item() == pytest.approx(parameter.std().item(), rel=0.25), parameter_name


@needs_bitsandbytes
def test_a_seed_gives_a_model_and_its_quantized_twin_the_same_weights_layer_by_layer() -> None:
    models, whole = [on_meta("deepsynth/tiny-random"), on_meta("deepsynth/tiny-random")], []

    def on_layer(layer: nn.Module, prefix: str) -> None:
        quantize(layer, NF4, CPU, prefix)
        whole.append(
            sum(p.numel() for n, p in models[1].named_parameters() if n.endswith("gate_up_proj") and not p.is_meta)
        )

    torch.manual_seed(3)
    fill_with_random_weights(models[0], CPU)
    torch.manual_seed(3)
    fill_with_random_weights(models[1], CPU, on_layer)
    assert max(whole) == 0  # no layer is filled before the one before it is quantized
    assert torch.equal(models[0].lm_head.weight, models[1].lm_head.weight)
    first, twin = experts_of(models[0]).down_proj, experts_of(models[1]).quantized("down_proj")
    assert torch.equal(Nf4Tensor(first.data, double=True, compute_dtype=torch.float32).packed, twin.packed)


def test_a_missing_bitsandbytes_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "bitsandbytes", None)
    with pytest.raises(ValueError, match=r"model\.quantization is nf4.*pip install 'deepsynth-ocr\[gpu\]'") as caught:
        require_bitsandbytes("nf4")
    assert "\n" not in str(caught.value)


@needs_bitsandbytes
@pytest.mark.parametrize("double", [True, False])
@pytest.mark.parametrize("inputs", [64, 96])
def test_a_linear_layer_multiplies_by_what_it_keeps(inputs: int, double: bool) -> None:
    """Also where rows are no whole blocks, and blocks have scales of very different size."""
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Linear(inputs, 32))
    layers[0].weight.data.mul_(torch.logspace(-1, 1, 32)[:, None])
    x = torch.randn(5, 3, inputs, requires_grad=True)
    expected = layers(x)
    direction = torch.randn_like(expected)
    expected_grad = torch.autograd.grad(expected, x, direction)[0]
    how = Quantization("nf4", double=double, compute_dtype=torch.float32, vision=True)
    quantize(layers, how, CPU, "vision_tower.")
    found = layers(x)
    assert (found - expected).norm() < 0.15 * expected.norm()
    assert (torch.autograd.grad(found, x, direction)[0] - expected_grad).norm() < 0.15 * expected_grad.norm()
    with torch.inference_mode():
        assert (layers.eval()(x) - expected).norm() < 0.15 * expected.norm()
