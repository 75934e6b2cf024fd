"""Frozen experts give transformers' outputs and gradients."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import MethodType, SimpleNamespace
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from peft.tuners.lora.layer import ParamWrapper
from transformers.integrations.moe import grouped_mm_experts_forward
from transformers.models.deepseek_ocr2.configuration_deepseek_ocr2 import DeepseekOcr2TextConfig
from transformers.models.deepseek_ocr2.modeling_deepseek_ocr2 import DeepseekOcr2TextExperts, DeepseekOcr2TextTopkRouter

from deepsynth.models.kernels.decoder import fast_forward_for
from deepsynth.models.kernels.experts import (
    block_of,
    choose_experts,
    gated_product,
    gated_product_backward,
    sort_by_expert,
    sum_of_experts,
)
from deepsynth.models.kernels.frozen_experts import (
    ALWAYS,
    IN_TRAINING,
    frozen_experts_forward,
    frozen_experts_of,
    register,
    takes_adapters,
)

cuda = pytest.param(
    "cuda",
    marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")],
)
devices = pytest.mark.parametrize("device", ["cpu", cuda])


def experts_of(device: str, dtype: torch.dtype = torch.float32) -> Any:
    config = DeepseekOcr2TextConfig(hidden_size=64, moe_intermediate_size=48, n_routed_experts=8)
    experts = DeepseekOcr2TextExperts(config)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in experts.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) / 8)
    return experts.to(device=device, dtype=dtype).requires_grad_(False)


def routed(tokens: int, device: str, dtype: torch.dtype = torch.float32, used: int = 8) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    hidden = torch.randn(tokens, 64, generator=generator).to(device=device, dtype=dtype).requires_grad_()
    scores = torch.rand(tokens, 8, generator=generator)
    scores[:, used:] = 0
    weights, indices = scores.topk(3)
    return [hidden, indices.to(device), weights.to(device).requires_grad_()]


def run(function: Any, experts: Any, tensors: list[torch.Tensor]) -> list[torch.Tensor]:
    hidden, indices, weights = tensors
    output = function(experts, hidden, indices, weights)
    above = torch.randn(output.shape, generator=torch.Generator().manual_seed(2)).to(output)
    return [output.detach(), *torch.autograd.grad(output, (hidden, weights), above)]


@devices
@pytest.mark.parametrize(("tokens", "used"), [(50, 8), (7, 4), (1, 3)])
def test_outputs_and_gradients_are_those_of_transformers(device: str, tokens: int, used: int) -> None:
    experts = experts_of(device)
    ours = run(frozen_experts_forward, experts, routed(tokens, device, used=used))
    theirs = run(grouped_mm_experts_forward, experts, routed(tokens, device, used=used))
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


@devices
def test_in_bfloat16_they_are_as_near_to_the_truth_as_transformers(device: str) -> None:
    truth = run(grouped_mm_experts_forward, experts_of(device), routed(200, device))
    experts, kind = experts_of(device, torch.bfloat16), torch.bfloat16
    ours = run(frozen_experts_forward, experts, routed(200, device, kind))
    theirs = run(grouped_mm_experts_forward, experts, routed(200, device, kind))
    for one, other, wanted in zip(ours, theirs, truth, strict=True):
        distances = [float((found.float() - wanted).norm() / wanted.norm()) for found in (one, other)]
        assert distances[0] < 1.1 * distances[1] + 1e-4


def test_experts_that_train_are_left_to_transformers() -> None:
    experts = experts_of("cpu")
    experts.down_proj.requires_grad_()
    hidden, indices, weights = routed(5, "cpu")
    frozen_experts_forward(experts, hidden, indices, weights).sum().backward()
    assert experts.down_proj.grad is not None
    assert experts.down_proj.grad.abs().sum() > 0


@pytest.mark.parametrize(
    ("implementation", "training", "change", "trains", "takes"),
    [
        (IN_TRAINING, True, None, True, True),
        (IN_TRAINING, False, None, True, False),
        (ALWAYS, True, None, True, True),
        (ALWAYS, False, None, True, True),
        ("grouped_mm", True, None, False, False),
        (None, True, None, False, False),
        (ALWAYS, True, "gelu", False, False),
        (ALWAYS, True, "gate_up_proj trains", False, False),
        (ALWAYS, True, "down_proj trains", False, False),
        (ALWAYS, True, "16 bits", True, False),
        (ALWAYS, True, "shared out", True, False),
    ],
)
def test_who_computes_experts_is_chosen_by_what_they_are(
    implementation: str | None, training: bool, change: str | None, trains: bool, takes: bool
) -> None:
    """Both ways compute the same numbers, so that a wrong choice would cost memory and nothing else."""
    experts = experts_of("cpu").train(training)
    experts.config._experts_implementation = implementation
    hidden = routed(2, "cpu")[0].detach()
    if change == "gelu":
        experts.act_fn = torch.nn.GELU()
    elif change == "16 bits":
        hidden = hidden.bfloat16()
    elif change == "shared out":
        experts._is_expert_parallel = True
    elif change is not None:
        getattr(experts, change.partition(" ")[0]).requires_grad_()
    layer = SimpleNamespace(mlp=SimpleNamespace(experts=experts))
    assert frozen_experts_of(layer) is (experts if trains else None)
    assert takes_adapters(experts, hidden) is takes
    wrapped = SimpleNamespace(mlp=SimpleNamespace(experts=SimpleNamespace(get_base_layer=lambda: experts)))
    assert frozen_experts_of(wrapped) is frozen_experts_of(layer)
    with torch.no_grad():  # nothing trains there
        assert takes_adapters(experts, hidden) is (takes or "trains" in (change or ""))


def test_a_layer_without_experts_has_none() -> None:
    assert frozen_experts_of(SimpleNamespace()) is None
    assert frozen_experts_of(SimpleNamespace(mlp=SimpleNamespace(experts=None))) is None


PARAMETERS = ("gate_up_proj", "down_proj")


def adapted(device: str, dtype: torch.dtype, parameters: tuple[str, ...] = PARAMETERS, adapters: int = 1) -> Any:
    """Return experts with LoRA on them, in peft's wrappers, whose factors are none of them zero."""
    holder = torch.nn.Module()
    holder.mlp = torch.nn.Module()
    holder.mlp.experts = experts_of(device, dtype)
    register()
    holder.mlp.experts.config._experts_implementation = IN_TRAINING
    config = LoraConfig(
        r=3, lora_alpha=5, target_modules=[], target_parameters=[f"mlp.experts.{n}" for n in parameters]
    )
    model = get_peft_model(holder, config)  # type: ignore[arg-type]
    for number in range(1, adapters):
        model.add_adapter(f"more{number}", config)
        model.base_model.set_adapter(["default", *(f"more{n}" for n in range(1, number + 1))])
    generator = torch.Generator().manual_seed(2)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data = torch.randn(parameter.shape, generator=generator).to(device, torch.float32) / 4
            parameter.requires_grad_()
    return model.train()


