"""The README's commands and its Python run as they stand there, two steps long."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from deepsynth.__main__ import main

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
COMMANDS = [
    line
    for block in re.findall(r"```bash\n(.*?)```", README, re.DOTALL)
    for line in block.replace("\\\n", " ").splitlines()
    if line.startswith("deepsynth ")
]


def prepare(folder: Path) -> None:
    """Lay out what the README's examples speak of."""
    (folder / "docs.jsonl").write_text(
        "".join(f'{{"id": "{i}", "text": "Document number {i} is short."}}\n' for i in range(40))
    )
    (folder / "pairs.jsonl").write_text(
        "".join(f'{{"body": "Document number {i} is short.", "abstract": "Number {i}."}}\n' for i in range(40))
    )
    (folder / "scans").mkdir()
    from PIL import Image

    Image.new("RGB", (300, 200), "white").save(folder / "scans" / "page.png")


def test_the_commands_run_in_their_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(COMMANDS) >= 5
    prepare(tmp_path)
    monkeypatch.chdir(tmp_path)
    short = ["--trainer.max_steps=2", "--model.generation.max_new_tokens=4", "--model.generation.samples=2"]
    for command in COMMANDS:
        args = shlex.split(command, comments=True)[1:]
        if args[0] in ("fit", "validate", "test", "predict"):
            limit = ["--trainer.limit_val_batches=1"] if args[0] in ("fit", "validate") else []
            limit += ["--trainer.limit_predict_batches=2"] if args[0] == "predict" else []
            args += [*(short if args[0] == "fit" else short[1:]), *limit, "--data.max_train_documents=8"]
        assert main(args) == 0, command


@pytest.mark.slow
def test_the_commands_run_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prepare(tmp_path)
    monkeypatch.chdir(tmp_path)
    for command in COMMANDS:
        assert main(shlex.split(command, comments=True)[1:]) == 0, command


def test_the_python_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len(blocks) == 1
    assert len(blocks[0].strip().splitlines()) <= 10
    prepare(tmp_path)
    monkeypatch.chdir(tmp_path)
    code = blocks[0].replace("max_steps=200", "max_steps=2, limit_val_batches=0")
    assert code != blocks[0]
    exec(compile(code, "README.md", "exec"), {"__name__": "__main__"})
