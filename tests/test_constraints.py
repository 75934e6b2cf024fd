"""The pinned versions are of what pyproject.toml names, and within its bounds."""

from __future__ import annotations

import runpy
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
NAMED = [Requirement(line) for line in (*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["dev"])]

EXTRAS = [Requirement(line) for name in ("mutation", "docs") for line in PROJECT["optional-dependencies"][name]]


def pins(name: str) -> dict[str, Requirement]:
    lines = [Requirement(line) for line in (ROOT / "constraints" / name).read_text().splitlines()]
    return {canonicalize_name(line.name): line for line in lines}


@pytest.mark.parametrize("requirement", [*NAMED, *EXTRAS], ids=lambda requirement: requirement.name)
def test_the_tested_version_is_one_that_is_allowed(requirement: Requirement) -> None:
    (exact,) = pins("tested.txt")[canonicalize_name(requirement.name)].specifier
    assert exact.operator == "=="
    assert requirement.specifier.contains(exact.version)


def test_the_lowest_versions_are_the_lower_bounds() -> None:
    lowest = runpy.run_path(str(ROOT / "scripts/requirements.py"))["requirements"]("lowest")
    assert (ROOT / "constraints/lowest.txt").read_text().splitlines() == lowest, "run make constraints"


def test_the_newest_versions_have_no_upper_bound_but_torch() -> None:
    newest = runpy.run_path(str(ROOT / "scripts/requirements.py"))["requirements"]("newest")
    assert [line.name for line in map(Requirement, newest) if "<" in str(line.specifier)] == ["torch"]
    assert {Requirement(line).name for line in newest} == {requirement.name for requirement in NAMED}
