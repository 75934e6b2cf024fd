"""The engine's options on a GPU: the same losses and gradients as the model's own forward pass in float32.

python -m pytest -m gpu tests/models/engine/test_on_gpu.py
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from deepsynth.compat import liger_kernel
from deepsynth.models.kernels.packed_attention import packed_attention
from deepsynth.types import Batch
from tests.helpers.training import make_data, make_module
from tests.models.engine.test_training_forward import PLAIN, batch_of, curve, loss_and_gradients

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]

FAMILY = "deepsynth/tiny-random"


def on_gpu(batch: Batch, path: Path) -> Batch:
    return make_data(path).transfer_batch_to_device(batch, torch.device("cuda"), 0)


def make(**settings: Any) -> Any:
    module = make_module(**{"model_name": FAMILY, "dtype": "float32", **settings}).to("cuda")
    module.configure_model()
    module.model.to("cuda")
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if "lora_B" in name:
                parameter.copy_(0.02 * torch.randn(parameter.shape, generator=generator))
    return module


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"loss": "chunked"},
        pytest.param(
            {"loss": "liger"}, marks=pytest.mark.skipif(not liger_kernel.is_installed(), reason="needs liger-kernel")
        ),
        {"activation_memory": "selective"},
        {"activation_memory": "full"},
        {"activation_memory": "offload"},
        {"vision_cache": "memory"},
        {"compile": "decoder"},
        {"compile": "all", "activation_memory": "full"},
        {"compile": "all", "cuda_graphs": True},
        {"experts": "all", "mlp": True},
        {"experts": "all", "activation_memory": "selective"},
        {"packing": True},
        {"packing": True, "attn_implementation": "eager"},
    ],
    ids=str,
)
def test_it_computes_what_the_plain_path_does(settings: dict[str, Any], jsonl: Path) -> None:
    packing = settings.pop("packing", False)
    scope = {name: value for name, value in settings.items() if name in ("experts", "mlp")}
    plain = make(kernels="plain", loss="plain", activation_memory="none", **scope)
    expected = loss_and_gradients(plain, on_gpu(batch_of(jsonl, FAMILY), jsonl))
    module = make(**{"activation_memory": "none", **settings})
    batch = on_gpu(batch_of(jsonl, FAMILY, packing=packing), jsonl)
    for _ in range(3):  # CUDA graphs are recorded in the second step and replayed in the third
        found = loss_and_gradients(module, batch)
    torch.testing.assert_close(found[0], expected[0], rtol=1e-4, atol=1e-5)
    for name, gradient in found[1].items():
        assert float((gradient - expected[1][name]).norm() / expected[1][name].norm()) < 2e-3, name


@pytest.mark.parametrize("family", [FAMILY, "deepsynth/tiny"])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"compile": "all"},
        {"compile": "all", "cuda_graphs": True},
        {"activation_memory": "selective"},
        {"experts": "all"},
    ],
    ids=str,
)
def test_in_bfloat16_it_is_as_near_to_the_truth_as_the_plain_path(
    settings: dict[str, Any], family: str, jsonl: Path
) -> None:
    batch = on_gpu(batch_of(jsonl, family), jsonl)
    ways: list[dict[str, Any]] = [{"loss": "plain", "kernels": "plain"}, settings]
    if "experts" in settings and family != FAMILY:
        pytest.skip("it has no routed experts")
    scope = {name: value for name, value in settings.items() if name in ("experts", "mlp")}
    truth = loss_and_gradients(make(model_name=family, **ways[0], **scope), batch)
    half: dict[str, Any] = {"model_name": family, "dtype": "bfloat16", "activation_memory": "none", **scope}
    plain, fast = (loss_and_gradients(make(**{**half, **way}), batch) for way in ways)
    losses = [float(found[0]) for found in (truth, plain, fast)]
    assert abs(losses[2] - losses[0]) < 2 * abs(losses[1] - losses[0]) + 2e-3 * max(losses[0], 1)

    def distance(found: Any) -> float:
        off = sum(float((found[1][name] - wanted).square().sum()) for name, wanted in truth[1].items())
        return off / sum(float(wanted.square().sum()) for wanted in truth[1].values())

    assert distance(fast) < 1.5 * distance(plain) + 1e-4


@pytest.mark.parametrize("settings", [{}, {"compile": "all", "cuda_graphs": True}, {"packing": True}], ids=str)
def test_the_host_never_waits_for_the_device_within_a_step(settings: dict[str, Any], jsonl: Path) -> None:
    packing = settings.pop("packing", False)
    module = make(dtype="bfloat16", activation_memory="none", **settings)
    batch = on_gpu(batch_of(jsonl, FAMILY, packing=packing).pin_memory(), jsonl)
    expected = [loss_and_gradients(module, batch)[0] for _ in range(3)][-1]
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        loss = module.compute_loss(batch)
        loss.backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    torch.testing.assert_close(loss, expected, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_packed_attention_is_attention_within_each_sequence(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    tensors = [torch.randn(1, 4, 100, 64, device="cuda", dtype=dtype, requires_grad=True) for _ in range(3)]
    bounds = torch.tensor([0, 30, 31, 100], device="cuda", dtype=torch.int32)
    module = torch.nn.Module()
    output, _ = packed_attention(module, *tensors, None, cu_seq_lens_q=bounds, max_length_q=69)
    gradients = torch.autograd.grad(output.float().square().sum(), tensors)
    same = bounds.diff().long()
    sequence = torch.arange(3, device="cuda").repeat_interleave(same)
    mask = (sequence[:, None] == sequence) & torch.ones(100, 100, device="cuda").tril().bool()
    exact = [tensor.detach().double().requires_grad_() for tensor in tensors]
    wanted = torch.nn.functional.scaled_dot_product_attention(*exact, attn_mask=mask).transpose(1, 2)
    truth = torch.autograd.grad(wanted.square().sum(), exact)
    tolerance = 1e-5 if dtype == torch.float32 else 2e-2
    for one, other in [(output, wanted), *zip(gradients, truth, strict=True)]:
        assert float((one.double() - other).norm() / other.norm()) < tolerance


def test_the_cache_is_bit_equal_on_a_gpu(tmp_path: Path, jsonl: Path) -> None:
    # With one page a pass vision computes the same with and without a cache.
    gpu = {"accelerator": "gpu", "devices": 1}
    without = curve(tmp_path, jsonl, 12, {}, vision_chunk=1, trainer=gpu)
    assert curve(tmp_path, jsonl, 12, {}, vision_chunk=1, vision_cache="memory", trainer=gpu) == without


@pytest.mark.parametrize("settings", [{}, {"compile": "all"}, {"activation_memory": "selective"}], ids=str)
def test_the_curves_of_the_fast_and_the_plain_path_lie_on_each_other(
    settings: dict[str, Any], tmp_path: Path, jsonl: Path
) -> None:
    gpu: dict[str, Any] = {"accelerator": "gpu", "devices": 1}
    plain = curve(tmp_path, jsonl, 100, {}, gpu, dtype="float32", **PLAIN)
    fast = curve(tmp_path, jsonl, 100, {}, gpu, dtype="float32", **{"activation_memory": "none", **settings})
    assert plain[-1] < 0.9 * plain[0]
    assert fast == pytest.approx(plain, rel=2e-3)
