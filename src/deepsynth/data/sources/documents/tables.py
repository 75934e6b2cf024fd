"""Tables of file names and texts, in the forms that transcribers keep them."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from deepsynth.data.sources.row_files import csv_rows, jsonl_rows
from deepsynth.errors import UserError

#: Endings of tables.
TABLE_SUFFIXES = frozenset({".csv", ".tsv", ".json", ".jsonl", ".xlsx"})


def table_rows(path: Path) -> Iterator[tuple[str, dict[str, Any] | UserError]]:
    """Yield ``(file and line, fields)`` of a table, or why a line has none.

    Raises:
        UserError: when it cannot be read, or is of none of :data:`TABLE_SUFFIXES`.
    """
    suffix = path.suffix.lower()
    if suffix == ".xlsx":
        yield from _xlsx_rows(path)
    elif suffix in (".csv", ".tsv"):
        for where, found in csv_rows(path, "\t" if suffix == ".tsv" else ","):
            if isinstance(found, UserError):
                yield where, found
            else:
                kept = ("text", "transcription")
                yield where, {name: value for name, value in found.items() if value or name in kept}
    else:
        yield from jsonl_rows(path)


def _xlsx_rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the rows of the first sheet, whose first row names the columns."""
    try:
        import openpyxl
        from openpyxl.utils.exceptions import InvalidFileException
    except ImportError:
        raise UserError(f"{path}: reading XLSX needs openpyxl; pip install 'deepsynth-ocr[xlsx]'") from None
    try:
        book = openpyxl.load_workbook(path, read_only=True, data_only=True)
    except (InvalidFileException, zipfile.BadZipFile, KeyError, OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read as XLSX: {str(error).splitlines()[0]}") from None
    try:
        sheet = book.worksheets[0]
        rows = sheet.iter_rows(values_only=True)
        header = [str(name).strip() if name is not None else "" for name in next(rows, ())]
        twice = sorted({name for name in header if name and header.count(name) > 1})
        if twice:
            raise UserError(f"{path}, row 1: the field {twice[0]!r} is named twice")
        for number, values in enumerate(rows, 2):
            cells = zip(header, values, strict=False)
            row = {name: _cell(value) for name, value in cells if name and value is not None}
            if row:
                yield f"{path}, row {number}", row
    finally:
        book.close()


def _cell(value: Any) -> Any:
    """Return a cell as a text: what stands for a text may have been taken for a number or date."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return value if isinstance(value, str) else str(value)
