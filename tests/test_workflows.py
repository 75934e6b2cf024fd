"""The workflows: their steps are whole, and what they run is there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[1]
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))
TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))


def jobs(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert True in found, "YAML takes the key `on` for true"
    assert set(found) == {True, "name", "permissions", "jobs"}
    jobs: dict[str, Any] = found["jobs"]
    return jobs


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_each_job_has_a_machine_and_whole_steps(path: Path) -> None:
    for job in jobs(path).values():
        assert set(job) <= {"runs-on", "strategy", "steps", "if"}
        assert job["steps"][0]["uses"].startswith("actions/checkout@")
        for step in job["steps"]:
            assert set(step) in ({"uses"}, {"uses", "with"}, {"run"}), step
            assert "uses" not in step or re.fullmatch(r"actions/[a-z-]+@v\d+", step["uses"])


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_what_it_makes_is_a_target_and_what_it_reads_is_a_file(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    made = re.findall(r"\bmake ([a-z-]+)", text)
    assert {"lint", "test", "docs", "tutorials"} <= set(made) <= TARGETS
    for file in re.findall(r"cache-dependency-path: ([^},\s]+)", text):
        assert (ROOT / file).is_file()
    for name in re.findall(r"\$\{\{ matrix\.(\w+) }}", text):
        assert any(name in job.get("strategy", {}).get("matrix", {}) for job in jobs(path).values())


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_jobs_with_tests_install_what_tests_skip_without(path: Path) -> None:
    for name, job in jobs(path).items():
        run = " ".join(step.get("run", "") for step in job["steps"])
        assert not re.search(r"make test\b", run) or re.search("libfribidi0 .*fonts-noto-cjk.*make test", run), name


def test_what_ci_makes_is_a_target() -> None:
    made = re.findall(r"^make ([a-z-]+)", (ROOT / ".ci/run").read_text(encoding="utf-8"), re.MULTILINE)
    assert made
    assert set(made) <= TARGETS
