"""The commands of docs/guides run as they stand there, a few steps long."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest

from deepsynth.__main__ import main
from deepsynth.data import ParquetSource, TextRenderer
from deepsynth.types import Document

GUIDE = (Path(__file__).parents[1] / "docs/guides/your-own-scans.md").read_text()
#: What makes a run short.
SHORT = {
    "fit": ["--trainer.max_steps=2", "--model.generation.max_new_tokens=4", "--trainer.enable_progress_bar=false"],
    "predict": ["--model.generation.max_new_tokens=4", "--trainer.enable_progress_bar=false"],
}


def write_scans(folder: Path, names: list[str]) -> None:
    renderer = TextRenderer(page_width_px=256, page_height_px=256, margin_px=10, font_size_px=12.0)
    for number, name in enumerate(names):
        text = f"Scan number {number} of {name}."
        (page,) = renderer(Document(name, text), np.random.default_rng(0))
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        page.image.save(path)
        path.with_suffix(".txt").write_text(text)


def test_scans_become_an_adapter_and_text_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_scans(Path("scans"), [f"letters/{number}.png" for number in range(6)])
    write_scans(Path("new"), ["a.png", "old/b.tif"])
    commands = [shlex.split(block.strip()) for block in re.findall(r"```bash\n(.*?)```", GUIDE, re.DOTALL)]
    assert [command[:2] for command in commands] == [
        *(["deepsynth", "data"], ["deepsynth", "fit"], ["deepsynth", "fit"], ["deepsynth", "predict"]),
        ["deepsynth", "data"],
    ]
    for command in commands:
        assert main([*command[1:], *SHORT.get(command[1], [])]) == 0
    assert {path.name for path in Path("check").iterdir()} == {"contact.png", "check.json"}
    assert Path("runs/finetune/adapter/adapter_model.safetensors").is_file()
    assert Path("runs/finetune/gallery.html").is_file()
    results = {str(path.relative_to("results")) for path in Path("results").rglob("*.*")}
    assert results == {
        *("predictions.jsonl", "predictions.metrics.json"),
        *("a.txt", "a.md", "old/b.txt", "old/b.md"),
    }
    rows = [json.loads(line) for line in Path("results/predictions.jsonl").read_text().splitlines()]
    assert [row["id"] for row in rows] == ["a.png", "old/b.tif"]
    assert sorted(document.text for document in ParquetSource(tmp_path / "dataset")) == [
        f"Scan number {number} of letters/{number}.png." for number in range(6)
    ]
