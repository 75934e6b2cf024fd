"""Samples that cannot be made: found before the first step, and what was skipped is listed."""

from __future__ import annotations

import csv
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeVar

from deepsynth.data.sources.base import Source, checked_documents
from deepsynth.errors import UserError
from deepsynth.io.files import atomic_file, explain_write_errors

if TYPE_CHECKING:
    from lightning.pytorch import Trainer

    from deepsynth.data.loading.dataset import PageDataset
    from deepsynth.data.loading.entries import OnError
    from deepsynth.data.text.cleaning import TextCleaning
    from deepsynth.types import Document

log = logging.getLogger(__name__)

Check = Literal["quick", "full", "none"]
Found = TypeVar("Found")

#: Samples that a quick check makes.
_QUICK_SAMPLES = 8


def check_samples(dataset: PageDataset, check: Check) -> list[float]:
    """Make samples before the first step: all of them, or a few that are spread over the data.

    Returns:
        The seconds that each took.

    Raises:
        UserError: for the first that cannot be made, as in training.
    """
    count = len(dataset)
    most = {"quick": min(_QUICK_SAMPLES, count), "full": count, "none": 0}[check]
    seconds = []
    for number in range(most):
        start = time.perf_counter()
        dataset[0, number * count // most]
        seconds.append(time.perf_counter() - start)
    return seconds


def report_dataset(dataset: PageDataset, split: str, text: TextCleaning, trainer: Trainer | None) -> None:
    """Log what a split has, what was left out of it, and what was changed in its texts.

    Raises:
        UserError: when nothing is left.
    """
    report_skipped(trainer, split, dataset.skipped)
    if not len(dataset):
        way_out = "raise data.max_tokens or put less text on a page"
        if split == "val":
            way_out += ", raise data.val_fraction to hold out more, or set it to 0 to train without validation"
        raise UserError(f"every sample of the {split} split exceeds data.max_tokens or was skipped; {way_out}")
    dropped = f", {dataset.dropped} dropped as longer than data.max_tokens" if dataset.dropped else ""
    log.info("%s: %d documents, %d samples%s", split, len(dataset.documents), len(dataset), dropped)
    if changes := text.count_changes(dataset.documents):
        log.info("%s: %s", split, changes)


def usable_documents(
    source: Source,
    on_error: OnError,
    trainer: Trainer | None,
    choose: Callable[[Iterator[Document]], Found],
    split: str = "",
) -> Found:
    """Choose documents of a source whose texts are known; rows that are none are an error, or skipped and listed.

    Args:
        source: is read as far as ``choose`` asks.
        on_error: what to do with such rows.
        trainer: whose run folder gets the list.
        choose: takes the documents one by one; what it returns is returned.
        split: split whose own source it is.

    Raises:
        UserError: for a source without a document, or a row that is none.
    """
    skipped: list[tuple[str, str]] = []

    def skip(place: str, error: UserError) -> None:
        skipped.append((place, str(error)))

    try:
        return choose(checked_documents(source, need_text=True, skip=skip if on_error == "skip" else None))
    finally:
        report_skipped(trainer, f"{split}_source" if split else "source", skipped)


def report_skipped(
    trainer: Trainer | None, split: str, skipped: Sequence[tuple[str, str]], *, every_rank: bool = False
) -> None:
    """Log how many documents or rows were skipped, and list them in ``skipped_<split>.csv`` of the run folder.

    Args:
        trainer: whose run folder it is.
        split: name of the list.
        skipped: ids or places, and why.
        every_rank: whether ranks skip different ones, and each writes a list.

    Raises:
        UserError: when the list cannot be written.
    """
    if not skipped:
        return
    where = ""
    if trainer is not None and (every_rank or trainer.is_global_zero):
        rank = "" if trainer.is_global_zero else f".rank{trainer.global_rank}"
        file = Path(trainer.default_root_dir) / f"skipped_{split}{rank}.csv"
        with (
            explain_write_errors(file, "the list of skipped documents"),
            atomic_file(file) as temporary,
            temporary.open("w", encoding="utf-8", errors="backslashreplace", newline="") as lines,
        ):
            csv.writer(lines).writerows([("document", "reason"), *skipped])
        where = f"; {file} lists them"
    log.warning("%s: %d skipped (data.on_error=skip), the first: %s%s", split, len(skipped), skipped[0][1], where)
