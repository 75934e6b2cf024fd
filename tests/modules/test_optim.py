"""The default optimizer is torch's AdamW; on CUDA in one kernel."""

from __future__ import annotations

import pytest
import torch

from deepsynth.modules.optim import FusedAdamW


def steps(optimizer_class: type[torch.optim.Optimizer], device: str = "cpu") -> torch.Tensor:
    torch.manual_seed(0)
    weight = torch.nn.Parameter(torch.randn(7, 5, device="cpu").to(device))
    optimizer = optimizer_class([{"params": [weight], "weight_decay": 0.1}], lr=1e-2)
    for _ in range(3):
        optimizer.zero_grad()
        (weight - 1).square().sum().backward()
        optimizer.step()
    return weight.detach().cpu()


def test_it_is_adamw() -> None:
    assert torch.equal(steps(FusedAdamW), steps(torch.optim.AdamW))
    optimizer = FusedAdamW([torch.nn.Parameter(torch.zeros(1))])
    assert not optimizer.param_groups[0]["fused"]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_cuda_it_is_fused_and_lets_lightning_clip() -> None:
    optimizer = FusedAdamW([torch.nn.Parameter(torch.zeros(1, device="cuda"))])
    assert optimizer.param_groups[0]["fused"]
    assert not optimizer._step_supports_amp_scaling
    torch.testing.assert_close(steps(FusedAdamW, "cuda"), steps(torch.optim.AdamW), rtol=1e-6, atol=1e-7)
