"""Adapter folders: as other programs load them, and as they are read, whoever wrote them."""

from __future__ import annotations

import json
import re
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText

from deepsynth.errors import UserError
from deepsynth.models.registry import resolve_model_name
from deepsynth.modules.adapter import (
    PromptRecord,
    adapter_settings,
    adapter_state,
    check_adapter_keys,
    from_file_name,
    read_adapter,
    recorded_longest_target,
)
from tests.helpers.training import make_module


def test_a_written_adapter_is_loaded_frozen_and_the_module_s_own_stays_trainable(tmp_path: Path) -> None:
    module = make_module()
    module.configure_model()
    module.save_adapter(tmp_path / "adapter")
    assert json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())["inference_mode"] is True
    base = AutoModelForImageTextToText.from_pretrained(resolve_model_name("deepsynth/tiny-random"))
    loaded = PeftModel.from_pretrained(base, str(tmp_path / "adapter"))
    assert [name for name, parameter in loaded.named_parameters() if parameter.requires_grad] == []
    own = {name for name, parameter in module.named_parameters() if parameter.requires_grad}
    assert own
    assert all("lora_" in name for name in own)
    assert not module.model.peft_config["default"].inference_mode


class Small(torch.nn.Module):
    """Adapters by their names, and one frozen weight."""

    def __init__(self, *names: str) -> None:
        super().__init__()
        for name in names:
            self.register_parameter(name, torch.nn.Parameter(torch.zeros(2, 3)))
        self.frozen = torch.nn.Parameter(torch.zeros(1), requires_grad=False)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({}, None),
        ({"a": None}, "1 missing (a)"),
        ({"a": None, "b": None}, "2 missing (a, b)"),
        ({"a": None, "b": None, "c": None}, "3 missing (a, b, …)"),
        ({"x": torch.zeros(1)}, "1 unexpected (x)"),
        ({"frozen": torch.zeros(1)}, "1 unexpected (frozen)"),
        ({"b": torch.zeros(3, 2)}, "1 of another shape (b is (3, 2), not (2, 3))"),
        ({"b": torch.zeros(1), "c": None, "y": torch.zeros(1)}, "1 missing (c); 1 unexpected (y); 1 of another shape"),
    ],
)
def test_the_keys_of_a_checkpoint_that_do_not_fit_are_named(changes: dict[str, Any], complaint: str | None) -> None:
    module = Small("a", "b", "c")
    state = {name: tensor for name, tensor in {**adapter_state(module), **changes}.items() if tensor is not None}
    if complaint is None:
        check_adapter_keys(module, state)
        return
    with pytest.raises(UserError, match=re.escape(f"the checkpoint's adapter does not fit this model: {complaint}")):
        check_adapter_keys(module, state)


def test_what_is_trained_is_the_state_and_it_is_no_part_of_a_graph() -> None:
    state = adapter_state(Small("b", "a"))
    assert list(state) == ["b", "a"]
    assert not any(tensor.requires_grad for tensor in state.values())


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("base_model.model.model.layers.0.x", "base_model.model.model.language_model.layers.0.x"),
        ("base_model.model.model.norm.weight", "base_model.model.model.language_model.norm.weight"),
        ("base_model.model.model.embed_tokens.weight", "base_model.model.model.language_model.embed_tokens.weight"),
        ("base_model.model.model.language_model.layers.0.x", "base_model.model.model.language_model.layers.0.x"),
        ("base_model.model.model.vision_tower.layers.0.x", "base_model.model.model.vision_tower.layers.0.x"),
        ("base_model.model.model.normal.x", "base_model.model.model.normal.x"),
        ("model.base_model.model.model.layers.0.x", "model.base_model.model.model.layers.0.x"),
    ],
)
def test_either_naming_of_an_adapter_file_is_that_of_the_model(name: str, expected: str) -> None:
    assert from_file_name(name) == expected


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    """A module whose adapter is all ones, and the folder that it was written to."""
    module = make_module(rank=2)
    module.configure_model()
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.requires_grad:
                parameter.fill_(1.0)
    folder = tmp_path_factory.mktemp("written") / "adapter"
    module.save_adapter(folder)
    return module, folder


def test_an_adapter_comes_back_into_another_model(written: tuple[Any, Path]) -> None:
    other = make_module(rank=2)
    other.configure_model()
    read_adapter(other.model, written[1])
    state, expected = adapter_state(other), adapter_state(written[0])
    assert state.keys() == expected.keys()
    assert all(torch.equal(state[name], expected[name]) for name in state)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda state: state.popitem(), r"1 keys are missing, unexpected or of another shape \(\S+\)$"),
        (lambda state: state.update(x=torch.zeros(1)), r"1 keys are .*shape \(x\)$"),
        (lambda state: state.update(x=torch.zeros(1), y=torch.zeros(1)), r"2 keys are .*shape \(x, y\)$"),
        (lambda state: state.update(dict.fromkeys("xyz", torch.zeros(1))), r"3 keys are .*shape \(x, y, …\)$"),
        (lambda state: state.update({k: torch.zeros(3, 1) for k in list(state)[:1]}), r"1 keys are .*shape \(\S+\)$"),
    ],
)
def test_an_adapter_that_does_not_fit_is_refused_and_changes_nothing(
    change: Any, said: str, written: tuple[Any, Path], tmp_path: Path
) -> None:
    module, folder = written
    state = {name: tensor + 1 for name, tensor in load_file(folder / "adapter_model.safetensors").items()}
    change(state)
    save_file({name: tensor.clone() for name, tensor in state.items()}, tmp_path / "adapter_model.safetensors")
    with pytest.raises(UserError, match=rf"^model\.adapter: {re.escape(str(tmp_path))} does not fit .*{said}"):
        read_adapter(module.model, tmp_path)
    assert all(bool((tensor == 1).all()) for tensor in adapter_state(module).values())


