"""Predictions of a file: rows as ``deepsynth predict`` writes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deepsynth.data.sources.row_files import json_objects
from deepsynth.data.sources.row_values import unicode_text
from deepsynth.errors import UserError

#: By what documents may be grouped.
GROUPS = ("language", "source", "prompt")


@dataclass(frozen=True)
class Predictions:
    """The documents of a file whose text is known.

    Attributes:
        path: of the file.
        rows: with ``id``, ``prediction`` and ``target``, and what else the file has, such as ``stop`` or ``language``.
        unknown: number of documents that were left out, as their text is not known.
    """

    path: Path
    rows: tuple[dict[str, Any], ...]
    unknown: int

    @property
    def ids(self) -> list[str]:
        """The ids of the documents."""
        return [str(row["id"]) for row in self.rows]


def read_predictions(path: Path) -> Predictions:
    """Return the predictions of a file, or of the ``predictions.jsonl`` of a folder.

    Raises:
        UserError: for a file that is missing, a line that is no prediction, an id that comes twice, or when the text of
            no document is known.
    """
    file = path / "predictions.jsonl" if path.is_dir() else path
    if not file.is_file():
        raise UserError(f"{file} does not exist; give the predictions.jsonl that deepsynth predict wrote")
    rows: list[dict[str, Any]] = []
    unknown = 0
    seen: set[str] = set()
    for where, row in json_objects(file):
        check_row(where, row)
        if str(row["id"]) in seen:
            raise UserError(f"{where}: the id {str(row['id'])[:80]!r} comes twice")
        seen.add(str(row["id"]))
        if row.get("target"):
            rows.append(row)
        else:
            unknown += 1
    if not rows:
        raise UserError(f"{file}: none of its {unknown} documents has a target, so nothing can be compared")
    return Predictions(file, tuple(rows), unknown)


def check_row(where: str, row: Mapping[str, Any]) -> None:
    """Refuse a row that is no prediction.

    Raises:
        UserError: with the field that is missing, no text, or no Unicode.
    """
    if not isinstance(row.get("prediction"), str) or "id" not in row:
        raise UserError(f"{where}: a row needs an id and a prediction; give what deepsynth predict wrote")
    if not isinstance(row.get("target"), str | None):
        raise UserError(f"{where}: target is of type {type(row['target']).__name__}; it must be a text")
    for field in ("id", "prediction", "target", *GROUPS):
        unicode_text(where, field, str(row.get(field)))


def in_common(one: Predictions, other: Predictions) -> tuple[Predictions, Predictions, int]:
    """Return the documents that both files have, in the order of the first, and how many others there are.

    Raises:
        UserError: when no document is in both, or one has another target in each.
    """
    by_id = {str(row["id"]): row for row in other.rows}
    rows = [(row, by_id[str(row["id"])]) for row in one.rows if str(row["id"]) in by_id]
    if not rows:
        raise UserError(f"{one.path} and {other.path} have no document in common")
    for own, theirs in rows:
        if own["target"] != theirs["target"]:
            raise UserError(f"{one.path} and {other.path} have different targets for {str(own['id'])[:80]!r}")
    left = len(one.rows) + len(other.rows) - 2 * len(rows)
    return (
        Predictions(one.path, tuple(own for own, _ in rows), one.unknown),
        Predictions(other.path, tuple(theirs for _, theirs in rows), other.unknown),
        left,
    )


def groups_of(rows: Sequence[dict[str, Any]], key: str) -> list[str | None]:
    """Return the group of each document; none where all are of one, which the figures of all say already."""
    found = [None if row.get(key) is None else str(row[key]) for row in rows]
    return found if len(set(found)) > 1 else [None] * len(rows)
