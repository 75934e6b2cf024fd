"""Where a run keeps its files: ``<trainer.default_root_dir>/<run_name>/``."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from deepsynth.io.files import atomic_file


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


class MetricsCsv(Logger):
    """The file ``metrics.csv`` in the run folder, appended to when a run is resumed or validated.

    Lightning's own CSVLogger deletes what an earlier run left.

    Args:
        folder: the run folder.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.file = folder / "metrics.csv"
        self._columns: list[str] = []

    @property
    def name(self) -> str:
        """Return no name: the folder belongs to the run."""
        return ""

    @property
    def version(self) -> str:
        """Return no version: the folder belongs to the run."""
        return ""

    @property
    def save_dir(self) -> str:
        """Return the run folder."""
        return str(self.file.parent)

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Append a row; the file is rewritten when it needs new columns."""
        row = {**{key: float(value) for key, value in metrics.items()}, "step": step}
        if not self._columns and self.file.is_file():
            with self.file.open(newline="") as lines:
                self._columns = next(csv.reader(lines), [])
        if new := set(row) - set(self._columns):
            self._columns = sorted({*self._columns, *new})
            self._rewrite()
        with self.file.open("a", newline="") as lines:
            csv.DictWriter(lines, self._columns).writerow(row)

    def _rewrite(self) -> None:
        rows: list[dict[str, str]] = []
        if self.file.is_file():
            with self.file.open(newline="") as lines:
                rows = list(csv.DictReader(lines))
        with atomic_file(self.file) as new, new.open("w", newline="") as lines:
            writer = csv.DictWriter(lines, self._columns)
            writer.writeheader()
            writer.writerows(rows)

    def log_hyperparams(self, params: Any = None, *args: Any, **kwargs: Any) -> None:
        """Write nothing: ``config.yaml`` beside the metrics has all settings."""
