"""The folder of a run and its metrics file."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from deepsynth.cli.run_folder import MetricsCsv, choose_run_folder, discard_start


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open(newline="") as lines:
        return list(csv.DictReader(lines))


def test_new_columns_come_with_their_metrics(tmp_path: Path) -> None:
    logger = MetricsCsv(tmp_path / "run")
    logger.log_metrics({"train/loss": 1.5}, 0)
    logger.log_metrics({"val/loss": 2.0, "train/loss": 1.0}, 1)
    logger.log_metrics({"train/loss": 0.5}, 2)
    assert rows(tmp_path / "run") == [
        {"step": "0", "train/loss": "1.5", "val/loss": ""},
        {"step": "1", "train/loss": "1.0", "val/loss": "2.0"},
        {"step": "2", "train/loss": "0.5", "val/loss": ""},
    ]


def test_a_resumed_run_appends(tmp_path: Path) -> None:
    MetricsCsv(tmp_path).log_metrics({"a": 1.0}, 0)
    resumed = MetricsCsv(tmp_path)
    assert len(rows(tmp_path)) == 1, "nothing is deleted"
    resumed.log_metrics({"a": 2.0}, 1)
    resumed.log_metrics({"b": 3.0}, 1)
    assert [(row["step"], row["a"], row["b"]) for row in rows(tmp_path)] == [
        ("0", "1.0", ""),
        ("1", "2.0", ""),
        ("1", "", "3.0"),
    ]


STARTED = ("config.yaml", "hub_spool/x/lock", "logs/events.out.tfevents.123.machine.0")


@pytest.mark.parametrize(
    ("more", "text", "stays"),
    [
        (None, "", False),
        ("predictions.jsonl", "", False),
        ("predictions.jsonl", "{}", True),
        ("checkpoints/last.ckpt", "weights", True),
        ("metrics.csv", "step", True),
    ],
)
def test_a_run_that_did_nothing_leaves_no_folder(more: str | None, text: str, stays: bool, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    for name in STARTED:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("something")
    if more is not None:
        (folder / more).parent.mkdir(exist_ok=True)
        (folder / more).write_text(text)
    before = sorted(folder.rglob("*"))
    discard_start(folder)
    assert sorted(folder.rglob("*")) == (before if stays else [])
    assert folder.exists() == stays


def test_a_run_gets_a_folder_of_its_own_and_goes_on_in_that_of_its_checkpoint(tmp_path: Path) -> None:
    assert choose_run_folder(tmp_path, "run", None) == tmp_path / "run"
    (tmp_path / "run" / "empty").mkdir(parents=True)
    assert choose_run_folder(tmp_path, "run", None) == tmp_path / "run", "nothing is in it"
    for folder, following in (("run", "run-2"), ("run-2", "run-3")):
        (tmp_path / folder / "checkpoints").mkdir(parents=True)
        (tmp_path / folder / "checkpoints" / "last.ckpt").write_text("weights")
        (tmp_path / folder / "config.yaml").write_text("")
        assert choose_run_folder(tmp_path, "run", None) == tmp_path / following
    assert choose_run_folder(tmp_path, "run", str(tmp_path / "run/checkpoints/last.ckpt")) == tmp_path / "run"
    elsewhere = str(tmp_path / "run" / "last.ckpt")
    assert choose_run_folder(tmp_path, "run", elsewhere) == tmp_path / "run-3"
    (tmp_path / "run" / "config.yaml").unlink()
    assert choose_run_folder(tmp_path, "run", str(tmp_path / "run/checkpoints/last.ckpt")) == tmp_path / "run-3"
