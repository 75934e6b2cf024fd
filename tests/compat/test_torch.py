"""What the package assumes of torch's private parts."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch._dynamo
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.data import DataLoader

from deepsynth.compat.torch import (
    attention_operations,
    copy_all,
    is_persistent,
    leave_out_of_ddp,
    leave_scaling_to_scaler,
    own_parameters,
    recompile_limit,
    scale_all,
    shut_down_workers,
)


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


def test_operations_of_attention_are_those_that_torch_runs() -> None:
    seen: list[Any] = []

    class Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's class has no annotations
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            seen.append(func)
            return func(*args, **(kwargs or {}))

    query = torch.randn(1, 2, 8, 16, requires_grad=True)
    with Recorder():  # type: ignore[no-untyped-call]
        torch.nn.functional.scaled_dot_product_attention(query, query, query, is_causal=True)
    assert attention_operations() & set(seen)
    assert len(attention_operations()) == 4


def test_tensors_are_copied_and_scaled_together() -> None:
    targets = [torch.zeros(2, dtype=torch.bfloat16), torch.zeros(3)]
    copy_all(targets, [torch.full((2,), 2.0), torch.full((3,), 3.0)])
    scale_all(targets, [0.5, 2.0])
    assert [tensor.tolist() for tensor in targets] == [[1.0, 1.0], [6.0, 6.0, 6.0]]


def test_graphs_of_one_function_are_limited_for_a_block() -> None:
    config = torch._dynamo.config
    before = config.recompile_limit
    with recompile_limit(before + 3):
        assert config.recompile_limit == before + 3
    assert config.recompile_limit == before


def test_buffers_that_are_saved_are_told_from_others() -> None:
    module = torch.nn.Module()
    module.register_buffer("kept", torch.zeros(1))
    module.register_buffer("made", torch.zeros(1), persistent=False)
    assert is_persistent(module, "kept")
    assert not is_persistent(module, "made")
    assert list(module.state_dict()) == ["kept"]


def test_own_parameters_are_those_of_the_module_alone() -> None:
    module = torch.nn.Sequential(torch.nn.Linear(2, 2, bias=False))
    assert list(own_parameters(module)) == []
    assert list(own_parameters(module[0])) == [module[0].weight, None]
