"""Predictions of a benchmark's pages: what ``deepsynth predict`` wrote, or a folder of Markdown files."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

from deepsynth.errors import UserError

#: Names in olmOCR-bench: several predictions of a page are allowed.
_REPEAT = re.compile(r"(?P<name>.+)_pg(?P<page>\d+)_repeat\d+")
#: Page of a document, by name without suffix and number from 1.
PageKey = tuple[str, int]


def read_page_texts(path: Path) -> Mapping[PageKey, Sequence[str]]:
    """Return the predicted texts of each page.

    Args:
        path: ``predictions.jsonl``, a folder with it, or a folder of Markdown files: ``NAME.md``, or
            ``NAME_pg1_repeat1.md`` as olmOCR-bench names them.

    Raises:
        UserError: when there are none, or a line is no prediction.
    """
    rows = path / "predictions.jsonl" if path.is_dir() else path
    found: dict[PageKey, list[str]] = {}
    if rows.is_file():
        with rows.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                name, text = _row(rows, number, line)
                found.setdefault((name, 1), []).append(text)
    elif path.is_dir():
        for file in sorted(path.rglob("*.md")):
            name = file.relative_to(path).with_suffix("").as_posix()
            match = _REPEAT.fullmatch(name)
            key = (match["name"], int(match["page"])) if match else (name, 1)
            found.setdefault(key, []).append(file.read_text(encoding="utf-8"))
    if not found:
        raise UserError(f"{path}: no predictions; give the predictions.jsonl of deepsynth predict or a folder of *.md")
    return found


def _row(file: Path, number: int, line: str) -> tuple[str, str]:
    try:
        row = json.loads(line)
        name, text = row["id"], row["prediction"]
    except (ValueError, TypeError, KeyError):
        raise UserError(f"{file}, line {number}: no prediction; a row needs an id and a prediction") from None
    return page_name(str(name)), str(text)


def page_name(path: str) -> str:
    """Return the name of a page's file without its suffix, below the benchmark's folder ``pdfs`` or ``images``."""
    parts = PurePosixPath(path).with_suffix("").parts
    start = next((place + 1 for place, part in enumerate(parts) if part in ("pdfs", "images")), 0)
    return "/".join(parts[start:])
