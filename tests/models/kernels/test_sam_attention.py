"""SAM's bias is made faster, and is the same."""

from __future__ import annotations

import copy
from types import MethodType
from typing import Any

import pytest
import torch
from transformers.models.deepseek_ocr2.configuration_deepseek_ocr2 import DeepseekOcr2SamVisionConfig
from transformers.models.deepseek_ocr2.modeling_deepseek_ocr2 import DeepseekOcr2SamVisionEncoder

from deepsynth.models.engine.fast_paths import ReplacedForwards
from deepsynth.models.kernels import sam_attention

cuda = pytest.param(
    "cuda",
    marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")],
)


def encoder() -> Any:
    config = DeepseekOcr2SamVisionConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=128, window_size=3,
        global_attn_indexes=[1], output_channels=16, downsample_channels=[16, 16], mlp_dim=64,
    )  # fmt: skip
    config._attn_implementation = "sdpa"
    torch.manual_seed(0)
    model = DeepseekOcr2SamVisionEncoder(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.2)
    return model


def fast_paths(model: Any) -> ReplacedForwards:
    found = [(module, sam_attention.fast_forward_for(module)) for module in model.modules()]
    return ReplacedForwards((module, MethodType(fast.inference, module)) for module, fast in found if fast is not None)


@pytest.mark.parametrize("device", ["cpu", cuda])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("side", [128, 96])
def test_it_is_the_same_bit_by_bit_on_the_cpu(device: str, dtype: torch.dtype, side: int) -> None:
    model = encoder().to(device=device, dtype=dtype)
    pixels = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(1)).to(device, dtype)
    with torch.no_grad():
        before = model(pixels).last_hidden_state
        fast_paths(model).install()
        after = model(pixels).last_hidden_state
    if device == "cpu":
        assert torch.equal(before, after)
    else:  # patches by a product and not a convolution
        close = 1e-4 if dtype == torch.float32 else 3e-2
        assert float((before - after).float().norm() / before.float().norm()) < close


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("count", "height", "width", "d"), [(2, 14, 14, 64), (1, 40, 40, 64), (3, 20, 12, 16)])
def test_the_kernel_attends_as_torch_does(count: int, height: int, width: int, d: int, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    states = torch.randn(count, height * width, 3, 2, d, device="cuda", dtype=dtype)
    of_height = torch.randn(count, 2, height, height, width, device="cuda", dtype=dtype)
    of_width = torch.randn(count, 2, height, width, width, device="cuda", dtype=dtype)
    inputs = states, of_height, of_width, height, width
    found = torch.ops.deepsynth.sam_attention(*inputs)
    bias = of_height.double().permute(0, 1, 3, 4, 2).flatten(2, 3)[..., :, None]
    bias = (bias + of_width.double().flatten(2, 3)[..., None, :]).flatten(3)
    exact = [part.transpose(1, 2).double() for part in states.unbind(2)]
    wanted = torch.nn.functional.scaled_dot_product_attention(*exact, attn_mask=bias).transpose(1, 2).flatten(2)
    assert float((found.double() - wanted).norm() / wanted.norm()) < (4e-3 if dtype == torch.bfloat16 else 6e-4)
    torch.library.opcheck(torch.ops.deepsynth.sam_attention, inputs)


def test_gradients_are_the_same() -> None:
    pixels = torch.randn(1, 3, 128, 128, generator=torch.Generator().manual_seed(1))
    gradients = []
    first = encoder()
    for faster in (False, True):
        model = copy.deepcopy(first)
        if faster:
            fast_paths(model).install()
        model(pixels).last_hidden_state.square().mean().backward()
        gradients.append({name: parameter.grad for name, parameter in model.named_parameters()})
    assert gradients[0]["layers.1.attn.rel_pos_h"].abs().sum() > 0
    for name, wanted in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], wanted, rtol=1e-4, atol=1e-6)
