"""Documents from files of text: JSON lines, Parquet, CSV, and folders of plain text."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from deepsynth.data.sources.base import Skip, SkippingSource, has_printable, tell, unix_line_ends
from deepsynth.data.sources.columns import AUTO
from deepsynth.data.sources.row_files import csv_rows, jsonl_rows, list_files, read_text
from deepsynth.data.sources.rows import HEAD_ROWS, BlankPages, Row, RowSource
from deepsynth.errors import UserError
from deepsynth.io.paths import file_below
from deepsynth.types import Document

#: Columns of labels under the names by which they are found.
_LABELS = ("language", "lang", "source", "prompt")


@dataclass(frozen=True)
class JsonlSource(RowSource):
    """Read documents from JSON lines (one object a line, UTF-8; empty lines are passed over) or a JSON list of objects.

    Args:
        path: a file, a folder (its ``*.jsonl`` files, sorted), or a list of them.
        text_field: the text to render, or what the image shows; ``auto`` finds it.
        target_field: text that the model is to write; null, or empty in every row: the text itself.
        id_field: unique ids; without them the image's path, or a hash of the image or text.
        language_field: language code.
        source_field: name of the collection.
        image_field: scan: bytes, ``{bytes, path}``, a path relative to the file, a data URL, or a list of these
            (pages); null to render the texts whatever else the rows hold.
        prompt_field: the row's prompt; null for that of the task.
        outside_paths: allow images outside the file's folder; only for rows that you trust, since what they name can be
            published.
        blank_pages: scans whose text is empty: of unknown text (``error`` when training), samples (``keep``), or left
            out (``skip``).
    """

    path: list[Path] | Path
    text_field: str = AUTO
    target_field: str | None = AUTO
    id_field: str = AUTO
    language_field: str = AUTO
    source_field: str = AUTO
    image_field: str | None = AUTO
    prompt_field: str | None = AUTO
    outside_paths: bool = False
    blank_pages: BlankPages = "error"

    def rows(self) -> Iterator[Row]:
        """Yield the objects, with file and line.

        Raises:
            UserError: for a file that cannot be read.
        """
        for file in list_files(self.path, ".jsonl"):
            for where, found in jsonl_rows(file):
                yield Row.of(where, found, file.parent)


@dataclass(frozen=True)
class CsvSource(RowSource):
    r"""Read documents from CSV: UTF-8, the first line names the fields; quoted texts may hold line breaks.

    Args:
        path: a file, a folder (its ``*.csv`` files, sorted), or a list of them.
        delimiter: one character between the fields (``"\t"`` for tab-separated files).
        text_field: the text to render, or what the image shows; ``auto`` finds it.
        target_field: text that the model is to write; null, or empty in every row: the text itself.
        id_field: unique ids; without them the image's path, or a hash of the image or text.
        language_field: language code.
        source_field: name of the collection.
        image_field: scan: bytes, ``{bytes, path}``, a path relative to the file, a data URL, or a list of these
            (pages); null to render the texts whatever else the rows hold.
        prompt_field: the row's prompt; null for that of the task.
        outside_paths: allow images outside the file's folder; only for rows that you trust, since what they name can be
            published.
        blank_pages: scans whose text is empty: of unknown text (``error`` when training), samples (``keep``), or left
            out (``skip``).
    """

    path: list[Path] | Path
    delimiter: str = ","
    text_field: str = AUTO
    target_field: str | None = AUTO
    id_field: str = AUTO
    language_field: str = AUTO
    source_field: str = AUTO
    image_field: str | None = AUTO
    prompt_field: str | None = AUTO
    outside_paths: bool = False
    blank_pages: BlankPages = "error"

    def __post_init__(self) -> None:
        """Check the delimiter.

        Raises:
            UserError: when it is not one character.
        """
        if len(self.delimiter) != 1:
            raise UserError(f"delimiter is {self.delimiter!r}; it must be one character")

    def rows(self) -> Iterator[Row]:
        """Yield the rows, with file and line; an empty label counts as absent.

        Raises:
            UserError: for a file that cannot be read.
        """
        for file in list_files(self.path, ".csv"):
            for where, found in csv_rows(file, self.delimiter):
                if isinstance(found, UserError):
                    yield Row.of(where, found)
                    continue
                # CSV has no null: an empty label or prompt is an absent one; an empty id is a mistake.
                labels = (
                    self.language_field,
                    self.source_field,
                    self.prompt_field,
                    "language",
                    "lang",
                    "source",
                    "prompt",
                )
                kept = {name: value for name, value in found.items() if value or name not in labels}
                yield Row(where, kept, file.parent)


@dataclass(frozen=True)
class ParquetSource(RowSource):
    """Read documents from Parquet, a batch of rows at a time.

    Args:
        path: a file, a folder (its ``*.parquet`` files, sorted), or a list of them.
        text_field: the text to render, or what the image shows; ``auto`` finds it.
        target_field: text that the model is to write; null, or empty in every row: the text itself.
        id_field: unique ids; without them the image's path, or a hash of the image or text.
        language_field: language code.
        source_field: name of the collection.
        image_field: scan: bytes, ``{bytes, path}``, a path relative to the file, a data URL, or a list of these
            (pages); null to render the texts whatever else the rows hold.
        prompt_field: the row's prompt; null for that of the task.
        outside_paths: allow images outside the file's folder; only for rows that you trust, since what they name can be
            published.
        blank_pages: scans whose text is empty: of unknown text (``error`` when training), samples (``keep``), or left
            out (``skip``).
    """

    path: list[Path] | Path
    text_field: str = AUTO
    target_field: str | None = AUTO
    id_field: str = AUTO
    language_field: str = AUTO
    source_field: str = AUTO
    image_field: str | None = AUTO
    prompt_field: str | None = AUTO
    outside_paths: bool = False
    blank_pages: BlankPages = "error"

    def rows(self) -> Iterator[Row]:
        """Yield the rows, with file and row from 1.

        Raises:
            UserError: for a file that is no Parquet, or that lacks a field.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        for file in list_files(self.path, ".parquet"):
            number = 0
            try:
                with pq.ParquetFile(file) as table:
                    head = next(table.iter_batches(batch_size=HEAD_ROWS), None)
                    names = table.schema_arrow.names
                    columns = self.columns(str(file), head.to_pylist() if head is not None else [], names)
                    used = [name for name in names if name in columns.names()]
                    size = 1024 if columns.image is None else 16  # encoded pages are large
                    for batch in table.iter_batches(batch_size=size, columns=used):
                        for fields in batch.to_pylist():
                            number += 1
                            yield Row(f"{file}, row {number}", fields, file.parent)
            except (pa.ArrowException, OSError) as error:
                reason = str(error).splitlines()[0]
                raise UserError(f"{file}: cannot be read as Parquet (after row {number}): {reason}") from None


@dataclass(frozen=True)
class TextFolderSource(SkippingSource):
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

    def documents(self, *, need_text: bool, skip: Skip | None) -> Iterator[Document]:
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
            try:
                file_below(folder, name, outside=self.outside_paths)
                text = unix_line_ends(read_text(files[name]))
                if not has_printable(text):
                    raise UserError(f"{files[name]}: no printable character in this file; remove it")
            except UserError as error:
                tell(skip, str(files[name]), error)
                continue
            yield Document(id=name, text=text, language=self.language)
