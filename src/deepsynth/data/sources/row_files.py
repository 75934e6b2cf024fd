"""Files of rows and lines: JSON lines, CSV, plain text."""

from __future__ import annotations

import codecs
import csv
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from deepsynth.errors import UserError
from deepsynth.io.paths import check_regular_file

#: Longest line of a file, and longest text, in bytes: hundreds of books. A longer one would take all the memory.
MAX_LINE_BYTES = 256_000_000


def jsonl_rows(path: Path) -> Iterator[tuple[str, dict[str, Any] | UserError]]:
    """Yield ``(file and line, object)`` of a file of JSON lines, or ``(file and row, object)`` of one with a list.

    In place of an object there may be the reason why a line is none; the lines behind it follow.

    Raises:
        UserError: for a file that cannot be read.
    """
    first = True
    for number, offset, raw in _raw_lines(path):
        if not raw.strip():
            continue
        if first and raw.removeprefix(codecs.BOM_UTF8).lstrip().startswith(b"["):
            yield from _listed_rows(path)
            return
        first = False
        where = f"{path}, line {number}"
        try:
            yield where, _json_object(where, _decoded(path, number, offset, raw))
        except UserError as error:
            yield where, error


def json_objects(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the rows of :func:`jsonl_rows`.

    Raises:
        UserError: for a file that cannot be read, or the first line that is no object.
    """
    for where, found in jsonl_rows(path):
        if isinstance(found, UserError):
            raise found
        yield where, found


def _json_object(where: str, line: str) -> dict[str, Any]:
    try:
        row = json.loads(line.rstrip("\r\n"))
    except json.JSONDecodeError as error:
        raise UserError(f"{where}: not JSON: {error.msg} (column {error.colno})") from None
    except ValueError as error:  # a number of more digits than Python reads
        raise UserError(f"{where}: not usable JSON: {error}") from None
    except RecursionError:
        raise UserError(f"{where}: not usable JSON: nested too deeply") from None
    return _object(where, row)


def _object(where: str, row: Any) -> dict[str, Any]:
    if not isinstance(row, dict):
        raise UserError(f"{where}: a JSON {type(row).__name__}; it must be an object ({{...}})")
    return row


def _listed_rows(path: Path) -> Iterator[tuple[str, dict[str, Any] | UserError]]:
    """Yield the objects of a file that is one JSON list."""
    try:
        rows = json.loads("".join(line for _, line in decoded_lines(path)))
    except (ValueError, RecursionError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{path}: not JSON: {reason}; it must be JSON lines or a list of objects") from None
    for number, row in enumerate(rows, 1):
        where = f"{path}, row {number}"
        try:
            yield where, _object(where, row)
        except UserError as error:
            yield where, error


def csv_rows(file: Path, delimiter: str = ",") -> Iterator[tuple[str, dict[str, str] | UserError]]:
    """Yield ``(file and line, fields)`` of a CSV file whose first line names the fields.

    In place of the fields there may be the reason why a row does not fit the first line; the rows behind it follow.

    Raises:
        UserError: for a file that cannot be read.
    """
    # Python's own limit of 131,072 characters a field is below a book; the setting is the csv module's, not ours.
    csv.field_size_limit(MAX_LINE_BYTES)
    reader = csv.reader((line for _, line in decoded_lines(file)), delimiter=delimiter, strict=True)
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
            if len(values) == len(header):
                yield where, dict(zip(header, values, strict=True))
            else:
                yield (
                    where,
                    UserError(
                        f"{where}: {len(values)} fields, and line 1 names {len(header)}; quote texts that hold "
                        f"{delimiter!r}, or set delimiter"
                    ),
                )
    except csv.Error as error:
        raise UserError(f"{file}, line {reader.line_num}: not CSV: {error}") from None


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


def read_text(path: Path) -> str:
    """Return the text of a UTF-8 file.

    Raises:
        UserError: as :func:`decoded_lines`, and for a file that is longer than a line may be.
    """
    if path.stat().st_size > MAX_LINE_BYTES:
        raise UserError(f"{path}: more than {MAX_LINE_BYTES:,} bytes; split it into documents")
    return "".join(line for _, line in decoded_lines(path))


def decoded_lines(path: Path) -> Iterator[tuple[int, str]]:
    r"""Yield ``(number, line)`` of a UTF-8 file, numbers from 1, each line with its ``\n``; a leading BOM is dropped.

    Lines end at ``\n`` alone: Unicode's other line ends may stand inside a text.

    Raises:
        UserError: when the file cannot be read, a line is not UTF-8, with line and byte offset, or it is longer than
            :data:`MAX_LINE_BYTES`.
    """
    for number, offset, line in _raw_lines(path):
        yield number, _decoded(path, number, offset, line)


def _decoded(path: Path, number: int, offset: int, line: bytes) -> str:
    try:
        return line.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path}, line {number}: byte 0x{line[error.start]:02x} at offset {offset + error.start} is not UTF-8; "
            "save the file as UTF-8"
        ) from None


def _raw_lines(path: Path) -> Iterator[tuple[int, int, bytes]]:
    """Yield ``(number, offset, line)`` of a file, numbers from 1."""
    offset = 0
    try:
        with path.open("rb") as file:
            for number, line in enumerate(iter(lambda: file.readline(MAX_LINE_BYTES + 1), b""), 1):
                if len(line) > MAX_LINE_BYTES:
                    raise UserError(
                        f"{path}, line {number}: longer than {MAX_LINE_BYTES:,} bytes, which is no document; is it a "
                        "file of lines? split it into documents"
                    )
                yield number, offset, line
                offset += len(line)
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from None
