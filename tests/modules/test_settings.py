"""Settings in groups: refused where they cannot be, stored as plain values, and read from before there were groups."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from deepsynth import PeftModule
from deepsynth.errors import UserError
from deepsynth.models.family import FEATURES, Family, Feature
from deepsynth.modules import EngineSettings, GenerationSettings, LoraSettings
from deepsynth.modules.settings import (
    ADAPTER_SHAPE,
    check_family,
    check_foreign_settings,
    flat_settings,
    plain_settings,
    restore_group,
    stored_settings,
)
from tests.helpers.training import make_data, make_module, make_trainer


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        (LoraSettings, {"experts": "all", "dropout": 0.1}, r"model\.lora\.dropout is 0\.1, but .*experts=shared"),
        (LoraSettings, {"experts": "routed", "dora": True}, r"model\.lora\.dora is true, but .*experts=shared"),
        (GenerationSettings, {"time_limit_s": 0.0}, r"model\.generation\.time_limit_s is 0\.0; it must be above 0"),
        (EngineSettings, {"vision_cache_gib": 0.0}, r"model\.engine\.vision_cache_gib is 0\.0; it must be above 0 GiB"),
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


BOUNDS = [
    (EngineSettings, "vision_cache_gib", -0.5, 0.5),
    (EngineSettings, "memory_budget_gib", 0.0, 0.001),
    (EngineSettings, "memory_budget_gib", -1.0, 1.0),
    (EngineSettings, "vision_chunk", 0, 1),
    (EngineSettings, "skip_non_finite", -1, 0),
    (EngineSettings, "experts_implementation", "a-b", "a_b"),
    (EngineSettings, "vision_cache", "folder", "folder/"),
    (GenerationSettings, "max_new_tokens", 0, 1),
    (GenerationSettings, "samples", -1, 0),
    (GenerationSettings, "rows", 0, 1),
    (GenerationSettings, "time_limit_s", 0.0, 0.001),
    (GenerationSettings, "time_limit_s", -1.0, 1.0),
    (LoraSettings, "rank", 0, 1),
    (LoraSettings, "dropout", 1.0, 0.999),
    (LoraSettings, "dropout", -0.001, 0.0),
]


@pytest.mark.parametrize(("kind", "name", "refused", "taken"), BOUNDS)
def test_a_setting_is_refused_beyond_its_bound_and_taken_at_it(kind: Any, name: str, refused: Any, taken: Any) -> None:
    assert getattr(kind(**{name: taken}), name) == taken
    with pytest.raises(UserError, match=rf"^model\.\w+\.{name} is {re.escape(repr(refused))}"):
        kind(**{name: refused})


@pytest.mark.parametrize(("compile", "refused"), [("none", True), ("auto", False), ("vision", False)])
def test_graphs_are_recorded_of_what_is_compiled(compile: Any, refused: bool) -> None:
    if refused:
        with pytest.raises(UserError, match=r"^model\.engine\.cuda_graphs records what is compiled"):
            EngineSettings(cuda_graphs=True, compile=compile)
    else:
        assert EngineSettings(cuda_graphs=True, compile=compile).cuda_graphs is True
    assert EngineSettings(cuda_graphs=False, compile=compile).cuda_graphs is False


#: A setting that asks for a feature, and those that do not.
ASKS: list[tuple[str, str, str, Any, tuple[Any, ...]]] = [
    ("loss", "engine", "loss", "chunked", ("auto", "plain")),
    ("frozen_vision", "engine", "vision_chunk", 2, (None,)),
    ("vision_cache", "engine", "vision_cache", "memory", ("none",)),
    ("layers", "engine", "activation_memory", "full", ("auto", "none")),
    ("compile", "engine", "compile", "vision", ("auto", "none")),
    ("decoder", "generation", "implementation", "deepsynth", ("auto", "transformers")),
    ("decoder", "generation", "compile", "vision", ("auto", "none")),
]


@pytest.mark.parametrize(("feature", "group", "name", "asking", "harmless"), ASKS)
def test_what_a_family_does_not_have_is_refused_where_it_is_asked_for(
    feature: Feature, group: str, name: str, asking: Any, harmless: tuple[Any, ...]
) -> None:
    def check(value: Any, unsupported: dict[Feature, str]) -> None:
        groups: dict[str, Any] = {"engine": EngineSettings(), "generation": GenerationSettings()}
        groups[group] = type(groups[group])(**{name: value})
        family = Family("x", "Family X", ("x",), ("X",), unsupported=unsupported)
        check_family(family, **groups, quantization="none", sharded=False)

    for value in harmless:
        check(value, dict.fromkeys(FEATURES, "reason"))
    check(asking, {other: "reason" for other in FEATURES if other != feature})
    key = rf"model\.{group}\.{name}"
    message = rf"^{key} is {asking}, which does not work for Family X \(reason\); set {key}="
    with pytest.raises(UserError, match=message):
        check(asking, {feature: "reason"})


@pytest.mark.parametrize(
    ("feature", "settings", "message"),
    [
        (
            "quantization",
            {"quantization": "nf4", "sharded": False},
            "model.quantization is nf4, which does not work for",
        ),
        (
            "sharding",
            {"quantization": "none", "sharded": True},
            "trainer.strategy shards the weights, which does not work for",
        ),
    ],
)
def test_a_family_is_neither_quantized_nor_sharded_where_that_does_not_work(
    feature: Feature, settings: Any, message: str
) -> None:
    def check(unsupported: dict[Feature, str], **settings: Any) -> None:
        family = Family("x", "Family X", ("x",), ("X",), unsupported=unsupported)
        check_family(family, EngineSettings(), GenerationSettings(), **settings)

    check({}, **settings)
    check({feature: "reason"}, quantization="none", sharded=False)
    with pytest.raises(UserError) as caught:
        check({feature: "reason"}, **settings)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("name", "value", "fits"),
    [
        ("model_name", "a", True),
        ("model_name", None, False),
        ("lora.rank", 4, True),
        ("lora.rank", True, False),
        ("lora.rank", 4.0, False),
        ("lora.rank", "4", False),
        ("lora.alpha", None, True),
        ("lora.alpha", 3, True),
        ("lora.alpha", 3.5, True),
        ("lora.alpha", True, False),
        ("lora.alpha", "3", False),
        ("lora.attention", False, True),
        ("lora.attention", 0, False),
        ("lora.experts", "shared", True),
        ("lora.experts", "some", False),
        ("lora.experts", ["shared"], False),
        ("lora.init", None, False),
        ("warmup_steps", "anything", True),  # which nobody takes from a stranger's file
    ],
)
def test_settings_of_a_strangers_file_have_the_types_that_they_must_have(name: str, value: Any, fits: bool) -> None:
    if fits:
        check_foreign_settings({name: value}, Path("/a/deepsynth.json"))
        return
    shown = re.escape(repr(str(value)))
    with pytest.raises(UserError, match=rf"^/a/deepsynth\.json: {name} is {shown}; it must be \S"):
        check_foreign_settings({name: value}, Path("/a/deepsynth.json"))


def test_a_long_value_of_a_strangers_file_is_cut() -> None:
    with pytest.raises(UserError, match=r"lora.rank is 'x{60}'; it must be int$"):
        check_foreign_settings({"lora.rank": "x" * 999}, Path("/a"))
