"""The commands of README and Getting started, and the Python of the reference, run as they stand there, made short."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest

from deepsynth.__main__ import main
from tests.helpers.first_hour import FIRST_PAGES, commands, prepare, shortened

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize(
    "page",
    [pytest.param(page, marks=[] if page.name == "README.md" else pytest.mark.slow) for page in FIRST_PAGES],
    ids=lambda page: page.name,
)
def test_the_commands_run_in_their_order(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = commands(page)
    assert len(lines) >= 4
    prepare(tmp_path)
    monkeypatch.chdir(tmp_path)
    for line in lines[1:]:  # the first is the quickstart, which tests/test_quickstart.py runs
        assert main([*shlex.split(line)[1:], *shortened(line)]) == 0, line
    assert (tmp_path / "results/a.txt").is_file()


def test_the_first_command_is_the_quickstart() -> None:
    assert [commands(page)[0] for page in FIRST_PAGES] == ["deepsynth quickstart"] * 2


def test_the_python_of_the_reference_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = re.findall(r"```python\n(.*?)```", (ROOT / "docs/reference/python.md").read_text(), re.DOTALL)
    prepare(tmp_path)
    monkeypatch.chdir(tmp_path)
    short = first.replace("max_steps=200", "max_steps=2, limit_val_batches=0")
    assert short != first
    names: dict[str, Any] = {"__name__": "__main__"}
    exec(compile(short, "python.md", "exec"), names)
    names["model"].save_adapter(tmp_path / "runs/finetune/adapter")
    for name in ("page.png", "page2.png"):
        shutil.copy("new/a.png", name)
    exec(compile(second, "python.md", "exec"), names)
    assert len(names["texts"]) == 2
