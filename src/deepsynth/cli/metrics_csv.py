"""The file ``metrics.csv``: all logged values of a run."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities.rank_zero import rank_zero_info, rank_zero_only

from deepsynth.compat.lightning import pending_metrics
from deepsynth.io.files import atomic_file, explain_write_errors


class MetricsCsv(Logger):
    """The file ``metrics.csv`` in the run folder, appended to when a run is resumed.

    Lightning's own CSVLogger deletes what an earlier run left.

    Args:
        folder: the run folder.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.file = folder / "metrics.csv"
        self._columns: list[str] = []
        self._opened = False
        self._early = ""  # the row that was written before Lightning logged it

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
        """Append a row, unless :meth:`log_early` has; the file is rewritten when it needs new columns.

        Raises:
            UserError: when the disk is full or the file cannot be written; what was in it stays.
        """
        row = {**{key: float(value) for key, value in metrics.items()}, "step": step}
        early, self._early = self._early, ""
        if early == _key(row):
            return
        with explain_write_errors(self.file, "the metrics"):
            if not self._opened:
                self._columns = self._open()
                self._opened = True
            if new := set(row) - set(self._columns):
                columns = sorted({*self._columns, *new})
                self._rewrite(columns, row)
                self._columns = columns
            else:
                self._append(_line([row.get(column, "") for column in self._columns]))

    @rank_zero_only
    def log_early(self, metrics: Mapping[str, float], step: int) -> None:
        """Append the row that Lightning is going to log next."""
        self.log_metrics(metrics, step)
        self._early = _key({**{key: float(value) for key, value in metrics.items()}, "step": step})

    def sync(self) -> None:
        """Wait until all rows are on the disk.

        Raises:
            UserError: when that fails.
        """
        if self._opened:
            with explain_write_errors(self.file, "the metrics"), self.file.open("rb") as file:
                os.fsync(file.fileno())

    def _open(self) -> list[str]:
        """Return the columns that the file has; a last row that was cut short by a full disk or a crash is removed."""
        if not self.file.is_file():
            return []
        with self.file.open("rb+") as file:
            content = file.read()
            whole = content.rfind(b"\n") + 1
            if whole < len(content):
                rank_zero_info(f"{self.file}: its last row was incomplete and was removed")
                file.truncate(whole)
        with self.file.open(newline="", encoding="utf-8") as lines:
            return next(csv.reader(lines), [])

    def _append(self, line: bytes) -> None:
        """Append a line; of one that does not fit on the disk nothing stays, as it would garble the next."""
        with self.file.open("ab", buffering=0) as file:
            end = file.seek(0, os.SEEK_END)
            try:
                written = file.write(line)
                if written < len(line):
                    file.write(line[written:])  # raises what the matter is
            except OSError:
                file.truncate(end)
                raise

    def _rewrite(self, columns: list[str], row: Mapping[str, Any]) -> None:
        """Rewrite the file with more columns and another row, or leave it as it is."""
        with atomic_file(self.file) as new, new.open("wb") as target:
            target.write(_line(columns))
            if self._columns:
                with self.file.open(newline="", encoding="utf-8") as lines:
                    for old in csv.DictReader(lines):
                        target.write(_line([old.get(column) or "" for column in columns]))
            target.write(_line([row.get(column, "") for column in columns]))

    def log_hyperparams(self, params: Any = None, *args: Any, **kwargs: Any) -> None:
        """Write nothing: ``config.yaml`` beside the metrics has all settings."""


class RowsBeforeCheckpoints(Callback):
    """Has the row of a step on the disk before its checkpoint: Lightning logs a step after it has saved it.

    A run that is killed in between would never log that step, as it continues with the next.
    """

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Write the row that is due."""
        if not trainer.is_global_zero:
            return
        for logger in trainer.loggers:
            if isinstance(logger, MetricsCsv):
                if (due := pending_metrics(trainer)) is not None:
                    logger.log_early(*due)
                logger.sync()


def _key(row: Mapping[str, Any]) -> str:
    return repr(sorted(row.items()))  # numbers that are none equal themselves here


def _line(values: Sequence[Any]) -> bytes:
    text = io.StringIO()
    csv.writer(text).writerow(values)
    return text.getvalue().encode()
