"""The quickstart: unseen passages, a real shift, commands that run; the whole of it is slow."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest
from rapidfuzz.distance import Levenshtein

from deepsynth.__main__ import main
from deepsynth.data import PythonDocsSource
from deepsynth.data.processing.processor import OcrProcessor

ROOT = Path(__file__).parents[1]
PASSAGES = [json.loads(line) for line in (ROOT / "configs/quickstart_unseen.jsonl").read_text().splitlines()]
QUICKSTART = ["--config", "configs/quickstart.yaml"]


def commands() -> list[list[str]]:
    """Return the arguments of the ``deepsynth`` commands of ``make quickstart``, variables filled in."""
    makefile = (ROOT / "Makefile").read_text().replace("\\\n", " ")
    values = dict(re.findall(r"^(\w+) :?= *(.*)$", makefile, re.MULTILINE))
    recipe = re.search(r"^quickstart:.*\n((?:\t.*\n)+)", makefile, re.MULTILINE)
    assert recipe
    text = recipe[1]
    while "$(" in text:
        text = re.sub(r"\$\((\w+)\)", lambda found: values[found[1]], text)
    words = [shlex.split(line) for line in text.splitlines() if "bin/deepsynth " in line]
    return [line[1:] for line in words]


def option(args: list[str], name: str) -> str:
    return args[args.index(name) + 1]


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the configurations in it, and two passages instead of all."""
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    passages = tmp_path / "configs/quickstart_unseen.jsonl"
    passages.write_text("".join(line + "\n" for line in passages.read_text().splitlines()[:2]))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def cer(file: Path) -> float:
    rows: list[dict[str, Any]] = [json.loads(line) for line in file.read_text().splitlines()]
    edits = sum(Levenshtein.distance(row["prediction"], row["target"]) for row in rows)
    return edits / sum(len(row["target"]) for row in rows)


def test_the_passages_are_in_no_training_text_and_in_the_models_characters() -> None:
    docs = "\n".join(" ".join(document.text.split()) for document in PythonDocsSource("transcribe", min_chars=40))
    tokenizer = OcrProcessor("deepsynth/tiny").hf_processor.tokenizer
    assert len({passage["id"] for passage in PASSAGES}) == len(PASSAGES) >= 32
    for passage in PASSAGES:
        text = passage["text"]
        assert 150 <= len(text) <= 200
        assert len(tokenizer.encode(text, add_special_tokens=False)) == len(text)
        assert not any(text[start : start + 30] in docs for start in range(0, len(text) - 30, 5))


def test_the_makefile_measures_both_kinds_of_pages_before_and_after() -> None:
    fit, *reads = commands()
    folder = "--trainer.default_root_dir=runs/make-quickstart"
    assert fit == ["fit", *QUICKSTART, "--config", "configs/data/inverse_video.yaml", folder]
    assert all(folder in args for args in reads)
    removed = re.findall(r"rm -rf (.*)", (ROOT / "Makefile").read_text())
    assert removed[0] == "$(QUICK)", "what a user's own fit wrote, to runs/quickstart, stays"
    named = {option(args, "--run_name"): args for args in reads}
    assert sorted(named) == ["dark-after", "dark-before", "light-after", "light-before"]
    for name, args in named.items():
        assert args[1:3] == QUICKSTART
        assert "configs/data/inverse_video.yaml" not in args  # all pages of a kind
        assert ("--ckpt_path" in args) == name.endswith("after")
        assert ("--data.renderer.background_color=[white]" in args) == name.startswith("light")


@pytest.mark.slow  # CI runs `make quickstart` itself
def test_the_shift_is_real_and_the_commands_run(checkout: Path) -> None:
    fit, *reads = commands()
    short = ["--trainer.max_steps=1", "--trainer.val_check_interval=1", "--model.generation.max_new_tokens=4"]
    assert main([*fit, *short, "--data.max_eval_documents=1", "--trainer.enable_progress_bar=false"]) == 0
    assert "at step 1" in (checkout / "runs/make-quickstart/quickstart/gallery.html").read_text()
    for args in reads:
        before = "--ckpt_path" not in args
        assert main([*args, *([] if before else ["--model.generation.max_new_tokens=4"])]) == 0
    assert cer(checkout / "runs/make-quickstart/dark-before/predictions.jsonl") >= 0.4
    assert cer(checkout / "runs/make-quickstart/light-before/predictions.jsonl") <= 0.03
    assert (checkout / "runs/make-quickstart/light-after/predictions.jsonl").is_file()


@pytest.mark.slow
def test_minutes_of_training_teach_it(checkout: Path) -> None:
    shutil.copy(ROOT / "configs/quickstart_unseen.jsonl", checkout / "configs")
    for args in commands()[:3]:
        assert main([*args, "--trainer.enable_progress_bar=false"]) == 0
    assert cer(checkout / "runs/make-quickstart/dark-before/predictions.jsonl") >= 0.4
    assert cer(checkout / "runs/make-quickstart/dark-after/predictions.jsonl") <= 0.05
