"""The chunked loss equals the loss over all logits, and so do its gradients."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from deepsynth.compat import liger_kernel
from deepsynth.models.kernels import linear_cross_entropy as module
from deepsynth.models.kernels.linear_cross_entropy import linear_cross_entropy

WORDS, WIDTH = 1000, 24
CHUNK_BYTES = module.CHUNK_BYTES


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHUNK_BYTES", 7 * 4 * WORDS)  # 7 rows, which do not divide what follows


def make(count: int, dtype: torch.dtype = torch.float32, device: str = "cpu") -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(count, WIDTH, generator=generator).to(device, dtype).requires_grad_()
    weight = torch.randn(WORDS, WIDTH, generator=generator).to(device, dtype).requires_grad_()
    return hidden, weight, torch.randint(WORDS, (count,), generator=generator).to(device)


def plain(hidden: torch.Tensor, weight: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy((hidden @ weight.T).float(), labels)


@pytest.mark.parametrize("count", [1, 7, 30])
def test_loss_and_both_gradients_equal_the_plain_ones(count: int) -> None:
    hidden, weight, labels = make(count)
    expected = plain(hidden, weight, labels)
    grads = torch.autograd.grad(3.0 * expected, (hidden, weight))
    loss = linear_cross_entropy(hidden, weight, labels)
    found = torch.autograd.grad(3.0 * loss, (hidden, weight))
    torch.testing.assert_close(loss, expected, rtol=1e-6, atol=0)
    for one, other in zip(found, grads, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)  # sums of other orders, of numbers around 1


def test_a_frozen_head_gets_no_gradient_and_costs_none() -> None:
    hidden, weight, labels = make(9)
    frozen = weight.detach()
    (grad,) = torch.autograd.grad(linear_cross_entropy(hidden, frozen, labels), hidden)
    (expected,) = torch.autograd.grad(plain(hidden, frozen, labels), hidden)
    torch.testing.assert_close(grad, expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_in_16_bits_it_is_as_near_to_the_truth_as_the_plain_loss(dtype: torch.dtype) -> None:
    hidden, weight, labels = make(30, dtype)
    exact = [t.detach().double().requires_grad_() for t in (hidden, weight)]
    truth = torch.autograd.grad(F.cross_entropy(exact[0] @ exact[1].T, labels), exact)
    errors = []
    for function in (plain, linear_cross_entropy):
        scaled = 1024 * function(hidden, weight, labels)  # as a loss scaler does for float16
        grads = torch.autograd.grad(scaled, (hidden, weight))
        assert all(grad.dtype == dtype for grad in grads)
        errors.append([float((g.double() / 1024 - t).norm() / t.norm()) for g, t in zip(grads, truth, strict=True)])
    for chunked, reference in zip(errors[1], errors[0], strict=True):
        assert chunked < 1.1 * reference


def test_small_gradients_survive_float16() -> None:
    # Divided by their number, the probabilities of 3,000 positions over this vocabulary vanish in float16.
    hidden, weight, labels = make(3000)
    low = [t.detach().to(torch.float16).requires_grad_() for t in (0.01 * hidden, 0.01 * weight)]
    (grad,) = torch.autograd.grad(65536.0 * linear_cross_entropy(low[0], low[1].detach(), labels), low[0])
    exact = low[0].detach().double().requires_grad_()
    (truth,) = torch.autograd.grad(F.cross_entropy(exact @ low[1].detach().double().T, labels), exact)
    assert float((grad.double() / 65536 - truth).norm() / truth.norm()) < 5e-3


def test_no_more_logits_than_a_chunk_are_ever_held() -> None:
    hidden, weight, labels = make(50)
    largest = 0

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            nonlocal largest
            out = func(*args, **(kwargs or {}))
            if isinstance(out, torch.Tensor) and out.dim() == 2 and out.shape[1] == WORDS and out.shape[0] != WIDTH:
                largest = max(largest, out.shape[0])
            return out

    with Watch():
        linear_cross_entropy(hidden, weight.detach(), labels).backward()
    assert largest == 7


def test_without_gradients_and_without_labels() -> None:
    hidden, weight, labels = make(5)
    with torch.no_grad():
        torch.testing.assert_close(linear_cross_entropy(hidden, weight, labels), plain(hidden, weight, labels))
    loss = linear_cross_entropy(hidden[:0], weight, labels[:0])
    loss.backward()
    assert float(loss.detach()) == 0.0
    assert hidden.grad is not None


def test_autocast_computes_in_16_bits() -> None:
    hidden, weight, labels = make(12)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = linear_cross_entropy(hidden, weight, labels)
        expected = plain(hidden, weight, labels)
    grads = torch.autograd.grad(loss, (hidden, weight))
    assert all(grad.dtype == torch.float32 for grad in grads)
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-5)


def test_a_chunk_has_256_mib_of_logits_and_one_row_at_least() -> None:
    assert CHUNK_BYTES == 2**28
    assert [module.rows_per_chunk(words) for words in (1000, 3500, 3501, 7000, 7001, 10**9)] == [7, 2, 1, 1, 1, 1]


@pytest.mark.parametrize(("fits", "rows"), [(63, 63), (64, 64), (127, 64), (519, 512)])
def test_large_chunks_have_a_multiple_of_64_rows(fits: int, rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHUNK_BYTES", fits * 4 * WORDS + 3999)
    assert module.rows_per_chunk(WORDS) == rows


@pytest.mark.parametrize("wanted", [True, False])
def test_liger_gets_the_logits_of_each_chunk(wanted: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    rows: list[int] = []

    def kernel(logits: torch.Tensor, labels: torch.Tensor, *, gradient: bool) -> tuple[torch.Tensor, torch.Tensor]:
        assert logits.is_contiguous()
        assert labels.is_contiguous()
        assert gradient is wanted
        rows.append(len(logits))
        return F.cross_entropy(logits, labels, reduction="none"), torch.full_like(logits, 0.5)

    monkeypatch.setattr(liger_kernel, "losses_and_gradient", kernel)
    hidden, weight, labels = make(16)
    with torch.set_grad_enabled(wanted):
        loss = linear_cross_entropy(hidden, weight, labels, liger=True)
    torch.testing.assert_close(loss, plain(hidden, weight, labels), rtol=1e-6, atol=0)
    assert rows == [7, 7, 2]
    if wanted:
        (grad,) = torch.autograd.grad(loss, hidden)
        torch.testing.assert_close(grad, (0.5 * weight.sum(0) / 16).expand(16, -1), rtol=1e-4, atol=1e-6)


@pytest.mark.gpu
@pytest.mark.skipif(
    not torch.cuda.is_available() or not liger_kernel.is_installed(), reason="needs a CUDA device and liger-kernel"
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_liger_equals_the_chunked_loss(dtype: torch.dtype) -> None:
    hidden, weight, labels = make(300, dtype, "cuda")
    weight = weight.detach()
    losses, grads = [], []
    for liger in (False, True):
        loss = linear_cross_entropy(hidden, weight, labels, liger=liger)
        losses.append(loss.float())
        grads.append(torch.autograd.grad(loss, hidden)[0].float())
    tolerance = 1e-5 if dtype == torch.float32 else 2e-2
    torch.testing.assert_close(losses[0], losses[1], rtol=tolerance, atol=0)
    assert float((grads[0] - grads[1]).norm() / grads[0].norm()) < tolerance
