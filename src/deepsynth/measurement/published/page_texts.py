"""Predictions of a benchmark's pages: what ``deepsynth predict`` wrote, or a folder of Markdown files."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from deepsynth.data.sources.row_files import json_objects
from deepsynth.data.sources.row_values import unicode_text
from deepsynth.errors import UserError
from deepsynth.metrics.otsl import otsl_to_html

#: Names in olmOCR-bench: several predictions of a page are allowed.
_REPEAT = re.compile(r"(?P<name>.+)_pg(?P<page>\d+)_repeat\d+")
#: Page of a document, by name without suffix and number from 1.
PageKey = tuple[str, int]


def read_page_texts(path: Path) -> Mapping[PageKey, Sequence[str]]:
    """Return the predicted texts of each page, tables in OTSL as HTML.

    Args:
        path: ``predictions.jsonl``, a folder with it, or a folder of Markdown files: ``NAME.md``, or
            ``NAME_pg1_repeat1.md`` as olmOCR-bench names them.

    Raises:
        UserError: when there are none, or a line is no prediction.
    """
    rows = path / "predictions.jsonl" if path.is_dir() else path
    found: dict[PageKey, list[str]] = {}
    if rows.is_file():
        for where, row in json_objects(rows):
            name, text = _row(where, row)
            found.setdefault((name, 1), []).append(otsl_to_html(text))
    elif path.is_dir():
        for file in sorted(path.rglob("*.md")):
            name = file.relative_to(path).with_suffix("").as_posix()
            match = _REPEAT.fullmatch(name)
            key = (match["name"], int(match["page"])) if match else (name, 1)
            found.setdefault(key, []).append(otsl_to_html(_markdown(file)))
    if not found:
        raise UserError(f"{path}: no predictions; give the predictions.jsonl of deepsynth predict or a folder of *.md")
    return found


def _row(where: str, row: Mapping[str, Any]) -> tuple[str, str]:
    if "id" not in row or "prediction" not in row:
        raise UserError(f"{where}: no prediction; a row needs an id and a prediction")
    values = [unicode_text(where, field, str(row[field])) for field in ("id", "prediction")]
    return page_name(values[0]), values[1]


def _markdown(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{file}: not UTF-8 text ({error.reason} at byte {error.start})") from None


def page_name(path: str) -> str:
    """Return the name of a page's file without its suffix, below the benchmark's folder ``pdfs`` or ``images``."""
    parts = PurePosixPath(path).with_suffix("").parts
    start = next((place + 1 for place, part in enumerate(parts) if part in ("pdfs", "images")), 0)
    return "/".join(parts[start:])
