"""What several processes exchange."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn

from deepsynth.distributed.ranks import (
    GatheredFigures,
    check_placement,
    frozen_parameter_names,
    gather_parts,
    gather_rows,
    is_lost_connection,
    rank,
    rank_prefix,
    seed_as_rank_zero,
    world_size,
)
from deepsynth.errors import UserError
from tests.helpers.ranks import in_ranks


def exchanged() -> dict[str, Any]:
    """Deal seven rows out in turn, as the sampler does, and take them back."""
    own = [{"id": number} for number in range(7)][rank() :: world_size()]
    torch.manual_seed(rank())
    seed_as_rank_zero()
    lost = [
        is_lost_connection(error)
        for error in (RuntimeError("x: Connection closed by peer"), RuntimeError("shape"), OSError("Broken pipe"))
    ]
    parts = gather_parts([number for row in own for number in row.values()])
    figures = GatheredFigures({"peak": 1.5 + rank(), "other": rank() or float("nan")}, torch.device("cpu"))
    return {"figures": figures.read(), "rank": dist.get_rank(), "prefix": rank_prefix(), "parts": parts, "lost": lost,
            "rows": [row["id"] for row in gather_rows(own)], "seed": torch.initial_seed()}  # fmt: skip


def test_rows_come_back_in_the_order_of_the_data(tmp_path: Path) -> None:
    for number, found in enumerate(in_ranks(exchanged, 3, tmp_path)):
        assert found == {
            "figures": [{"peak": 1.5}, {"peak": 2.5, "other": 1.0}, {"peak": 3.5, "other": 2.0}],
            "rank": number,
            "prefix": f"rank {number}: ",
            "parts": [[0, 3, 6], [1, 4], [2, 5]],
            "lost": [True, False, False],
            "rows": list(range(7)),
            "seed": 0,
        }


def test_one_process_is_alone() -> None:
    rows = [{"id": 1}, {"id": 2}]
    assert (rank(), world_size(), rank_prefix()) == (0, 1, "")
    assert gather_rows(rows) == rows
    assert gather_parts(rows) == [rows]
    assert GatheredFigures({"peak": 1.5, "other": float("nan")}, torch.device("cpu")).read() == [{"peak": 1.5}]
    assert not is_lost_connection(RuntimeError("Connection closed by peer"))
    torch.manual_seed(5)
    seed_as_rank_zero()
    assert torch.initial_seed() == 5


def test_what_is_not_trained_stays_out_of_the_buckets() -> None:
    module = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    module[0].weight.requires_grad_(False)
    buffers = ["1.running_mean", "1.running_var", "1.num_batches_tracked"]
    assert frozen_parameter_names(module) == ["0.weight", *buffers]


def test_a_model_in_parts_is_refused() -> None:
    module = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2, device="meta"))
    check_placement(module, torch.device("cpu"))  # what is on no device is no part elsewhere
    with pytest.raises(UserError, match=r"^0.weight lies on cpu, but this process trains on cuda:1: "):
        check_placement(module, torch.device("cuda:1"))
