"""What the package assumes of liger-kernel's operations, which run on a GPU alone."""

from __future__ import annotations

import importlib.util

import pytest
import torch
from torch.nn import functional

from deepsynth.compat import liger_kernel

on_gpu = pytest.mark.skipif(
    not (torch.cuda.is_available() and liger_kernel.is_installed()), reason="needs a CUDA device and liger-kernel"
)


def test_it_is_found_where_it_is_installed() -> None:
    assert liger_kernel.is_installed() == (importlib.util.find_spec("liger_kernel") is not None)


@pytest.mark.gpu
@on_gpu
def test_norms_are_those_of_torch() -> None:
    hidden, weight = torch.randn(2, 5, 64, device="cuda"), torch.rand(64, device="cuda")
    wanted = functional.rms_norm(hidden, (64,), weight, 1e-6)
    torch.testing.assert_close(liger_kernel.rms_norm(hidden, weight, 1e-6), wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.gpu
@on_gpu
def test_gates_are_those_of_torch() -> None:
    gate, up = torch.randn(2, 5, 64, device="cuda"), torch.randn(2, 5, 64, device="cuda")
    wanted = functional.silu(gate) * up
    torch.testing.assert_close(liger_kernel.silu_product(gate, up), wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.gpu
@on_gpu
def test_rotations_are_those_of_transformers() -> None:
    from transformers.models.deepseek_ocr2.modeling_deepseek_ocr2 import apply_rotary_pos_emb

    query, key = torch.randn(2, 4, 7, 32, device="cuda"), torch.randn(2, 2, 7, 32, device="cuda")
    angles = torch.rand(1, 7, 16, device="cuda").repeat(1, 1, 2)
    cos, sin = angles.cos(), angles.sin()
    wanted = apply_rotary_pos_emb(query, key, cos, sin)
    found = liger_kernel.rotate(query.clone(), key.clone(), cos, sin)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.gpu
@on_gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("words", [99, 40_000])
def test_losses_and_their_gradients_are_those_of_torch(words: int, dtype: torch.dtype) -> None:
    logits = torch.randn(20, words, device="cuda").to(dtype)
    labels = torch.randint(0, words, (20,), device="cuda")
    exact = logits.double().requires_grad_()
    wanted = functional.cross_entropy(exact, labels, reduction="none")
    (gradient,) = torch.autograd.grad(wanted.sum(), exact)
    losses, kept = liger_kernel.losses_and_gradient(logits.clone(), labels, gradient=False)
    assert torch.equal(kept, logits)
    torch.testing.assert_close(losses, wanted.float(), rtol=1e-5, atol=1e-5)
    losses, found = liger_kernel.losses_and_gradient(logits, labels, gradient=True)
    torch.testing.assert_close(losses, wanted.float(), rtol=1e-5, atol=1e-5)
    assert found.dtype == dtype
    torch.testing.assert_close(found.double(), gradient, rtol=1e-4 if dtype == torch.float32 else 1e-2, atol=1e-6)
