"""Settings in groups: refused where they cannot be, stored as plain values, and read from before there were groups."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from deepsynth import PeftModule
from deepsynth.errors import UserError
from deepsynth.modules import EngineSettings, GenerationSettings, LoraSettings
from deepsynth.modules.settings import ADAPTER_SHAPE, flat_settings, plain_settings, restore_group, stored_settings
from tests.helpers.training import make_data, make_module, make_trainer


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        (LoraSettings, {"rank": 0}, r"model\.lora\.rank is 0; it must be at least 1"),
        (LoraSettings, {"dropout": 1.0}, r"model\.lora\.dropout is 1\.0; it must be at least 0 and below 1"),
        (LoraSettings, {"experts": "all", "dropout": 0.1}, r"model\.lora\.dropout is 0\.1, but .*experts=shared"),
        (LoraSettings, {"experts": "routed", "dora": True}, r"model\.lora\.dora is true, but .*experts=shared"),
        (GenerationSettings, {"max_new_tokens": 0}, r"model\.generation\.max_new_tokens is 0; it must be at least 1"),
        (GenerationSettings, {"samples": -1}, r"model\.generation\.samples is -1; it must be at least 0"),
        (GenerationSettings, {"rows": 0}, r"model\.generation\.rows is 0; it must be at least 1"),
        (GenerationSettings, {"time_limit_s": 0.0}, r"model\.generation\.time_limit_s is 0\.0; it must be above 0"),
        (EngineSettings, {"vision_cache_gib": 0.0}, r"model\.engine\.vision_cache_gib is 0\.0; it must be above 0 GiB"),
        (EngineSettings, {"skip_non_finite": -1}, r"model\.engine\.skip_non_finite is -1; it must be at least 0 steps"),
        (
            EngineSettings,
            {"vision_cache": "disc"},
            r"vision_cache is 'disc'; it must be none, memory, disk, or",
        ),
        (EngineSettings, {"vision_cache": "memory", "loss": "plain"}, r"model\.engine\.loss is plain, which encodes"),
        (
            EngineSettings,
            {"memory_budget_gib": 2.0, "activation_memory": "full"},
            r"memory_budget_gib is for .* is full",
        ),
        (
            EngineSettings,
            {"experts_implementation": "grouped mm"},
            r"experts_implementation is 'grouped mm'; it must be",
        ),
        (
            EngineSettings,
            {"activation_memory": "selective", "compile": "decoder"},
            r"activation_memory is selective, wh",
        ),
    ],
)
def test_a_value_that_cannot_be_is_one_line_with_its_key(kind: Any, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        kind(**settings)


@pytest.mark.parametrize(
    "settings",
    [
        {"memory_budget_gib": 2.0, "activation_memory": "auto"},
        {"memory_budget_gib": None, "activation_memory": "full"},
        {"vision_cache": "./features"},
        {"vision_cache": "none", "loss": "plain"},
        {"vision_cache": "disk", "loss": "auto"},
        {"activation_memory": "selective", "compile": "vision"},
        {"activation_memory": "full", "compile": "decoder"},
        {"skip_non_finite": 0},
    ],
    ids=str,
)
def test_settings_that_go_together_are_taken(settings: dict[str, Any]) -> None:
    engine = EngineSettings(**settings)
    assert {name: getattr(engine, name) for name in settings} == settings


def test_groups_are_stored_as_plain_values_and_restored() -> None:
    lora = LoraSettings(rank=3, experts="all")
    stored = plain_settings({"model_name": "name", "lora": lora})
    assert stored["model_name"] == "name"
    assert type(stored["lora"]) is dict
    assert restore_group(LoraSettings, stored["lora"]) == lora
    assert restore_group(LoraSettings, lora) is lora
    assert flat_settings(stored)["lora.rank"] == 3


def test_a_module_is_restored_from_its_checkpoint_with_its_settings(tmp_path: Path, jsonl: Path) -> None:
    module = make_module(rank=3, samples=2)
    trainer = make_trainer(tmp_path, max_steps=1)
    trainer.fit(module, make_data(jsonl))
    trainer.save_checkpoint(tmp_path / "run.ckpt")
    assert torch.load(tmp_path / "run.ckpt", weights_only=True)["hyper_parameters"]["lora"]["rank"] == 3
    again = PeftModule.load_from_checkpoint(tmp_path / "run.ckpt", weights_only=True)
    assert (again.lora, again.engine, again.generation) == (module.lora, module.engine, module.generation)


def test_the_shape_of_an_adapter_is_read_from_before_there_were_groups() -> None:
    adapter = {"lora_rank": 4, "lora_alpha": None, "lora_attention": False, "lora_mlp": True, "lora_experts": "shared"}
    adapter |= {"lora_vision": True, "lora_projector": True, "rslora": True, "dora": False, "lora_init": "gaussian"}
    before = {"model_name": "deepsynth/tiny", "lora_dropout": 0.5, "generation": "auto", "max_new_tokens": 9, **adapter}
    found = stored_settings(before)
    expected = LoraSettings(4, None, 0.0, False, True, "shared", True, True, True, False, "gaussian")
    assert {name: found[name] for name in ADAPTER_SHAPE} == {
        name: value for name, value in flat_settings({"lora": expected}).items() if name in ADAPTER_SHAPE
    }
    assert found["model_name"] == "deepsynth/tiny"
    assert "lora.dropout" not in found, "only what the weights depend on"
    now = plain_settings({"lora": expected})
    assert stored_settings(now) == flat_settings(now)
