"""Which cells are chosen, what a machine says of itself, and what is written of both."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from deepsynth import __version__
from deepsynth.errors import UserError
from deepsynth.measurement.cells import Cell, environment, is_chosen, run_cells


@pytest.mark.parametrize(
    ("only", "chosen"),
    [
        ([], True),
        (["train"], True),
        (["batch=8"], True),
        (["train/batch=8"], True),
        (["batch=8/peft"], True),
        (["train/batch=8/peft"], True),
        (["other", "peft"], True),
        (["trai"], False),
        (["batch"], False),
        (["train/peft"], False),
        (["eft"], False),
        (["/train"], False),
    ],
)
def test_a_cell_is_chosen_by_whole_parts_of_its_name(only: list[str], chosen: bool) -> None:
    assert is_chosen("train/batch=8/peft", only) is chosen


def test_versions_and_the_machine_are_named() -> None:
    found = environment()
    assert found["deepsynth"] == __version__
    assert found["torch"]
    assert "transformers" in found
    assert "a-package-that-is-not" not in found
    assert found["cores"] == str(len(os.sched_getaffinity(0)))
    assert found["machine"].split() == [os.uname().sysname, os.uname().machine]
    assert "\n" not in found["processor"]
    model = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    assert not model or found["processor"] == model[0].partition(":")[2].strip()


def cell(name: str, result: Any, log: list[str]) -> Cell:
    return Cell(name, lambda: (log.append(name), result)[1])


def test_results_are_written_with_what_they_depend_on(tmp_path: Path) -> None:
    output, log = tmp_path / "deep" / "x.json", []
    run_cells([cell("a", {"é": 1}, log)], output=output, settings={"steps": 3})
    text = output.read_text(encoding="utf-8")
    assert json.loads(text) == {"environment": environment(), "settings": {"steps": 3}, "cells": {"a": {"é": 1}}}
    assert "é" in text
    assert text.endswith("}\n")
    assert text.startswith('{\n  "environment"')


@pytest.mark.parametrize(
    ("earlier", "now", "complaint"),
    [
        ({"steps": 3}, {"steps": 3}, None),
        ({"steps": 3}, {}, None),
        ({}, {"steps": 3}, None),
        ({"steps": 3, "repeats": 1}, {"steps": 4, "repeats": 2}, "steps was 3, is 4; repeats was 1, is 2; choose"),
    ],
)
def test_results_of_other_settings_are_refused_and_of_more_are_not(
    earlier: dict[str, Any], now: dict[str, Any], complaint: str | None, tmp_path: Path
) -> None:
    output, log = tmp_path / "x.json", []
    run_cells([cell("a", {}, log)], output=output, settings=earlier)
    both = [cell("a", {}, log), cell("b", {}, log)]
    if complaint is None:
        run_cells(both, output=output, settings=now, resume=True)
        assert json.loads(output.read_text())["settings"] == {**earlier, **now}
        assert log == ["a", "b"]
    else:
        with pytest.raises(UserError, match=complaint):
            run_cells(both, output=output, settings=now, resume=True)
        assert log == ["a"]


def test_resuming_without_a_file_begins_one(tmp_path: Path) -> None:
    log: list[str] = []
    run_cells([cell("a", {}, log)], output=tmp_path / "x.json", resume=True)
    assert log == ["a"]
    assert (tmp_path / "x.json").is_file()
