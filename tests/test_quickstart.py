"""The quickstart: unseen passages, a real shift, commands that run; the whole of it is slow."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from rapidfuzz.distance import Levenshtein

from deepsynth.__main__ import main
from deepsynth.cli.quickstart import PAGES, fit_arguments, predict_arguments
from deepsynth.data import PythonDocsSource
from deepsynth.data.processing.processor import OcrProcessor

ROOT = Path(__file__).parents[1]
PASSAGES = [json.loads(line) for line in (ROOT / "configs/quickstart_unseen.jsonl").read_text().splitlines()]


@pytest.fixture
def passages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The configurations in a folder of their own, and two passages instead of all."""
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    file = tmp_path / "configs/quickstart_unseen.jsonl"
    file.write_text("".join(line + "\n" for line in file.read_text().splitlines()[:2]))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("deepsynth.cli.quickstart.find_config", lambda name: str(_file(tmp_path / "configs", name)))
    return file


def _file(folder: Path, name: str) -> Path:
    return folder / (name if "." in name else f"{name}.yaml")


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


def test_both_kinds_of_pages_are_measured_before_and_after(tmp_path: Path) -> None:
    fit = fit_arguments()
    assert fit[0::2] == ["--config", "--config"]
    assert [Path(file).name for file in fit[1::2]] == ["quickstart.yaml", "inverse_video.yaml"]
    new, old = PAGES.values()
    assert new == ()
    assert "--data.renderer.background_color=[white]" in old
    for adapter in (None, tmp_path / "adapter"):
        args = predict_arguments(tmp_path, "name", adapter)
        assert Path(args[1]).name == "quickstart.yaml"
        assert not any("inverse_video" in arg for arg in args)  # all pages of a kind
        assert (f"--ckpt_path={adapter}" in args) == (adapter is not None)
        assert any(arg.endswith("quickstart_unseen.jsonl") for arg in args)


@pytest.mark.slow  # CI runs the whole of it
def test_the_shift_is_real_and_the_command_ends_with_the_table(
    passages: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    short = ["--trainer.max_steps=1", "--model.generation.max_new_tokens=4", "--data.max_eval_documents=1"]
    assert main(["quickstart", *short, "--trainer.enable_progress_bar=false"]) == 0
    table = capsys.readouterr().out.splitlines()
    run = tmp_path / "runs/quickstart"
    assert "at step 1" in (run / "gallery.html").read_text()
    for label, kind in zip(PAGES, ("dark", "light"), strict=True):
        (row,) = [line for line in table if line.startswith(label)]
        found = [cer(run / f"unseen/{kind}-{when}/predictions.jsonl") for when in ("before", "after")]
        assert [float(word) for word in row.split()[-2:]] == pytest.approx(found, abs=6e-4)
    assert cer(run / "unseen/dark-before/predictions.jsonl") >= 0.4
    assert cer(run / "unseen/light-before/predictions.jsonl") <= 0.03


@pytest.mark.slow
def test_minutes_of_training_teach_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["quickstart", "--trainer.enable_progress_bar=false"]) == 0
    assert cer(tmp_path / "runs/quickstart/unseen/dark-before/predictions.jsonl") >= 0.4
    assert cer(tmp_path / "runs/quickstart/unseen/dark-after/predictions.jsonl") <= 0.05