def with_gradients(model: Any, tensors: list[torch.Tensor]) -> dict[str, torch.Tensor]:
    hidden, indices, weights = tensors
    output = model.base_model.model.mlp.experts(hidden, indices, weights)
    above = torch.randn(output.shape, generator=torch.Generator().manual_seed(2)).to(output)
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trained
    gradients = torch.autograd.grad(output, [hidden, weights, *trained.values()], above)
    return {"output": output.detach(), **dict(zip(["hidden", "weights", *trained], gradients, strict=True))}


@devices
@pytest.mark.parametrize(
    ("parameters", "adapters", "used"),
    [(PARAMETERS, 1, 8), (PARAMETERS, 1, 4), (PARAMETERS[:1], 1, 8), (PARAMETERS[1:], 1, 8), (PARAMETERS, 2, 8)],
)
def test_adapters_beside_the_experts_are_pefts_sums(
    device: str, parameters: tuple[str, ...], adapters: int, used: int
) -> None:
    tensors = routed(50, device, used=used)
    wanted = with_gradients(adapted(device, torch.float32, parameters, adapters), tensors)
    model = adapted(device, torch.float32, parameters, adapters)
    install_fast_forwards(model)
    with without_parametrization():
        found = with_gradients(model, tensors)
    assert found.keys() == wanted.keys()
    for name, one in found.items():
        torch.testing.assert_close(
            one, wanted[name], rtol=1e-3, atol=1e-4, msg=lambda text, name=name: f"{name}: {text}"
        )
    assert found["output"].abs().sum() > 0


