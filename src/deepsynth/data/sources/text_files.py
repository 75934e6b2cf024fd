"""Documents from files of text: JSON lines, Parquet, CSV, and folders of plain text."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deepsynth.data.sources.base import (
    DEFAULT_ID_FIELD,
    DEFAULT_LANGUAGE_FIELD,
    DEFAULT_SOURCE_FIELD,
    DEFAULT_TARGET_FIELD,
    DEFAULT_TEXT_FIELD,
    RowSource,
    Source,
    has_printable,
    unix_line_ends,
)
from deepsynth.errors import UserError
from deepsynth.io.paths import check_regular_file, file_below
from deepsynth.types import Document


@dataclass(frozen=True)
class JsonlSource(RowSource):
    """Read documents from JSON lines: one object a line, UTF-8; empty lines are passed over.

    Args:
        path: a file, a folder (its ``*.jsonl`` files, sorted), or a list of them.
        text_field: the text to render.
        target_field: text that the model is to write; null, or absent under its default name: the text itself.
        id_field: unique ids; if absent under its default name: a hash of the text.
        language_field: language code; optional (only required if you set a non-default name).
        source_field: name of the collection; optional (only required if you set a non-default name).
    """

    path: list[Path] | Path
    text_field: str = DEFAULT_TEXT_FIELD
    target_field: str | None = DEFAULT_TARGET_FIELD
    id_field: str = DEFAULT_ID_FIELD
    language_field: str = DEFAULT_LANGUAGE_FIELD
    source_field: str = DEFAULT_SOURCE_FIELD

    def rows(self) -> Iterator[tuple[str, Mapping[str, Any]]]:
        """Yield ``(file and line, object)``.

        Raises:
            UserError: for a file that cannot be read, or a line that is no JSON object.
        """
        for file in list_files(self.path, ".jsonl"):
            yield from jsonl_rows(file)


def jsonl_rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield ``(file and line, object)`` of a JSON-lines file.

    Raises:
        UserError: for a file that cannot be read, or a line that is no JSON object.
    """
    for number, line in decoded_lines(path):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            row = json.loads(line.rstrip("\r\n"))
        except json.JSONDecodeError as error:
            raise UserError(f"{where}: not JSON: {error.msg} (column {error.colno})") from None
        except ValueError as error:  # a number of more digits than Python reads
            raise UserError(f"{where}: not usable JSON: {error}") from None
        except RecursionError:
            raise UserError(f"{where}: not usable JSON: nested too deeply") from None
        if not isinstance(row, dict):
            raise UserError(f"{where}: a JSON {type(row).__name__}; it must be an object ({{...}})")
        yield where, row


