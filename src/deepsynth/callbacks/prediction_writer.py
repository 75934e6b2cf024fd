"""The predictions of ``deepsynth predict`` as JSON lines."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info

from deepsynth.callbacks.rows import gather_rows
from deepsynth.metrics import join_pages


class PredictionWriter(Callback):
    """Writes ``{"id", "prediction", "target"}`` per document, pages joined, in the source's order.

    Every batch's rows are appended to ``<file>.partial`` as they come, so that an interrupted run keeps what it read;
    at the end the joined documents are written to ``<file>``. An older file is kept as ``<stem>-1``, ``<stem>-2``, ….
    The command line adds this callback by itself.

    Example::

        callbacks+:
          - class_path: PredictionWriter
            init_args: {file: read.jsonl}

    Args:
        file: by default ``predictions.jsonl`` in the trainer's root folder.
    """

    def __init__(self, file: str | None = None) -> None:
        self.file = file
        self._rows: list[dict[str, Any]] = []

    def _path(self, trainer: Trainer) -> Path:
        return Path(self.file or Path(trainer.default_root_dir) / "predictions.jsonl")

    def _partial(self, trainer: Trainer) -> Path:
        path = self._path(trainer)
        suffix = ".partial" if trainer.world_size == 1 else f".rank{trainer.global_rank}.partial"
        return path.with_name(path.name + suffix)

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start an empty partial file; that of a run that was interrupted is kept."""
        self._rows = []
        partial = self._partial(trainer)
        partial.parent.mkdir(parents=True, exist_ok=True)
        if partial.exists() and partial.stat().st_size:
            keep_older(partial)
        partial.touch()

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: list[dict[str, Any]],
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Append the batch's rows."""
        self._rows += outputs
        # Half a surrogate pair cannot be written as UTF-8; backslashreplace makes it JSON's own escape.
        with self._partial(trainer).open("a", encoding="utf-8", errors="backslashreplace") as file:
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in outputs)

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Join pages by document, over all ranks, and write the file on rank zero."""
        rows = gather_rows(trainer, self._rows)
        if trainer.is_global_zero:
            path = self._path(trainer)
            ids, pages = [row["document_id"] for row in rows], [row["page"] for row in rows]
            predictions = join_pages(ids, pages, [row["prediction"] for row in rows])
            targets = join_pages(ids, pages, [row["target"] for row in rows])
            temporary = path.with_name(path.name + ".new")
            with temporary.open("w", encoding="utf-8", errors="backslashreplace") as file:
                for name, prediction in predictions.items():
                    row = {"id": name, "prediction": prediction, "target": targets[name]}
                    file.write(json.dumps(row, ensure_ascii=False) + "\n")
            keep_older(path)
            os.replace(temporary, path)
            rank_zero_info(f"{len(predictions)} predictions in {path}")
        trainer.strategy.barrier()  # no rank forgets what it read before all of it is in the file
        self._partial(trainer).unlink()


def keep_older(path: Path) -> None:
    """Rename an existing file to the first free ``<stem>-N<suffix>``."""
    if not path.exists():
        return
    number = 1
    while (older := path.with_name(f"{path.stem}-{number}{path.suffix}")).exists():
        number += 1
    os.rename(path, older)
