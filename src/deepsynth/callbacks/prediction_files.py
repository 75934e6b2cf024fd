"""Predictions as files: one for each document, in the folders that the documents came from."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Literal

from deepsynth.errors import UserError
from deepsynth.io.files import atomic_file, explain_write_errors

PredictionFormat = Literal["jsonl", "txt", "md"]
FORMATS: tuple[PredictionFormat, ...] = ("jsonl", "txt", "md")

#: What no file name may hold on one of the usual systems.
_UNSAFE = re.compile(r'[<>:"\\|?*\x00-\x1f\x7f\ud800-\udfff]')
_SUFFIX = re.compile(r"\.[A-Za-z][A-Za-z0-9]{1,4}")
#: Longest name without its suffix, in bytes; the usual file systems allow 255.
_LONGEST_NAME = 200


class PredictionFiles:
    """Writes ``<folder>/<document>.txt`` and ``.md`` from generated texts.

    A document's id is its path where the source is a folder: its folders are made below ``folder``, and its suffix
    gives way to the format's. Where two documents would share a file (``a.png`` and ``a.jpg``), later ones keep their
    suffix, or get a number. Whatever the id, no file is written outside ``folder``.

    Args:
        folder: folder for the files.
        formats: ``txt``, ``md``; ``jsonl`` is written elsewhere.
    """

    def __init__(self, folder: Path, formats: Sequence[PredictionFormat]) -> None:
        self.folder = folder
        self.suffixes = [f".{name}" for name in formats if name != "jsonl"]
        self._taken: set[str] = set()

    def write(self, document_id: str, pages: Sequence[str]) -> list[Path]:
        """Write the texts of a document's pages, and return the files.

        In Markdown an empty line parts two pages, in plain text a line break.

        Raises:
            UserError: when the disk is full or a file cannot be written.
        """
        if not self.suffixes:
            return []
        name = self._name(document_id)
        written = []
        for suffix in self.suffixes:
            path = self.folder / f"{name}{suffix}"
            text = ("\n\n" if suffix == ".md" else "\n").join(page.strip("\n") for page in pages)
            with explain_write_errors(path, "the prediction"):
                path.parent.mkdir(parents=True, exist_ok=True)
                with atomic_file(path) as temporary:
                    temporary.write_text(f"{text}\n" if text else "", encoding="utf-8", errors="backslashreplace")
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


def check_formats(formats: Sequence[str]) -> list[PredictionFormat]:
    """Return formats by their names.

    Raises:
        UserError: for an unknown name, with those that are known.
    """
    known: dict[str, PredictionFormat] = {name: name for name in FORMATS}
    for name in formats:
        if name in ("alto", "page"):
            raise UserError(
                f"format is {name!r}, but a prediction has no boxes of lines; choose from {', '.join(FORMATS)} "
                "(deepsynth data convert writes PAGE XML and ALTO of rendered pages)"
            )
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