@devices
def test_adapters_in_bfloat16_are_as_near_to_the_truth_as_peft(device: str) -> None:
    truth = with_gradients(adapted(device, torch.float32), routed(200, device))
    theirs = with_gradients(adapted(device, torch.bfloat16), routed(200, device, torch.bfloat16))
    model = adapted(device, torch.bfloat16)
    install_fast_forwards(model)
    ours = with_gradients(model, routed(200, device, torch.bfloat16))
    for name, wanted in truth.items():
        near, far = (float((found[name].float() - wanted).norm() / wanted.norm()) for found in (ours, theirs))
        assert near < 1.2 * far + 1e-3, name


def test_adapters_that_are_switched_off_or_merged_are_left_to_peft() -> None:
    model, tensors = adapted("cpu", torch.float32), routed(20, "cpu")
    plain = with_gradients(model, tensors)["output"]
    install_fast_forwards(model)
    bare = frozen_experts_forward(experts_of("cpu"), *tensors)
    with model.disable_adapter(), torch.no_grad():
        off = model.base_model.model.mlp.experts(*tensors)
    torch.testing.assert_close(off, bare.detach())
    model.merge_adapter()
    with torch.no_grad():
        merged = model.base_model.model.mlp.experts(*tensors)
    torch.testing.assert_close(merged, plain, rtol=1e-3, atol=1e-4)


def install_fast_forwards(model: Any) -> None:
    for module in model.modules():
        if (fast := fast_forward_for(module)) is not None and fast.training is not None:
            module.forward = MethodType(fast.training, module)


