"""The metrics file of a run."""

from __future__ import annotations

import csv
from pathlib import Path

from deepsynth.cli.run_folder import MetricsCsv


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
