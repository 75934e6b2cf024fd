"""Every shipped configuration parses, alone or over the quickstart."""

from __future__ import annotations

from pathlib import Path

import pytest

from deepsynth.__main__ import main

ROOT = Path(__file__).parents[1]
CONFIGS = sorted((ROOT / "configs").rglob("*.yaml"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: str(p.relative_to(ROOT)))
def test_it_parses(path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    base = [] if path.parent == ROOT / "configs" else ["--config", "quickstart"]
    assert main(["fit", *base, "--config", str(path), "--print_config"]) == 0
    assert "class_path" in capsys.readouterr().out


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: str(p.relative_to(ROOT)))
def test_its_first_lines_say_what_it_is_and_how_to_use_it(path: Path) -> None:
    head = path.read_text().splitlines()[:12]
    assert head[0].startswith("# ")
    assert head[0].endswith("."), "`deepsynth configs` shows the first line alone"
    assert any("deepsynth " in line for line in head if line.startswith("#"))
