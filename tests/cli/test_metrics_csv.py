"""The file metrics.csv: every row that was logged, whatever happens."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from deepsynth.cli.metrics_csv import MetricsCsv, RowsBeforeCheckpoints
from deepsynth.errors import UserError
from tests.helpers.training import make_data, make_module, make_trainer
from tests.modules.test_checkpoint_io import disk_with


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


def test_a_full_disk_loses_no_old_row(tmp_path: Path) -> None:
    logger = MetricsCsv(tmp_path)
    for step in range(40):
        logger.log_metrics({"a": step / 7}, step)
    before = (tmp_path / "metrics.csv").read_bytes()
    for columns in ({"a": 1.0}, {"a": 1.0, "b": 2.0}):
        with disk_with(len(before) + 3), pytest.raises(UserError, match=r"metrics\.csv: the metrics cannot be written"):
            logger.log_metrics(columns, 40)
        assert (tmp_path / "metrics.csv").read_bytes() == before
    logger.log_metrics({"a": 0.25, "b": 2.0}, 41)
    found = rows(tmp_path)
    assert [row["step"] for row in found] == [*map(str, range(40)), "41"]
    assert [float(row["a"]) for row in found] == [*(step / 7 for step in range(40)), 0.25]
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.csv"]


def test_a_row_that_was_cut_short_does_not_garble_the_next(tmp_path: Path) -> None:
    first = MetricsCsv(tmp_path)
    first.log_metrics({"a": 1.0}, 0)
    with (tmp_path / "metrics.csv").open("a") as file:
        file.write("0.12")  # killed while it wrote
    MetricsCsv(tmp_path).log_metrics({"a": 2.0}, 1)
    assert rows(tmp_path) == [{"a": "1.0", "step": "0"}, {"a": "2.0", "step": "1"}]


def test_a_row_that_was_written_early_is_not_written_again(tmp_path: Path) -> None:
    logger = MetricsCsv(tmp_path)
    logger.sync()
    assert not logger.file.exists()
    for late in ({"a": 1.0, "b": float("nan")}, {"a": 1.5}):
        logger.log_early({"a": 1.0, "b": float("nan")}, 3)
        logger.log_metrics(late, 3)
    logger.log_metrics({"a": 1.5}, 4)
    logger.log_metrics({"a": 1.5}, 4)
    logger.sync()
    assert [(row["step"], row["a"]) for row in rows(tmp_path)] == [
        *(("3", "1.0"), ("3", "1.0"), ("3", "1.5"), ("4", "1.5"), ("4", "1.5")),
    ]
    assert (logger.name, logger.version, logger.save_dir) == ("", "", str(tmp_path))


def test_only_the_first_process_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rank_zero_only, "rank", 1)
    logger = MetricsCsv(tmp_path)
    logger.log_metrics({"a": 1.0}, 0)
    logger.log_early({"a": 1.0}, 1)
    assert list(tmp_path.iterdir()) == []


class Dies(Callback):
    """Ends the run right after a checkpoint was written, before Lightning logs the step."""

    def on_train_batch_end(self, trainer: Any, *args: Any) -> None:
        if trainer.global_step == 2:
            raise RuntimeError("the machine goes away")


def test_the_row_of_a_step_is_there_before_its_checkpoint(tmp_path: Path, jsonl: Path) -> None:
    every = ModelCheckpoint(tmp_path / "checkpoints", filename="last", every_n_train_steps=1)
    settings: dict[str, Any] = {"enable_checkpointing": True, "log_every_n_steps": 1, "max_steps": 3}

    def fit(*callbacks: Callback, **kwargs: Any) -> None:
        logger = MetricsCsv(tmp_path)
        trainer = make_trainer(
            tmp_path, callbacks=[RowsBeforeCheckpoints(), every, *callbacks], logger=[logger], **settings
        )
        # Lightning moves checkpoints to the end; the one that dies comes after them.
        trainer.callbacks.sort(key=lambda callback: isinstance(callback, Dies))  # type: ignore[attr-defined]
        trainer.fit(make_module(), make_data(jsonl), **kwargs)

    with pytest.raises(RuntimeError, match="goes away"):
        fit(Dies())
    assert [row["step"] for row in rows(tmp_path)] == ["0", "1"], "two steps are in the checkpoint"
    fit(ckpt_path=str(tmp_path / "checkpoints" / "last.ckpt"), weights_only=True)
    assert [row["step"] for row in rows(tmp_path)] == ["0", "1", "2"], "each once"
    assert all(float(row["train/loss"]) > 0 for row in rows(tmp_path))
