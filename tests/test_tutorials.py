"""The tutorials run: one of them for a few steps by default, all of them whole by `make tutorials`."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "docs/tutorials"
TUTORIALS = sorted(FOLDER.glob("*.py"))


def run(path: Path, code: str) -> None:
    exec(compile(code, str(path), "exec"), {"__name__": "__main__"})


def test_a_tutorial_runs_for_a_few_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text = (FOLDER / "own_scans.py").read_text(encoding="utf-8")
    code, count = re.subn(r"^STEPS = \d+$", "STEPS = 2", text, flags=re.MULTILINE)
    assert count == 1
    run(FOLDER / "own_scans.py", re.sub(r"max_new_tokens=\d+", "max_new_tokens=4", code))


@pytest.mark.slow
@pytest.mark.parametrize("path", TUTORIALS, ids=lambda path: path.stem)
def test_it_runs_whole(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run(path, path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("path", TUTORIALS, ids=lambda path: path.stem)
def test_it_begins_with_its_title_in_cells(path: Path) -> None:
    assert path.read_text(encoding="utf-8").startswith("# %% [markdown]\n# # ")
