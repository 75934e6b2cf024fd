"""Predictions of a file: rows as ``deepsynth predict`` writes them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
    with file.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            row = _row(file, number, line)
            if str(row["id"]) in seen:
                raise UserError(f"{file}, line {number}: the id {str(row['id'])[:80]!r} comes twice")
            seen.add(str(row["id"]))
            if row.get("target"):
                rows.append(row)
            else:
                unknown += 1
    if not rows:
        raise UserError(f"{file}: none of its {unknown} documents has a target, so nothing can be compared")
    return Predictions(file, tuple(rows), unknown)


def _row(file: Path, number: int, line: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise UserError(f"{file}, line {number}: no JSON ({error})") from error
    if not isinstance(row, dict) or not isinstance(row.get("prediction"), str) or "id" not in row:
        raise UserError(f"{file}, line {number}: a row needs an id and a prediction; give what deepsynth predict wrote")
    return row


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
