"""What the package assumes of torch's private parts."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader

from deepsynth.compat.torch import leave_out_of_ddp, leave_scaling_to_scaler, shut_down_workers


def test_persistent_workers_end_when_they_are_told() -> None:
    loader = DataLoader(range(4), num_workers=1, persistent_workers=True)  # type: ignore[arg-type]
    before = set(multiprocessing.active_children())
    assert [int(value) for value in loader] == [0, 1, 2, 3]
    (worker,) = set(multiprocessing.active_children()) - before
    shut_down_workers(loader)
    assert not worker.is_alive()
    shut_down_workers(loader)
    assert [int(value) for value in loader] == [0, 1, 2, 3], "the loader starts workers again"
    shut_down_workers(loader)


def test_ddp_leaves_out_what_it_is_told(gloo: None) -> None:
    module = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2))
    left_out = ["0.weight", "1.running_mean"]
    leave_out_of_ddp(module, left_out)
    ddp = torch.nn.parallel.DistributedDataParallel(module)
    assert set(left_out) <= set(ddp.parameters_to_ignore)
    assert "0.bias" not in ddp.parameters_to_ignore


@pytest.fixture
def gloo(tmp_path: Path) -> Iterator[None]:
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


def test_a_fused_optimizer_says_whether_it_unscales_by_itself() -> None:
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], fused=True)
    assert optimizer._step_supports_amp_scaling  # type: ignore[attr-defined]
    leave_scaling_to_scaler(optimizer)
    assert not optimizer._step_supports_amp_scaling  # type: ignore[attr-defined]
