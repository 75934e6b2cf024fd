"""Predictions as files: one for each document or page, in the folders that the documents came from."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath
from typing import Literal

from deepsynth.callbacks.prediction_rows import Row
from deepsynth.data.formats.grounding import grounded_layout
from deepsynth.data.formats.layout import LayoutPage
from deepsynth.data.formats.writing import write_alto, write_page_xml
from deepsynth.errors import UserError
from deepsynth.io.files import atomic_file, explain_write_errors

PredictionFormat = Literal["jsonl", "txt", "md", "page", "alto"]
FORMATS: tuple[PredictionFormat, ...] = ("jsonl", "txt", "md", "page", "alto")
_LAYOUTS: dict[PredictionFormat, Callable[[LayoutPage, Path], None]] = {"page": write_page_xml, "alto": write_alto}

#: What no file name may hold on one of the usual systems.
_UNSAFE = re.compile(r'[<>:"\\|?*\x00-\x1f\x7f\ud800-\udfff]')
_SUFFIX = re.compile(r"\.[A-Za-z][A-Za-z0-9]{1,4}")
#: Longest name without its suffix, in bytes; the usual file systems allow 255.
_LONGEST_NAME = 200


class PredictionFiles:
    """Writes ``<folder>/<document>.txt`` and ``.md`` from generated texts.

    A document's id is its path where the source is a folder: its folders are made below ``folder``, and its suffix
    gives way to the format's. Where two documents would share a file (``a.png`` and ``a.jpg``), later ones keep their
    suffix, or get a number. Whatever the id, no file is written outside ``folder``. PAGE XML and ALTO, for predictions
    with boxes, stand in folders ``page`` and ``alto`` beside them, a file a page.

    Args:
        folder: folder for the files.
        formats: ``txt``, ``md``, ``page``, ``alto``; ``jsonl`` is written elsewhere.

    Attributes:
        without_boxes: ids of pages whose text has no boxes, so that there is no file of their layout.
    """

    def __init__(self, folder: Path, formats: Sequence[PredictionFormat]) -> None:
        self.folder = folder
        self.suffixes = [f".{name}" for name in formats if name in ("txt", "md")]
        self.layouts = [name for name in formats if name in _LAYOUTS]
        self.without_boxes: list[str] = []
        self._taken: set[str] = set()

    def write(self, document_id: str, rows: Sequence[Row]) -> list[Path]:
        """Write a document from the rows of its pages, and return the files.

        In Markdown an empty line parts two pages, in plain text a line break.

        Raises:
            UserError: when the disk is full or a file cannot be written.
        """
        if not self.suffixes and not self.layouts:
            return []
        name = self._name(document_id)
        pages = [row["prediction"] for row in rows]
        written = []
        for suffix in self.suffixes:
            path = self.folder / f"{name}{suffix}"
            text = ("\n\n" if suffix == ".md" else "\n").join(page.strip("\n") for page in pages)
            with explain_write_errors(path, "the prediction"):
                path.parent.mkdir(parents=True, exist_ok=True)
                with atomic_file(path) as temporary:
                    temporary.write_text(f"{text}\n" if text else "", encoding="utf-8", errors="backslashreplace")
            written.append(path)
        return written + (self._write_layouts(name, rows) if self.layouts else [])

    def _write_layouts(self, name: str, rows: Sequence[Row]) -> list[Path]:
        """Write the pages that have boxes, and note the others."""
        written = []
        for row in rows:
            page = layout_of_row(row)
            if page is None:
                self.without_boxes.append(row["id"])
                continue
            for form in self.layouts:
                stem = PurePosixPath(name).name + (f"_{row['page'] + 1:04d}" if len(rows) > 1 else "")
                path = self.folder / PurePosixPath(name).parent / form / f"{stem}.xml"
                with explain_write_errors(path, "the prediction"):
                    path.parent.mkdir(parents=True, exist_ok=True)
                _LAYOUTS[form](page, path)
                written.append(path)
        return written

    def _name(self, document_id: str) -> str:
        """Return the path of a document's files below the folder, without a suffix; no two are the same."""
        whole = "/".join(_safe(part) for part in PurePosixPath(document_id).parts if part not in ("/", "..")) or "_"
        path = PurePosixPath(whole)
        candidates = [str(path.with_suffix(""))] if _SUFFIX.fullmatch(path.suffix) else []
        candidates.append(whole)
        number = 2
        # File systems may fold case and Unicode forms.
        while (key := candidates[0].casefold()) in self._taken:
            candidates.pop(0)
            if not candidates:
                candidates, number = [f"{whole}-{number}"], number + 1
        self._taken.add(key)
        return candidates[0]


def layout_of_row(row: Row) -> LayoutPage | None:
    """Return the page that a row describes; ``None`` for a text without boxes, or with those of several pages."""
    sizes: Sequence[tuple[int, int]] = row.get("sizes") or ()
    if len(sizes) != 1:
        return None
    width, height = sizes[0]
    return grounded_layout(row["prediction"], PurePosixPath(row["document_id"]).name, (width, height))


def check_formats(formats: Sequence[str]) -> list[PredictionFormat]:
    """Return formats by their names.

    Raises:
        UserError: for an unknown name, with those that are known.
    """
    known: dict[str, PredictionFormat] = {name: name for name in FORMATS}
    for name in formats:
        if name not in known:
            raise UserError(f"format is {name!r}; it must be one of {', '.join(FORMATS)}")
    return [known[name] for name in formats]


def _safe(part: str) -> str:
    """Return a part of a path as every usual file system takes it."""
    name = _UNSAFE.sub("_", part).rstrip(" .") or "_"
    encoded = name.encode()
    if len(encoded) <= _LONGEST_NAME:
        return name
    digest = hashlib.sha256(encoded).hexdigest()[:12]
    return f"{encoded[: _LONGEST_NAME - 13].decode(errors='ignore')}-{digest}"
