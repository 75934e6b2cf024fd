"""Where a run keeps its files: ``<trainer.default_root_dir>/<run_name>/``."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path
from typing import Any

from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch.loggers.csv_logs import CSVLogger, ExperimentWriter


def choose_run_folder(root: Path, name: str, ckpt_path: str | None) -> Path:
    """Return the folder of a run.

    A run that starts from a checkpoint of another run folder below ``root`` continues (fit) or adds to (validate,
    test, predict) that folder. Any other run gets a folder of its own: ``name``, or ``name-2``, ``name-3``, … when
    that exists.

    Args:
        root: the parent of all run folders.
        name: what the run is called.
        ckpt_path: the checkpoint that the run starts from.
    """
    if ckpt_path is not None:
        parents = Path(ckpt_path).resolve().parents
        if len(parents) > 1 and parents[0].name == "checkpoints" and (parents[1] / "config.yaml").is_file():
            return parents[1] if parents[1].parent != root.resolve() else root / parents[1].name
    folder = root / name
    number = 2
    while folder.exists() and not (folder.is_dir() and is_unused(folder)):
        folder = root / f"{name}-{number}"
        number += 1
    return folder


def is_unused(folder: Path) -> bool:
    """Whether a folder holds nothing yet: no file, however deep."""
    return not any(path.is_file() for path in folder.rglob("*"))


def discard_start(folder: Path) -> None:
    """Remove what a run writes before it does anything; the folder stays if it holds more than that."""
    for path in folder.rglob("*"):
        started = path.name in ("config.yaml", "lock") or path.name.startswith("events.out.tfevents.")
        if path.is_file() and not started and path.stat().st_size:
            return
    shutil.rmtree(folder, ignore_errors=True)


class _AppendingWriter(ExperimentWriter):
    """Lightning's writer deletes what an earlier run left in the folder; a resumed run must go on in the same file."""

    def _check_log_dir_exists(self) -> None:
        file = Path(self.metrics_file_path)
        if file.is_file():
            with file.open(newline="") as lines:
                self.metrics_keys = next(csv.reader(lines), [])


class MetricsCsv(CSVLogger):
    """``metrics.csv`` in the run folder itself, appended to when a run is resumed or validated.

    Args:
        folder: the run folder.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(save_dir=folder, name="", version="", flush_logs_every_n_steps=20)

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """Return the writer, made on first use on rank zero."""
        if self._experiment is None:
            self._experiment = _AppendingWriter(self.log_dir)
        return self._experiment

    def log_hyperparams(self, params: Any = None) -> None:
        """Write nothing: ``config.yaml`` beside the metrics says it all."""
