"""The configuration of an adapter that anybody may have written: what is taken of it, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from deepsynth.errors import UserError
from deepsynth.export.foreign import lora_config_of, read_tensors

SETTINGS = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj"]}
TENSORS = {f"base_model.model.a.{n}.q_proj.lora_{s}.weight": torch.ones(1, 1) for n in (0, 1) for s in "AB"}


def adapter_of(folder: Path, **changes: Any) -> Path:
    (folder / "adapter_config.json").write_text(json.dumps({**SETTINGS, **changes}))
    return folder


def test_the_shape_is_taken_and_modules_are_those_of_the_tensors(tmp_path: Path) -> None:
    found = lora_config_of(adapter_of(tmp_path, target_modules="(.*)*(.*)*x"), TENSORS)
    assert (found.r, found.lora_alpha, found.inference_mode, found.task_type) == (4, 8, True, "CAUSAL_LM")
    assert sorted(found.target_modules) == ["a.0.q_proj", "a.1.q_proj"]
    assert (found.use_rslora, found.use_dora, found.lora_bias, found.fan_in_fan_out) == (False,) * 4


def test_tensors_of_adapters_within_adapters_and_of_parameters_are_told_apart(tmp_path: Path) -> None:
    names = [
        "base_model.model.a.q_proj.base_layer.lora_A.weight",
        "base_model.model.a.k_proj.lora_magnitude_vector",
        "base_model.model.a.o_proj.lora_B.bias",
        "base_model.model.a.mlp.experts.base_layer.lora_A.weight",
        "base_model.model.a.q_proj.weight",
    ]
    adapter = adapter_of(tmp_path, target_modules=None, target_parameters=["mlp.experts.down_proj", "experts.x"])
    found = lora_config_of(adapter, dict.fromkeys(names, torch.ones(1)))
    assert sorted(found.target_modules) == ["a.k_proj", "a.o_proj", "a.q_proj"]
    assert found.target_parameters == ["mlp.experts.down_proj", "experts.x"]


@pytest.mark.parametrize(
    "changes",
    [
        {"use_rslora": True},
        {"use_dora": True},
        {"fan_in_fan_out": True},
        {"lora_bias": True},
        {"lora_alpha": 0.5},
        {"rank_pattern": {"^a.0.q_proj$": 2, "a.*q_proj": 3}},
        {"alpha_pattern": {"q_proj": 0.25}},
        *({"init_lora_weights": how} for how in (True, False, "gaussian", "orthogonal", "pissa", "olora")),
    ],
    ids=str,
)
def test_what_may_be_said_is_handed_on(changes: dict[str, Any], tmp_path: Path) -> None:
    found = lora_config_of(adapter_of(tmp_path, **changes), TENSORS)
    ((key, value),) = changes.items()
    assert getattr(found, key) == value


@pytest.mark.parametrize("value", [None, False, [], {}, "none", ""])
def test_a_setting_that_says_nothing_is_no_mistake(value: Any, tmp_path: Path) -> None:
    assert lora_config_of(adapter_of(tmp_path, layer_replication=value, bias=value), TENSORS).r == 4


def test_what_belongs_to_the_training_is_left_out(tmp_path: Path) -> None:
    adapter = adapter_of(tmp_path, lora_dropout=0.5, revision="main", megatron_core="evil", peft_version="9")
    found = lora_config_of(adapter, TENSORS)
    assert (found.lora_dropout, found.revision, found.megatron_core) == (0.0, None, "megatron.core")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"peft_type": None}, "peft_type is None; it must be LORA"),
        ({"peft_type": "XLORA", "adapters": {"a": "/etc"}}, "peft_type is 'XLORA'; it must be LORA"),
        ({"megatron_config": {"a": 1}, "megatron_core": "evil"}, "'megatron_config' is {'a': 1}, which cannot be"),
        ({"layer_replication": [[0, 2], [0, 2]]}, "'layer_replication' is [[0, 2], [0, 2]], which cannot be exported"),
        ({"modules_to_save": ["lm_head"]}, "'modules_to_save' is ['lm_head'], which cannot be exported"),
        ({"evil" * 100: 1}, "…"),
        ({"init_lora_weights": "loftq"}, "init_lora_weights is 'loftq'; it must be true or one of gaussian"),
        ({"r": "4"}, "r is '4'; it must be a whole number above 0"),
        ({"r": True}, "r is True; it must be a whole number above 0"),
        ({"lora_alpha": float("nan")}, "lora_alpha is nan; it must be a number above 0"),
        ({"r": 0}, "r is 0; it must be a whole number above 0"),
        ({"r": 4.0}, "r is 4.0; it must be a whole number above 0"),
        ({"lora_alpha": float("inf")}, "lora_alpha is inf; it must be a number above 0"),
        ({"lora_alpha": -1}, "lora_alpha is -1; it must be a number above 0"),
        ({"rank_pattern": [1]}, "rank_pattern is [1]; it must be an object of numbers by the names of modules"),
        ({"rank_pattern": {"q_proj": 0.5}}, "rank_pattern.q_proj is 0.5; it must be a whole number above 0"),
        ({"rank_pattern": {"a.*b.*c": 4}}, "rank_pattern is 'a.*b.*c'; it must be the names of modules"),
        ({"target_parameters": "x"}, "target_parameters is 'x'; it must be a list of names"),
        (
            {"target_modules": ["k_proj"]},
            "target_modules is ['k_proj']; it must be what the tensors are named after, such as a.0.q_proj",
        ),
        ({"use_dora": "yes"}, "use_dora is 'yes'; it must be true or false"),
        ({"rank_pattern": {"(a*)*b": 4}}, "rank_pattern is '(a*)*b'; it must be the names of modules"),
        ({"alpha_pattern": {"q_proj": "4"}}, "alpha_pattern.q_proj is '4'; it must be a number above 0"),
        ({"target_parameters": [1]}, "target_parameters is [1]; it must be a list of names"),
    ],
    ids=lambda value: next(iter(value))[:20] if isinstance(value, dict) else "",
)
def test_what_a_foreign_configuration_may_not_say(changes: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        lora_config_of(adapter_of(tmp_path, **changes), TENSORS)
    assert str(caught.value).startswith(f"{tmp_path / 'adapter_config.json'}: ")
    assert said in str(caught.value)
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize("content", ["[]", "{", "[" * 100_000, "\xff"])
def test_a_foreign_configuration_that_is_none_is_one_line(content: str, tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text(content, encoding="latin-1")
    with pytest.raises(UserError, match=r"adapter_config.json: (a JSON list|cannot be read as JSON)"):
        lora_config_of(tmp_path, TENSORS)


def test_a_file_that_is_missing_is_asked_for(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"^adapter is .*, which has no adapter_model\.safetensors; give a peft folder$"
    ):
        read_tensors(tmp_path / "adapter_model.safetensors")
