"""What a run compiles where its settings leave it open."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest

from deepsynth.models.engine.compilation import Compilation, choose_compilation, missing_compiler
from tests.helpers.training import make_data, make_module, make_trainer


def choose(**facts: Any) -> Compilation:
    usual: dict[str, Any] = {
        "batches": 5000,
        "length": 1216,
        "keeps_activations": True,
        "frozen_vision": True,
        "cached_vision": False,
    }
    return choose_compilation(**{**usual, **facts})


@pytest.mark.parametrize(
    ("facts", "parts", "graphs"),
    [
        ({}, "all", True),
        ({"batches": float("inf")}, "all", True),
        ({"batches": 1000}, "all", True),
        ({"batches": 999}, "none", False),
        ({"length": 1217}, "all", False),
        ({"frozen_vision": False}, "decoder", True),
        ({"cached_vision": True}, "decoder", True),
        ({"keeps_activations": False}, "vision", True),
        ({"keeps_activations": False, "length": 1217}, "vision", True),
        ({"keeps_activations": False, "frozen_vision": False}, "none", False),
        ({"against": "weights are sharded"}, "none", False),
    ],
    ids=str,
)
def test_it_compiles_what_pays_within_the_run(facts: dict[str, Any], parts: str, graphs: bool) -> None:
    chosen = choose(**facts)
    assert (chosen.parts, chosen.cuda_graphs) == (parts, graphs)
    assert chosen.options == ({"mode": "reduce-overhead"} if graphs else {})


def test_the_reason_says_what_would_change_it() -> None:
    assert choose(against="weights are in nf4").reason == "weights are in nf4"
    assert "999 batches" in choose(batches=999).reason
    assert "data.pad_to_multiple_of" in choose(length=1217).reason


def test_a_reason_against_it_is_given_as_it_is() -> None:
    assert choose(against="there is no C compiler") == Compilation("none", False, "there is no C compiler")


@pytest.mark.parametrize("program", ["cc", "gcc", "clang", "CC"])
def test_what_torch_compile_lacks(program: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    assert "no C compiler" in missing_compiler()
    if program == "CC":
        monkeypatch.setenv("CC", "/opt/compiler")
    else:
        (tmp_path / program).touch(mode=0o755)
    assert missing_compiler() == ""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "triton" else name)
    assert missing_compiler() == "triton is not installed"


def test_a_run_on_the_cpu_says_that_it_compiles_nothing(
    tmp_path: Path, jsonl: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO"):
        make_trainer(tmp_path, max_steps=1).fit(make_module(), make_data(jsonl))
    assert "compiled layers: none (the model is on cpu)" in caplog.text
