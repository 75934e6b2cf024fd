"""Combinations of module, strategy and weights that are refused, and the table of the docs that lists them."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from itertools import product
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy, Strategy

from deepsynth import PeftModule
from deepsynth.__main__ import main
from deepsynth.distributed import FullyShardedStrategy
from deepsynth.distributed.strategy import check_module
from deepsynth.distributed.support import (
    REFUSALS,
    REFUSED_OPTIONS,
    StrategyName,
    Weights,
    check_combination,
    check_strategy_option,
)
from deepsynth.errors import UserError
from tests.helpers.training import make_trainer

MODULES = ("PeftModule", "UnslothModule", "FullModule")
COMBINATIONS = list(product(MODULES, get_args(StrategyName), get_args(Weights)))


def test_the_table_of_the_docs_has_every_rule() -> None:
    table = (Path(__file__).parents[2] / "docs/guides/several-gpus.md").read_text().split("## What works with what")[1]
    for rule in REFUSALS:
        cells = " | ".join((rule.module or "any", rule.strategy or "any", rule.weights or "any"))
        assert f"| {cells} | refused: {rule.reason} |" in table
    assert table.count("| refused: ") == len(REFUSALS)
    for option, reason in REFUSED_OPTIONS.items():
        assert f"`{option}`: {reason}" in " ".join(table.split())


def test_what_is_refused() -> None:
    refused = {combination for combination in COMBINATIONS if any(rule.covers(*combination) for rule in REFUSALS)}
    for combination in COMBINATIONS:
        expected: AbstractContextManager[object]
        expected = pytest.raises(UserError, match="use ") if combination in refused else nullcontext()
        with expected:
            check_combination(*combination, given="it")
    assert refused == {
        *((module, "other", weights) for module in MODULES for weights in get_args(Weights)),
        *((module, "fsdp2", weights) for module in MODULES for weights in ("float16", "nf4 or int8")),
        *(("UnslothModule", "fsdp2", weights) for weights in get_args(Weights)),
    }


def test_no_rule_is_hidden_by_those_before_it() -> None:
    first = {next((i for i, rule in enumerate(REFUSALS) if rule.covers(*c)), None) for c in COMBINATIONS}  # type: ignore[arg-type]
    assert first == {None, *range(len(REFUSALS))}


def module_in_trainer(kind: type, folder: Path, strategy: Strategy, precision: str, **settings: Any) -> Any:
    module = kind(**settings)
    module.trainer = make_trainer(folder, strategy=strategy, precision=precision)
    return module


@pytest.mark.parametrize(
    ("kind", "strategy", "precision", "settings", "reason"),
    [
        (PeftModule, FullyShardedStrategy, "32-true", {"quantization": "nf4"}, "scales of quantized weights"),
        (PeftModule, FullyShardedStrategy, "32-true", {"dtype": "float16"}, "loss scaling"),
    ],
    ids=["nf4", "float16"],
)
def test_what_does_not_work_is_refused_before_anything_is_loaded(
    kind: type, strategy: type[Strategy], precision: str, settings: dict[str, Any], reason: str, tmp_path: Path
) -> None:
    module = module_in_trainer(kind, tmp_path, strategy(), precision, **settings)
    with pytest.raises(UserError, match=reason):
        module.configure_model()
    assert module.model is None


def test_float16_by_the_precision_of_the_trainer_is_refused(tmp_path: Path) -> None:
    module = module_in_trainer(PeftModule, tmp_path, FullyShardedStrategy(), "32-true")
    module.trainer.precision_plugin.precision = "16-mixed"  # a trainer on a CPU refuses it
    with pytest.raises(UserError, match="loss scaling"):
        module.configure_model()


def test_other_strategies_are_refused() -> None:
    with pytest.raises(UserError, match=r"trainer.strategy is deepspeed_stage_2: only ddp and fsdp2"):
        check_strategy_option("deepspeed_stage_2")
    check_strategy_option("ddp")


@pytest.mark.parametrize("strategy", [DDPStrategy, SingleDeviceStrategy], ids=["ddp", "one"])
def test_quantized_weights_are_allowed_where_nothing_shards_them(strategy: type[Strategy], tmp_path: Path) -> None:
    arguments = ("cpu",) if strategy is SingleDeviceStrategy else ()
    module = module_in_trainer(PeftModule, tmp_path, strategy(*arguments), "32-true", quantization="nf4")
    check_module(module, "nf4", torch.float32)
    sharded = module_in_trainer(PeftModule, tmp_path, FullyShardedStrategy(), "32-true", quantization="nf4")
    with pytest.raises(UserError, match="nf4"):
        check_module(sharded, "nf4", torch.float32)


def test_a_device_map_is_refused_with_the_reason(
    tmp_path: Path, jsonl: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    options = ["--data.source=JsonlSource", f"--data.source.path={jsonl}", "--model.device_map=auto"]
    assert main(["fit", *options]) == 2
    assert "each process loads its model onto its own device" in capsys.readouterr().err