@pytest.mark.parametrize("content", [None, b"", b"no tensors at all"])
def test_a_file_that_is_no_adapter_is_one_line(
    content: bytes | None, written: tuple[Any, Path], tmp_path: Path
) -> None:
    file = tmp_path / "adapter_model.safetensors"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(UserError, match=rf"^model\.adapter: {re.escape(str(file))} cannot be read as an adapter: \S"):
        read_adapter(written[0].model, tmp_path)


def test_a_folder_that_cannot_be_written_is_one_line_and_stays(written: tuple[Any, Path], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(
        UserError,
        match=r"file/adapter: the adapter cannot be written \(.*/file is a file, not a folder\); choose another",
    ):
        written[0].save_adapter(tmp_path / "file" / "adapter")
    assert (tmp_path / "file").read_text() == "in the way"


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (None, 0),
        ({"longest_target": 1}, 1),
        ({"longest_target": 65536}, 65536),
        ({"longest_target": 65537}, 0),
        ({"longest_target": 0}, 0),
        ({"longest_target": -4}, 0),
        ({"longest_target": "9"}, 0),
        ({"longest_target": None}, 0),
        ({}, 0),
        ([9], 0),
    ],
)
def test_the_longest_target_is_what_the_folder_says_if_it_can_be(content: Any, expected: int, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "deepsynth.json").write_text(json.dumps(content))
    assert recorded_longest_target(tmp_path) == expected


PEFT = {"r": 3, "lora_alpha": 5, "use_rslora": True, "use_dora": False, "lora_dropout": 0.5, "auto_mapping": "code"}


@pytest.mark.parametrize(
    ("own", "peft", "expected"),
    [
        (None, PEFT, {"lora.rank": 3, "lora.alpha": 5, "lora.rslora": True, "lora.dora": False}),
        (None, {}, {}),
        (
            {"model_name": "m", "lora": {"rank": 4, "dropout": 0.5}, "engine": {"vision_cache": "/x"}, "adapter": "/y"},
            PEFT,
            {"model_name": "m", "lora.rank": 4},
        ),
        ({"lora_rank": 4}, PEFT, {"lora.rank": 4}),
    ],
)
def test_the_settings_of_an_adapter_are_those_that_its_weights_depend_on(
    own: Any, peft: Any, expected: dict[str, Any], tmp_path: Path
) -> None:
    (tmp_path / "adapter_config.json").write_text(json.dumps(peft))
    if own is not None:
        (tmp_path / "deepsynth.json").write_text(json.dumps(own))
    assert adapter_settings(tmp_path) == expected


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({}, "holds no adapter: there is no adapter_config.json in it"),
        ({"deepsynth.json": "{}"}, "holds no adapter: there is no adapter_config.json in it"),
        ({"adapter_config.json": "{"}, "adapter_config.json: cannot be read as JSON ("),
        ({"adapter_config.json": "[]"}, "adapter_config.json: a JSON list; it must be an object ({...})"),
        ({"adapter_config.json": '{"r": "9"}'}, "adapter_config.json: lora.rank is '9'; it must be int"),
        ({"adapter_config.json": "{}", "deepsynth.json": "[" * 10**5}, "deepsynth.json: cannot be read as JSON ("),
        ({"adapter_config.json": "{}", "deepsynth.json": '{"model_name": 3}'}, "deepsynth.json: model_name is '3'"),
    ],
)
def test_a_folder_whose_settings_cannot_be_read_is_one_line(files: dict[str, str], said: str, tmp_path: Path) -> None:
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=re.escape(said)) as caught:
        adapter_settings(tmp_path)
    assert str(caught.value).startswith(str(tmp_path))
    assert "\n" not in str(caught.value)


def test_prompts_are_kept_once_in_their_order_and_not_too_many() -> None:
    record = PromptRecord()
    assert record.state() == {"prompt": None, "prompts": []}
    record.add(["b", "a", "b"])
    record.add(["a", "c"])
    assert record.state() == {"prompt": "b", "prompts": ["b", "a", "c"]}
    record.add([f"p{i}" for i in range(99)])
    assert record.state()["prompts"] == ["b", "a", "c", *(f"p{i}" for i in range(17))]


@pytest.mark.parametrize(
    ("trained", "new", "told"),
    [
        ({"prompt": "a", "prompts": ["a", "b"]}, ["b", "c"], ["'a', 'b'; the data's is now 'c'"]),
        ({"prompt": "a"}, ["a"], []),
        ({"prompt": "a"}, ["c", "d", "c"], ["'a'; the data's is now 'c'", "'a'; the data's is now 'd'"]),
        ({"prompt": None}, ["c"], []),
        ({"prompt": None, "prompts": []}, ["c"], []),
        ({"prompt": "0", "prompts": [str(i) for i in range(20)]}, ["c"], []),  # of more than that nobody knows
    ],
)
def test_a_prompt_that_was_not_trained_is_named(trained: Any, new: list[str], told: list[str]) -> None:
    record = PromptRecord()
    record.load(trained)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        record.add(new)
    said = [str(warning.message) for warning in caught]
    assert said == [f"the adapter was trained with the prompt {end}" for end in told]
