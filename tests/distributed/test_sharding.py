"""Weights in shards over processes, and whole again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from lightning.pytorch.strategies import SingleDeviceStrategy
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor

from deepsynth.distributed.sharding import (
    gather_for_evaluation,
    is_sharded,
    scatter_after_evaluation,
    shard,
    shard_like,
    units,
    whole_on_rank_zero,
)
from deepsynth.distributed.strategy import apply_strategy, loading_device, strategy_name
from tests.helpers.ranks import in_ranks
from tests.helpers.training import make_module, make_trainer


def adapted_model() -> Any:
    module = make_module(experts="all")
    module.configure_model()
    return module.model


@pytest.fixture(scope="module")
def model() -> Any:
    return adapted_model()


def test_units_are_the_layers_and_the_experts_within_them_inner_ones_first(model: Any) -> None:
    names = {module: name for name, module in model.named_modules()}
    found = [names[unit] for unit in units(model)]
    assert len(found) == len(set(found))
    layers = [name for name in found if name.rpartition(".")[0].endswith("language_model.layers")]
    assert len(layers) == len(model.get_base_model().model.language_model.layers)
    for name in found:
        outer = [other for other in found if name != other and name.startswith(f"{other}.")]
        assert all(found.index(name) < found.index(other) for other in outer)
    for end in ("embed_tokens", "lm_head"):
        assert sum(name.endswith(end) for name in found) == 1


def sharded_and_whole() -> dict[str, Any]:
    """Shard a model whose trained weights differ between two ranks, make it whole, and shard it again."""
    model = MODELS[0]
    rank = dist.get_rank()
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    for parameter in trained.values():
        parameter.data.fill_(rank + 1.0)
    frozen = {name: p.detach().clone() for name, p in model.named_parameters() if not p.requires_grad}
    shard(model, init_device_mesh("cpu", (2,)))
    found: dict[str, Any] = {"sharded": is_sharded(model)}
    states = dict(model.named_parameters())
    found["parts"] = {type(p) for p in states.values()} == {DTensor}
    plain = torch.arange(3.0)
    whole = whole_on_rank_zero({**{name: p.detach() for name, p in states.items()}, "plain": plain})
    found["names"] = len(whole)
    found["plain"] = whole["plain"] is plain
    if rank == 0:
        found["trained"] = all(bool((whole[name] == 1.0).all()) for name in trained)
        found["frozen"] = all(torch.equal(whole[name], tensor) for name, tensor in frozen.items())
    name = max(frozen, key=lambda name: frozen[name].numel())
    again = shard_like(frozen[name].double(), states[name])
    found["like"] = isinstance(again, DTensor) and torch.equal(again.to_local(), states[name].to_local())
    gather_for_evaluation(model)
    found["gathered"] = not any(isinstance(p, DTensor) for p in model.parameters())
    scatter_after_evaluation(model)
    found["scattered"] = all(isinstance(p, DTensor) for p in model.parameters())
    return found


#: What forked processes have without loading it.
MODELS: list[Any] = []


def test_weights_are_rank_zeros_and_come_back_whole(model: Any, tmp_path: Path) -> None:
    MODELS[:] = [model]
    assert not is_sharded(model)
    first, second = in_ranks(sharded_and_whole, 2, tmp_path)
    everything = {"sharded", "parts", "plain", "like", "gathered", "scattered"}
    assert {name for name in everything if first[name] is second[name] is True} == everything
    assert first["trained"]
    assert first["frozen"]
    assert (first["names"], second["names"]) == (len(list(model.parameters())) + 1, 1)
    assert not any(isinstance(module, FSDPModule) for module in model.modules()), "this process is none of them"


def test_a_tensor_like_a_whole_one_is_whole() -> None:
    like = torch.zeros(2, dtype=torch.bfloat16)
    found = shard_like(torch.ones(2), like)
    assert type(found) is torch.Tensor
    assert found.dtype == torch.bfloat16


def test_one_process_keeps_its_model_as_it_is(model: Any, tmp_path: Path) -> None:
    module = make_module()
    module.trainer = make_trainer(tmp_path, strategy=SingleDeviceStrategy("cpu"))
    assert strategy_name(module.trainer.strategy) == "one process"
    before = [(type(one), id(one)) for one in model.modules()]
    for alone in (module, make_module()):  # in a trainer, and without one
        apply_strategy(alone, model, all_weights=False)
        assert loading_device(alone) == torch.device("cpu")
    assert [(type(one), id(one)) for one in model.modules()] == before
