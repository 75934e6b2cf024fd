"""The files of predictions line by line: partial files of pages, and the documents that they make."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities import rank_zero_info

from deepsynth.errors import UserError
from deepsynth.io.files import atomic_file, explain_write_errors
from deepsynth.io.text import counted
from deepsynth.metrics.corpus import join_pages
from deepsynth.metrics.documents import DocumentScores, figures

Row = dict[str, Any]


def rows_of(partial: Path) -> Iterator[Row]:
    """Yield the rows of a file of predictions.

    Raises:
        UserError: for a line that is damaged.
    """
    with partial.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):
                row = None
            if not isinstance(row, dict):
                raise UserError(f"{partial}, line {number}: it is damaged; remove the file to predict from the start")
            yield row


def cut_broken_line(partial: Path) -> None:
    """Take off what follows the last line break: a run that was killed may leave half a line."""
    with partial.open("rb+") as file:
        end = file.seek(0, os.SEEK_END)
        while end > 0:
            start = max(end - 65536, 0)
            file.seek(start)
            found = file.read(end - start).rfind(b"\n")
            if found >= 0:
                file.truncate(start + found + 1)
                return
            end = start
        file.truncate(0)


def round_robin(partials: list[Path]) -> Iterator[Row]:
    """Yield the rows of all ranks' files, a document of each in turn: they were dealt out in this way."""
    waiting = [groupby(rows_of(partial), key=itemgetter("document_id")) for partial in partials]
    while waiting:
        for documents in list(waiting):
            _, rows = next(documents, (None, None))
            if rows is None:
                waiting.remove(documents)
            else:
                yield from rows


def by_document(rows: Iterator[Row]) -> Iterator[list[Row]]:
    """Yield the rows of each document; its pages follow one another."""
    for _, pages in groupby(rows, key=itemgetter("document_id")):
        yield list(pages)


def in_order(pages: list[Row]) -> list[Row]:
    """Return the rows of a document by page, each page once."""
    first = {row["page"]: row for row in reversed(pages)}
    return [first[number] for number in sorted(first)]


def document_row(pages: list[Row]) -> Row:
    """Return the row of the document that all these pages are of."""
    ids, numbers = [row["document_id"] for row in pages], [row["page"] for row in pages]
    texts = {key: join_pages(ids, numbers, [row[key] for row in pages])[ids[0]] for key in ("prediction", "target")}
    if not any(row["target"] for row in pages):
        texts["target"] = ""  # and not the breaks between pages of which nothing is known
    stops = {row["stop"] for row in pages}
    stop = next(stop for stop in ("loop", "length", "eos") if stop in stops)
    known = {key: pages[0][key] for key in ("language", "source", "prompt") if pages[0].get(key) is not None}
    return {"id": ids[0], **texts, "stop": stop, **_scores(pages), **known}


def _scores(pages: list[Row]) -> Row:
    """Return how sure the model was of a document, of its pages and, on request, of its tokens."""
    pages = in_order(pages)
    if any("mean_logprob" not in row for row in pages):  # rows of an earlier version
        return {}
    means = [row["mean_logprob"] for row in pages]
    sure = [(row["mean_logprob"], row["tokens"]) for row in pages if row["mean_logprob"] is not None]
    total = sum(count for _, count in sure)
    whole = round(sum(mean * count for mean, count in sure) / total, 4) if len(sure) == len(pages) else None
    scores: Row = {"mean_logprob": whole, "page_mean_logprobs": means}
    if all("token_logprobs" in row for row in pages):
        scores["token_logprobs"] = [row["token_logprobs"] for row in pages]
    return scores


def keep_older(path: Path) -> Path:
    """Rename an existing file to the first free ``<stem>-N<suffix>``, and return where it is."""
    if not path.exists():
        return path
    number = 1
    while (older := path.with_name(f"{path.stem}-{number}{path.suffix}")).exists():
        number += 1
    os.rename(path, older)
    return older


def write_metrics(path: Path) -> None:
    """Write and print the metrics of the documents whose text is known; Lightning logs nothing while predicting.

    Raises:
        UserError: when the file cannot be written.
    """
    scores = DocumentScores()
    for row in rows_of(path):
        scores.add([{**row, "document_id": row["id"], "page": 0}])
    table = scores.table()
    metrics = figures(table)
    if metrics:
        file = path.with_suffix(".metrics.json")
        with explain_write_errors(file, "the metrics"), atomic_file(file) as temporary:
            temporary.write_text(json.dumps({"documents": len(table), **metrics}, indent=2) + "\n", encoding="utf-8")
        names = ["cer", "wer", "cer_median", "loop_rate", *(["cut_rate"] if metrics["cut_rate"] else [])]
        shown = ", ".join(f"{name} {metrics[name]:.4f}" for name in names)
        known = counted(len(table), "document")
        rank_zero_info(f"predict: {known} with a known text: {shown}; all metrics in {file.name}")