@dataclass(frozen=True)
class CsvSource(RowSource):
    r"""Read documents from CSV: UTF-8, the first line names the fields; quoted texts may hold line breaks.

    Args:
        path: a file, a folder (its ``*.csv`` files, sorted), or a list of them.
        delimiter: one character between the fields (``"\t"`` for tab-separated files).
        text_field: the text to render.
        target_field: text that the model is to write; empty, or absent under its default name: the text itself.
        id_field: unique ids; if absent under its default name: a hash of the text.
        language_field: language code; optional (only required if you set a non-default name).
        source_field: name of the collection; optional (only required if you set a non-default name).
    """

    path: list[Path] | Path
    delimiter: str = ","
    text_field: str = DEFAULT_TEXT_FIELD
    target_field: str | None = DEFAULT_TARGET_FIELD
    id_field: str = DEFAULT_ID_FIELD
    language_field: str = DEFAULT_LANGUAGE_FIELD
    source_field: str = DEFAULT_SOURCE_FIELD

    def __post_init__(self) -> None:
        """Check the delimiter.

        Raises:
            UserError: when it is not one character.
        """
        if len(self.delimiter) != 1:
            raise UserError(f"delimiter is {self.delimiter!r}; it must be one character")

    def rows(self) -> Iterator[tuple[str, Mapping[str, Any]]]:
        """Yield ``(file and line, fields)``; an empty label counts as absent.

        Raises:
            UserError: for a file that cannot be read, or a row that does not fit its first line.
        """
        # Python's own limit of 131,072 characters a field is below a book; the setting is the csv module's, not ours.
        csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
        for file in list_files(self.path, ".csv"):
            yield from self._rows_of(file)

    def _rows_of(self, file: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
        reader = csv.reader((line for _, line in decoded_lines(file)), delimiter=self.delimiter, strict=True)
        header: list[str] = []
        try:
            header = next(reader, [])
            twice = sorted({name for name in header if header.count(name) > 1})
            if twice:
                raise UserError(f"{file}, line 1: the field {twice[0]!r} is named twice")
            start = reader.line_num + 1
            for values in reader:
                where, start = f"{file}, line {start}", reader.line_num + 1
                if not values:
                    continue
                if len(values) != len(header):
                    raise UserError(
                        f"{where}: {len(values)} fields, and line 1 names {len(header)}; quote texts that hold "
                        f"{self.delimiter!r}, or set delimiter"
                    )
                row = dict(zip(header, values, strict=True))
                # CSV has no null: an empty id, language or source is an absent one.
                yield where, {name: value for name, value in row.items() if value or not self._is_label(name)}
        except csv.Error as error:
            raise UserError(f"{file}, line {reader.line_num}: not CSV: {error}") from None

    def _is_label(self, name: str) -> bool:
        return name in (self.language_field, self.source_field)


@dataclass(frozen=True)
class ParquetSource(RowSource):
    """Read documents from Parquet, a batch of rows at a time.

    Args:
        path: a file, a folder (its ``*.parquet`` files, sorted), or a list of them.
        text_field: the text to render.
        target_field: text that the model is to write; null, or absent under its default name: the text itself.
        id_field: unique ids; if absent under its default name: a hash of the text.
        language_field: language code; optional (only required if you set a non-default name).
        source_field: name of the collection; optional (only required if you set a non-default name).
    """

    path: list[Path] | Path
    text_field: str = DEFAULT_TEXT_FIELD
    target_field: str | None = DEFAULT_TARGET_FIELD
    id_field: str = DEFAULT_ID_FIELD
    language_field: str = DEFAULT_LANGUAGE_FIELD
    source_field: str = DEFAULT_SOURCE_FIELD

    def rows(self) -> Iterator[tuple[str, Mapping[str, Any]]]:
        """Yield ``(file and row from 1, fields)``.

        Raises:
            UserError: for a file that is no Parquet, or that lacks a field.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        for file in list_files(self.path, ".parquet"):
            number = 0
            try:
                with pq.ParquetFile(file) as table:
                    names = table.schema_arrow.names
                    self.check_fields(str(file), names)
                    columns = [name for name in names if name in self.fields()]
                    for batch in table.iter_batches(batch_size=1024, columns=columns):
                        for row in batch.to_pylist():
                            number += 1
                            yield f"{file}, row {number}", row
            except (pa.ArrowException, OSError) as error:
                reason = str(error).splitlines()[0]
                raise UserError(f"{file}: cannot be read as Parquet (after row {number}): {reason}") from None


@dataclass(frozen=True)
class TextFolderSource(Source):
    """Read each text file below a folder as one document to transcribe; its id is its path below the folder.

    Args:
        path: the folder.
        pattern: which files below it, as for ``pathlib.Path.glob``.
        language: language code of all of them.
        outside_paths: allow links to files outside the folder; only for folders that you trust.
    """

    path: Path
    pattern: str = "**/*.txt"
    language: str | None = None
    outside_paths: bool = False

    def __iter__(self) -> Iterator[Document]:
        """Yield the files in the order of their ids.

        Raises:
            UserError: when there is no such folder or file, or a file is empty or not UTF-8.
        """
        folder = Path(self.path).expanduser()
        if not folder.is_dir():
            found = "a file" if folder.exists() else "no such folder"
            raise UserError(f"{folder}: {found}; it must be a folder")
        found_files = (file for file in folder.glob(self.pattern) if file.is_file())
        files = {file.relative_to(folder).as_posix(): file for file in found_files}
        if not files:
            raise UserError(f"{folder}: no file matches {self.pattern!r} in this folder")
        for name in sorted(files):
            file_below(folder, name, outside=self.outside_paths)
            text = unix_line_ends("".join(line for _, line in decoded_lines(files[name])))
            if not has_printable(text):
                raise UserError(f"{files[name]}: no printable character in this file; remove it")
            yield Document(id=name, text=text, language=self.language)


def list_files(path: Path | Iterable[Path], suffix: str) -> list[Path]:
    """Return the files that ``path`` names: itself, the ``*suffix`` files of a folder, or those of several paths.

    Raises:
        UserError: when a path does not exist, or a folder has no such file.
    """
    if not isinstance(path, (str, Path)):
        return [file for one in path for file in list_files(one, suffix)]
    path = Path(path).expanduser()
    if path.is_dir():
        files = sorted(file for file in path.glob(f"*{suffix}") if file.is_file())
        if not files:
            raise UserError(f"{path}: no {suffix} file in this folder")
        return files
    if not path.exists():
        raise UserError(f"{path}: no such file (looked from {Path.cwd()})")
    check_regular_file(path)
    return [path]


def decoded_lines(path: Path) -> Iterator[tuple[int, str]]:
    r"""Yield ``(number, line)`` of a UTF-8 file, numbers from 1, each line with its ``\n``; a leading BOM is dropped.

    Lines end at ``\n`` alone: Unicode's other line ends may stand inside a text.

    Raises:
        UserError: when the file cannot be read or a line is not UTF-8, with line and byte offset.
    """
    offset = 0
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                try:
                    yield number, line.decode("utf-8-sig" if number == 1 else "utf-8")
                except UnicodeDecodeError as error:
                    raise UserError(
                        f"{path}, line {number}: byte 0x{line[error.start]:02x} at offset {offset + error.start} is "
                        "not UTF-8; save the file as UTF-8"
                    ) from None
                offset += len(line)
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from None
