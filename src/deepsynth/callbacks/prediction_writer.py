"""The predictions of ``deepsynth predict`` as JSON lines."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import TQDMProgressBar
from lightning.pytorch.utilities import rank_zero_info

from deepsynth.callbacks.prediction_files import PredictionFiles, PredictionFormat, check_formats, layout_of_row
from deepsynth.callbacks.prediction_rows import (
    Row,
    by_document,
    cut_broken_line,
    document_row,
    in_order,
    keep_older,
    round_robin,
    rows_of,
    write_metrics,
)
from deepsynth.data.datamodule import TextImageDataModule
from deepsynth.errors import UserError
from deepsynth.io.files import atomic_file, explain_write_errors
from deepsynth.io.locks import FileLock
from deepsynth.io.text import counted
from deepsynth.modules import DeepSynthModule
from deepsynth.types import Batch

#: Names that a line about pages without boxes lists.
_NAMES_SHOWN = 5
#: Name of the file unless another is given.
NAME = "predictions.jsonl"


class PredictionWriter(Callback):
    """Writes ``{"id", "prediction", "target", "stop", "prompt"}`` per document, pages joined, in the source's order.

    ``stop`` is why generation ended: ``eos``, else ``loop`` where a page ended so, or ``length``; ``language`` and
    ``source`` are there where they are known. ``mean_logprob`` is the mean log-probability of the tokens, and
    ``page_mean_logprobs`` has that of each page: the nearer to 0, the surer the model was. Rows are appended to
    ``<file>.partial`` as they come, one page a line with its tokens and its own ``stop``, so that an interrupted
    run keeps its predictions; at the end the joined documents are written to ``<file>``. An older file is kept as
    ``<stem>-1``, ``<stem>-2``, …. No row stays in memory, and the metrics of known texts, which this callback prints,
    are taken from the file and stand in ``<stem>.metrics.json`` beside it. The command line adds this callback by
    itself, with ``deepsynth predict --output DIR --format txt,md --resume``.

    With ``resume`` the same command can be repeated until it finishes: each time it compares the ids of the samples
    in ``<file>.partial`` with the data, and skips those samples.

    Example::

        callbacks+:
          - class_path: PredictionWriter
            init_args: {file: predictions.jsonl, resume: true}

    Args:
        file: by default ``predictions.jsonl`` in the trainer's root folder.
        resume: continue the partial file of an interrupted run, if there is one; the data must be in the same order,
            and on several processes as many as before.
        formats: also write a file for each document beside ``file``: ``txt``, ``md``; and where predictions have boxes,
            for each page: ``page`` (PAGE XML), ``alto``; see :class:`PredictionFiles`.
        token_logprobs: also write ``token_logprobs``: for each page, ``[text, log-probability]`` of its tokens.

    Raises:
        UserError: for ``resume`` without ``file``: every run has its own folder; when the run begins, for a file
            that another run is writing.
    """

    def __init__(
        self,
        file: str | None = None,
        resume: bool = False,
        formats: Sequence[PredictionFormat] = ("jsonl",),
        token_logprobs: bool = False,
    ) -> None:
        check_formats(formats)
        if resume and file is None:
            raise UserError(
                "PredictionWriter.resume is true, but PredictionWriter.file is not set; give the file whose .partial "
                "an earlier run left"
            )
        self.file = file
        self.resume = resume
        self.formats = tuple(formats)
        self.token_logprobs = token_logprobs
        self._earlier_ids: Iterator[str] = iter(())
        self._lock: FileLock | None = None
        self._begun = 0.0
        self._pages = self._tokens = self._documents = self._earlier_pages = 0
        self._last_document: str | None = None
        self._with_boxes = False

    def path(self, trainer: Trainer) -> Path:
        """Return where the predictions of a run are written."""
        return Path(self.file or Path(trainer.default_root_dir) / NAME)

    def _partial(self, trainer: Trainer, rank: int | None = None) -> Path:
        path = self.path(trainer)
        rank = trainer.global_rank if rank is None else rank
        suffix = ".partial" if trainer.world_size == 1 else f".rank{rank}.partial"
        return path.with_name(path.name + suffix)

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Create the partial file or continue it; that of a run that is not resumed is kept.

        Raises:
            UserError: when another run writes it, or it cannot be written.
        """
        self._begun = time.monotonic()
        self._pages = self._tokens = self._documents = self._earlier_pages = 0
        self._last_document, self._with_boxes = None, False
        self._earlier_ids = iter(())
        partial = self._partial(trainer)
        with explain_write_errors(partial, "the predictions"):
            partial.parent.mkdir(parents=True, exist_ok=True)
            self._lock = lock = FileLock(partial.with_name(f"{partial.name}.lock"))
            free = lock.acquire()
        if not free:
            raise UserError(
                f"{partial}: another run is writing it ({lock.holder()}); wait until it ends, or set "
                "PredictionWriter.file to another place"
            )
        if partial.exists() and partial.stat().st_size:
            if self.resume:
                cut_broken_line(partial)
                self._earlier_ids = (row["id"] for row in rows_of(partial))
                for row in rows_of(partial):
                    self._earlier_pages += 1
                    self._with_boxes = self._with_boxes or layout_of_row(row) is not None
                    self._count_document(row)
            else:
                kept = keep_older(partial)
                rank_zero_info(
                    f"an interrupted run's predictions are kept in {kept}; PredictionWriter.resume=true continues them"
                )
        if isinstance(pl_module, DeepSynthModule):
            pl_module.prepare_predictions(skip=self._earlier_pages, token_logprobs=self.token_logprobs)
        with explain_write_errors(partial, "the predictions"):
            partial.touch()

    def on_predict_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Batch, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Compare the samples with those of the interrupted run.

        Raises:
            UserError: when they differ, with both ids.
        """
        if not self.resume:
            return
        for own, earlier in zip(batch.ids, self._earlier_ids, strict=False):
            if own != earlier:
                raise UserError(
                    f"{self._partial(trainer)} has the sample {earlier!r} where the data now has {own!r}; resume "
                    "with the same data, or set PredictionWriter.resume=false"
                )

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: list[Row],
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Append the rows that are ready, and show how fast they come.

        Raises:
            UserError: when the disk is full or the file cannot be written.
        """
        # Half a surrogate pair cannot be written as UTF-8; backslashreplace makes it JSON's own escape.
        partial = self._partial(trainer)
        with (
            explain_write_errors(partial, "the predictions"),
            partial.open("a", encoding="utf-8", errors="backslashreplace") as file,
        ):
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in outputs)
        self._pages += len(outputs)
        self._tokens += sum(row.get("tokens", 0) for row in outputs)
        for row in outputs:
            self._count_document(row)
            self._check_boxes(row)
        bar = getattr(trainer, "progress_bar_callback", None)
        if isinstance(bar, TQDMProgressBar) and bar.is_enabled:
            bar.predict_progress_bar.set_postfix_str(self._progress(trainer, bar.predict_progress_bar) + self._speed())

    def _check_boxes(self, row: Row) -> None:
        """Refuse a layout where the first text shows that the model was not asked for boxes; a later one is counted."""
        layouts = [name for name in self.formats if name in ("page", "alto")]
        if not layouts or self._with_boxes or not row["prediction"].strip():
            return
        self._with_boxes = layout_of_row(row) is not None
        if not self._with_boxes:
            several = "boxes of several pages" if len(row.get("sizes") or ()) > 1 else "no boxes"
            raise UserError(
                f"document {row['document_id']!r}: the prediction has {several}, and the format {layouts[0]} needs "
                "those of a page; ask for them with data.prompt='<image>\\n<|grounding|>Convert the document to "
                "markdown.', or leave the format out"
            )

    def _count_document(self, row: Row) -> None:
        self._documents += row["document_id"] != self._last_document
        self._last_document = row["document_id"]

    def _progress(self, trainer: Trainer, bar: Any) -> str:
        """Return how much of what was counted in advance is done, and tell the bar how many batches there will be."""
        data = getattr(trainer, "datamodule", None)
        if not isinstance(data, TextImageDataModule) or data.stream is None:
            return ""
        documents, pages = data.stream.own_documents, data.stream.own_pages
        if pages and bar.total is None:
            bar.total = -(-pages // data.eval_batch_size)
        share = f"{self._earlier_pages + self._pages}/{pages} pages, " if pages else ""
        return share + (f"{self._documents}/{documents} documents, " if documents else "")

    def _speed(self) -> str:
        seconds = max(time.monotonic() - self._begun, 1e-9)
        return f"{self._pages / seconds:.2f} pages/s, {self._tokens / seconds:.0f} tokens/s"

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Join pages by document, over all ranks, write the file on rank zero and print the metrics of known texts.

        Raises:
            UserError: on rank zero, when another rank's partial file is not on this machine, or the file cannot be
                written; the partial files stay.
        """
        trainer.strategy.barrier()  # all ranks have written all their rows
        if trainer.is_global_zero:
            partials = [self._partial(trainer, rank) for rank in range(trainer.world_size)]
            for partial in partials:
                if not partial.exists():
                    raise UserError(
                        f"{partial} is not on this machine; the files of all processes have to be in one folder: "
                        "set PredictionWriter.file to a place that all machines share"
                    )
            path = self.path(trainer)
            files, count = PredictionFiles(path.parent, self.formats), 0
            with explain_write_errors(path, "the predictions"), atomic_file(path) as temporary:
                with temporary.open("w", encoding="utf-8", errors="backslashreplace") as file:
                    for pages in by_document(round_robin(partials)):
                        row = document_row(pages)
                        file.write(json.dumps(row, ensure_ascii=False) + "\n")
                        files.write(row["id"], in_order(pages))
                        count += 1
                keep_older(path)
            beside = f" and as *{', *'.join(files.suffixes)} next to it" if files.suffixes else ""
            beside += f", layouts in folders {' and '.join(files.layouts)}" if files.layouts else ""
            rank_zero_info(f"{counted(count, 'prediction')} in {path}{beside} ({self._speed()})")
            if files.without_boxes:
                shown = ", ".join(files.without_boxes[:_NAMES_SHOWN])
                rank_zero_info(f"no boxes, so no layout file, for {counted(len(files.without_boxes), 'page')}: {shown}")
        trainer.strategy.barrier()  # no rank removes its rows before all of them are in the file
        self._partial(trainer).unlink()
        self._release()
        if trainer.is_global_zero:
            write_metrics(path)  # minutes for many documents; no rank waits for it

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Let another run continue the partial file, and say how."""
        self._release()
        partial = self._partial(trainer)
        if self._pages and partial.exists():
            folder = partial.parent
            rank_zero_info(
                f"kept {counted(self._pages, 'page')} in {partial}; the same command with "
                + (f"--output {folder} --resume" if self._by_command(trainer) else "PredictionWriter.resume=true")
                + " continues after them"
            )

    def _by_command(self, trainer: Trainer) -> bool:
        """Return whether ``deepsynth predict --output`` named the file."""
        return self.path(trainer).name.startswith("predictions.")

    def _release(self) -> None:
        if self._lock is not None:
            self._lock.release()