@contextmanager
def without_parametrization() -> Iterator[None]:
    """Let peft's own way, which adds adapters to weights, be an error."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ParamWrapper, "_activate_lora", None)
        yield


def test_the_backward_pass_keeps_the_halves_of_the_gate_alone() -> None:
    experts = experts_of("cpu")
    kept: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    hidden, indices, weights = routed(500, "cpu")
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        frozen_experts_forward(experts, hidden, indices, weights)
    own = {parameter.data_ptr() for parameter in experts.parameters()}
    gate_bytes = 4 * 500 * 3 * 2 * 48
    assert sum(size for place, size in kept.items() if place not in own) < 1.15 * gate_bytes


@devices
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("rows", "width"), [(37, 48), (64, 896), (0, 8)])
def test_kernels_compute_what_torch_does(device: str, dtype: torch.dtype, rows: int, width: int) -> None:
    generator = torch.Generator().manual_seed(3)
    gate_up, inner = (torch.randn(rows, n * width, generator=generator).to(device, dtype) for n in (2, 1))
    weights = torch.rand(rows, generator=generator).to(device)
    exact = gate_up.double().requires_grad_()
    first, second = exact.chunk(2, dim=-1)
    product = torch.nn.functional.silu(first) * second
    close = {"rtol": 2e-2, "atol": 2e-2} if dtype == torch.bfloat16 else {"rtol": 1e-4, "atol": 1e-5}
    torch.testing.assert_close(gated_product(gate_up).double(), product.detach(), **close)
    found, weights_grad = gated_product_backward(inner, gate_up, weights)
    (wanted,) = torch.autograd.grad(product, exact, inner.double() * weights[:, None])
    torch.testing.assert_close(found.double(), wanted, **close)
    torch.testing.assert_close(weights_grad.double(), (inner.double() * product.detach()).sum(-1), rtol=1e-2, atol=1e-2)


@devices
@pytest.mark.parametrize(("tokens", "used"), [(1, 3), (16, 64), (42, 64), (43, 64), (40, 3), (0, 3)])
def test_rows_are_sorted_by_expert_and_tokens_keep_their_order(device: str, tokens: int, used: int) -> None:
    generator = torch.Generator().manual_seed(5)
    indices = torch.rand(tokens, used, generator=generator).argsort(-1)[:, :3]
    found = sort_by_expert(indices.to(device), 64)
    flat = indices.flatten()
    order = sorted(range(3 * tokens), key=lambda row: (int(flat[row]), row))
    assert found.order.tolist() == order
    assert found.tokens.tolist() == [row // 3 for row in order]
    assert found.order[found.places.flatten()].tolist() == list(range(3 * tokens))
    assert found.ends.tolist() == [int((flat <= expert).sum()) for expert in range(64)]
    assert found.ends.dtype == torch.int32
    assert found.places.shape == (tokens, 3)


@devices
def test_rows_are_combined_in_float32(device: str) -> None:
    generator = torch.Generator().manual_seed(4)
    rows = torch.randn(12, 40, generator=generator).to(device, torch.bfloat16)
    places = torch.randperm(12, generator=generator).view(4, 3).to(device)
    weights = torch.rand(4, 3, generator=generator).to(device)
    wanted = rows.double()[places]
    torch.testing.assert_close(sum_of_experts(rows, places).double(), wanted.sum(1), rtol=1e-2, atol=1e-2)
    weighted = (wanted * weights[..., None]).sum(1)
    torch.testing.assert_close(sum_of_experts(rows, places, weights).double(), weighted, rtol=1e-2, atol=1e-2)


def test_they_compile_in_bfloat16() -> None:
    experts = experts_of("cpu", torch.bfloat16)
    compiled = torch.compile(frozen_experts_forward, backend="aot_eager", fullgraph=True)
    for tokens in (50, 60):
        ours = run(compiled, experts, routed(tokens, "cpu", torch.bfloat16))
        plain = run(frozen_experts_forward, experts, routed(tokens, "cpu", torch.bfloat16))
        for one, other in zip(ours, plain, strict=True):
            torch.testing.assert_close(one, other)


@pytest.mark.parametrize("tokens", [pytest.param(count, marks=cuda.marks) for count in (1, 16, 64)])
def test_few_tokens_choose_the_experts_that_transformers_router_chooses(tokens: int) -> None:
    router = DeepseekOcr2TextTopkRouter(
        DeepseekOcr2TextConfig(hidden_size=224, n_routed_experts=48, num_experts_per_tok=6, routed_scaling_factor=2.0)
    )
    generator = torch.Generator().manual_seed(6)
    with torch.no_grad():
        router.weight.copy_(torch.randn(router.weight.shape, generator=generator) / 10)
    router = router.to("cuda", torch.bfloat16)
    hidden = torch.randn(tokens, 224, generator=generator).to("cuda", torch.bfloat16)
    with torch.no_grad():
        _, weights, indices = router(hidden)
        found = choose_experts(hidden, router.weight, 6, 2.0)
    assert found is not None
    first, second = indices.sort(dim=-1), found[0].sort(dim=-1)
    assert torch.equal(first.values, second.values)
    torch.testing.assert_close(weights.gather(1, first.indices), found[1].gather(1, second.indices))


def test_a_block_is_the_power_of_two_that_holds_a_width() -> None:
    assert [block_of(width) for width in (1, 2, 3, 4, 5, 64, 65, 896)] == [1, 2, 4, 4, 8, 64, 128, 1024]


def test_rows_are_sorted_by_expert_as_the_tokens_stand() -> None:
    routing = sort_by_expert(torch.tensor([[2, 0], [0, 2], [4, 2]]), 5)
    assert routing.tokens.tolist() == [0, 1, 0, 1, 2, 2]  # of experts 0, 0, 2, 2, 2, 4
    assert routing.order.tolist() == [1, 2, 0, 3, 5, 4]
    assert routing.places.tolist() == [[2, 0], [1, 3], [5, 4]]
    assert routing.ends.tolist() == [2, 2, 5, 5, 6]
    assert routing.ends.dtype == torch.int32
