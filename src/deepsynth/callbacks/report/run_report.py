"""The page ``report.html`` of a run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from deepsynth.callbacks.gallery_page import mark_differences
from deepsynth.callbacks.report import figures
from deepsynth.data.datamodule import TextImageDataModule
from deepsynth.distributed.ranks import gather_rows
from deepsynth.io.files import atomic_file, explain_write_errors
from deepsynth.io.html import render_page
from deepsynth.types import Batch

NAME = "report.html"
#: Training samples whose lengths are kept.
MOST_LENGTHS = 20_000


class RunReport(Callback):
    """Writes ``report.html`` when a fit ends: learning curves, CER by length and by script, lengths, the worst errors.

    The page is self-contained. Errors are those of the last validation that generated texts, lengths those of the first
    20,000 samples of this process. What there is no figure of is left out.

    Args:
        worst: number of samples to show, those with the highest CER.
    """

    def __init__(self, worst: int = 8) -> None:
        self.worst = worst
        self._rows: list[dict[str, Any]] = []
        self._scored: list[figures.Scored] = []
        self._lengths: list[torch.Tensor] = []
        self._counted = 0

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Batch, batch_idx: int) -> None:
        """Keep the lengths of the batch's samples, on its device."""
        packed = "position_ids" in batch.tokens
        if self._counted < MOST_LENGTHS and not packed:
            self._lengths.append(batch.tokens["attention_mask"].sum(dim=1))
            self._counted += len(batch)

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget the last validation."""
        self._rows = []

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep the generated texts."""
        self._rows += [{name: row[name] for name in ("id", "prediction", "target")} for row in outputs["rows"]]

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Score the samples of all processes."""
        rows = gather_rows(self._rows)
        if rows and not trainer.sanity_checking:
            self._scored = figures.score_rows(rows)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the page.

        Raises:
            UserError: when the disk is full or the page cannot be written.
        """
        if not trainer.is_global_zero:
            return
        folder = Path(trainer.default_root_dir)
        data = getattr(trainer, "datamodule", None)
        budget = getattr(data.processor, "token_budget", None) if isinstance(data, TextImageDataModule) else None
        lengths = torch.cat(self._lengths).tolist() if self._lengths else []
        page = report_page(folder, self._scored, lengths, budget, self.worst)
        with explain_write_errors(folder / NAME, "the report"), atomic_file(folder / NAME) as temporary:
            temporary.write_text(page, encoding="utf-8", errors="replace")


def report_page(
    folder: Path, scored: Sequence[figures.Scored], lengths: Sequence[int], budget: int | None, worst: int
) -> str:
    """Return the page of the run in a folder.

    Args:
        folder: that has ``metrics.csv``.
        scored: samples of the last validation.
        lengths: tokens of training samples.
        budget: largest number of tokens of a sample, if it is known.
        worst: number of samples to show.
    """
    drawn = []
    if losses := figures.read_curves(folder / "metrics.csv", ["train/loss", "val/loss"]):
        drawn.append(("Loss", figures.draw_curves(losses, "loss per token")))
    if cers := figures.read_curves(folder / "metrics.csv", ["val/cer", "val/cer_median"]):
        drawn.append(("Character error rate", figures.draw_curves(cers, "CER")))
    if scored:
        drawn.append(("CER by length", figures.draw_cer_by_length(scored)))
        drawn.append(("CER by script", figures.draw_cer_by_script(figures.cer_by_script(scored))))
    if lengths:
        drawn.append(("Lengths of training samples and the budget", figures.draw_lengths(lengths, budget)))
    return render_page(
        "report.html",
        title=f"Report of {folder.absolute().name}",
        figures=drawn,
        samples=len(scored),
        worst=[
            (one.name, f"{one.cer:.1%}", mark_differences(one.prediction, one.target))
            for one in sorted(scored, key=lambda one: -one.cer)[:worst]
        ],
        gallery=(folder / "gallery.html").is_file(),
    )
