"""A tensor on its way to the host."""

from __future__ import annotations

import pytest
import torch

from deepsynth.distributed.host_copy import HostCopy


def test_on_a_cpu_it_is_the_tensor_without_its_graph() -> None:
    tensor = torch.tensor([1.5, -2.0], requires_grad=True)
    copy = HostCopy(tensor * 2).read()
    assert copy.tolist() == [3.0, -4.0]
    assert not copy.requires_grad


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu_it_is_what_was_computed_before_and_what_comes_later_is_not_waited_for() -> None:
    first = torch.full((3,), 2.0, device="cuda") + 1
    copy = HostCopy(first)
    first.add_(5)
    later = torch.cuda.Event()  # type: ignore[no-untyped-call]
    large = torch.ones(8192, 8192, device="cuda")
    for _ in range(20):  # more than a tenth of a second
        large = large @ large
    later.record()
    assert copy.read().tolist() == [3.0, 3.0, 3.0]
    assert not later.query()
    torch.cuda.synchronize()
