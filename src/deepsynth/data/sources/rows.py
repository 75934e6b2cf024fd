"""Sources whose documents are the rows of a table, and the rules by which a row becomes a document."""

from __future__ import annotations

import copy
import hashlib
import itertools
import logging
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

from deepsynth.data.sources.base import (
    Skip,
    SkippingSource,
    check_text_is_known,
    has_printable,
    known_ids,
    tell,
    text_id,
)
from deepsynth.data.sources.columns import AUTO, Columns, find_columns, listed
from deepsynth.data.sources.image_values import ImagePlace
from deepsynth.data.sources.row_values import field_of, label_of, text_of
from deepsynth.errors import UserError
from deepsynth.io.paged_file import PagedFile
from deepsynth.types import PAGE_BREAK, Document

log = logging.getLogger(__name__)

#: What to do with a scan whose text is known to be empty.
BlankPages = Literal["error", "keep", "skip"]
#: Rows from which columns are found.
HEAD_ROWS = 20
#: Names that a line about what was left out lists.
_NAMES_SHOWN = 5

#: Lines that are not logged again in this process.
said_lines: set[str] = set()


class Row(NamedTuple):
    """A row with its place.

    Attributes:
        where: file and line, for error messages.
        fields: values by name.
        folder: what the paths of its images are relative to; ``None`` when they lie in no folder here.
        error: why it is no row, such as a line that is no JSON; then there are no fields.
    """

    where: str
    fields: Mapping[str, Any]
    folder: Path | None = None
    error: UserError | None = None

    @classmethod
    def of(cls, where: str, found: Mapping[str, Any] | UserError, folder: Path | None = None) -> Row:
        """Return a row of what stands at a place: its fields, or why it has none."""
        return cls(where, {}, folder, found) if isinstance(found, UserError) else cls(where, found, folder)


class RowSource(SkippingSource):
    r"""A source whose documents are rows with named fields.

    Subclasses read the rows; this class makes documents of them:

    * a column is found by its type and name (:func:`deepsynth.data.sources.columns.find_columns`) unless it is set;
      what was found is logged in one line, with the columns that are not used;
    * rows of a table with an image column are scans, each of them, and never drawn from their texts;
    * a target field that is absent, or empty in every row, makes the task transcription;
    * rows with and rows without a target in one source are an error (each row is judged against the first);
    * without an id the id is the image's path or file name, or a hash of the image or text; a repeated one is an error;
      the same image under another prompt has the ending ``~prompt2``;
    * line ends become ``"\n"``; nothing else in a text is changed.
    """

    image_field: str | None
    text_field: str
    target_field: str | None
    prompt_field: str | None
    id_field: str
    language_field: str
    source_field: str
    outside_paths: bool
    blank_pages: BlankPages
    #: Fields that documents keep by name.
    kept_fields: tuple[str, ...] = ()

    def with_fields(self, names: tuple[str, ...]) -> RowSource:
        """Return this source with the named fields of its rows in ``Document.fields``."""
        found = copy.copy(self)
        object.__setattr__(found, "kept_fields", names)  # sources are frozen, and this is no option of theirs
        return found

    @abstractmethod
    def rows(self) -> Iterator[Row]:
        """Yield the rows."""

    @property
    def origin(self) -> str:
        """Path or name of the data set, for error messages."""
        place = getattr(self, "path", None) or getattr(self, "repo_id", None) or type(self).__name__
        return ", ".join(map(str, place)) if isinstance(place, (list, tuple)) else str(place)

    def image_place(self, folder: Path | None) -> ImagePlace:
        """Return where the images of rows lie, relative to ``folder``."""
        return ImagePlace(folder, outside=self.outside_paths)

    def columns(self, where: str, head: Sequence[Mapping[str, Any]], found: Iterable[str] = ()) -> Columns:
        """Return the columns of a table by what they hold, and log them once.

        Args:
            where: name of the table for error messages.
            head: its first rows.
            found: names of its columns, where they are known.

        Raises:
            UserError: when a column that was set is not there.
        """
        roles = ("image", "text", "target", "prompt", "id", "language", "source")
        chosen = {role: getattr(self, f"{role}_field") for role in roles}
        columns = replace(find_columns(where, head, chosen, found), fields=self.kept_fields)
        names = dict.fromkeys([*found, *(name for row in head for name in row)])
        say_once(f"{self.origin}: {columns.described(names)}")
        return columns

    def documents(self, *, need_text: bool, skip: Skip | None) -> Iterator[Document]:
        """Yield the documents; every mistake names its row.

        Raises:
            UserError: for a mistake.
        """
        rows = _sound(self.rows(), skip)
        head = list(itertools.islice(rows, HEAD_ROWS))
        if not head:
            raise UserError(f"{self.origin}: it holds no document; give a file or dataset with at least one row")
        reader = _RowReader(self, self.columns(head[0].where, [row.fields for row in head]))
        yield from reader.documents(itertools.chain(head, rows), need_text, skip)
        if reader.blank:
            left_out = f"{reader.blank_count} blank pages left out (blank_pages=skip): {', '.join(reader.blank)}"
            say_once(f"{self.origin}: {left_out}")


class _RowReader:
    """Makes the documents of one walk over a source's rows."""

    def __init__(self, source: RowSource, columns: Columns) -> None:
        self._source = source
        self._columns = columns
        self._first: tuple[str, Document] | None = None
        self._places: dict[str, str] = known_ids(source)
        self._names: dict[str, str] = known_ids(source)
        self._prompts: dict[str, list[str | None]] = known_ids(source)
        self.blank: list[str] = []  # the first few of
        self.blank_count = 0

    def documents(self, rows: Iterable[Row], need_text: bool, skip: Skip | None) -> Iterator[Document]:
        for row in rows:
            try:
                document = self._checked(row, need_text)
            except UserError as error:
                tell(skip, row.where, error)
                continue
            if document is not None:
                yield document

    def _checked(self, row: Row, need_text: bool) -> Document | None:
        """Return the document of a row, ``None`` for a blank page, after the checks that concern other rows too."""
        document = self._document(row, need_text)
        if document is None:
            self.blank_count += 1
            self.blank += [row.where] if self.blank_count <= _NAMES_SHOWN else []
            return None
        if self._first is not None:
            _check_like_first(row.where, document, *self._first, target_field=self._columns.target)
        if need_text:
            check_text_is_known(row.where, document)
        document = self._with_own_id(row, document)  # after what a row that is left out fails
        self._first = self._first or (row.where, document)
        return document

    def _document(self, row: Row, need_fields: bool) -> Document | None:
        """Return the document of a row; ``None`` for a blank page that is to be skipped."""
        where, fields, names = row.where, row.fields, self._columns
        image, name = self._image(row)
        text = text_of(where, fields, names.text, optional=image is not None and self._is_found("text"))
        known = isinstance(fields.get(names.text), str)
        target = text_of(where, fields, names.target, optional=self._is_found("target")) if names.target else ""
        if image is None and not has_printable(text):
            raise UserError(
                f"{where}: the field {names.text!r} has no printable character ({text[:20]!r}); remove the row"
            )
        if image is not None and not has_printable(text):
            if known and not target and not self._source.kept_fields and self._source.blank_pages == "skip":
                return None
            text = ""
        label = label_of(where, fields, names.id, optional=self._is_found("id"))
        prompt = text_of(where, fields, names.prompt, optional=self._is_found("prompt")) if names.prompt else ""
        together = isinstance(image, tuple) or (
            isinstance(image, PagedFile) and bool(text) and len(text.split(PAGE_BREAK)) != len(image)
        )
        return Document(
            id=label or name or text_id(text),
            text=text,
            target=target if target and has_printable(target) else None,
            image=image,
            language=label_of(where, fields, names.language, optional=self._is_found("language")),
            source=label_of(where, fields, names.source, optional=self._is_found("source")),
            prompt=prompt.strip() or None,
            one_sample=together,
            blank=image is not None and known and not text and self._source.blank_pages == "keep",
            fields={name: field_of(where, fields, name, optional=not need_fields) for name in self._source.kept_fields},
        )

    def _image(self, row: Row) -> tuple[Any, str]:
        """Return the row's image and a name for it; ``None`` and "" where rows have none."""
        name = self._columns.image
        if name is None:
            if self._source.image_field is not None and row.fields.get("image") is not None:
                raise UserError(
                    f"{row.where}: an image (field 'image'), and the first rows have none; give every row one, or set "
                    "image_field"
                )
            return None, ""
        if row.fields.get(name) is None:
            raise UserError(
                f"{row.where}: no image in the field {name!r}; the fields found are {listed(row.fields)}; remove the "
                "row, or set image_field=null to render the texts of all"
            )
        try:
            return self._source.image_place(row.folder).read(row.fields[name])
        except UserError as error:
            raise UserError(f"{row.where}: {error}") from None

    def _is_found(self, role: str) -> bool:
        return bool(getattr(self._source, f"{role}_field") == AUTO)

    def _with_own_id(self, row: Row, document: Document) -> Document:
        """Return the document, under another id where it is an earlier one's image with another prompt.

        Raises:
            UserError: for two documents of one id.
        """
        own = row.fields.get(self._columns.id) is not None
        key = document.id
        if isinstance(document.image, bytes) and not own:  # files of one name may hold different images
            key = hashlib.sha256(document.image).hexdigest()[:16]
            document = self._with_own_name(document, key)
        earlier = self._places.setdefault(key, row.where)
        if document.prompt is not None and not own:
            prompts = self._prompts.setdefault(key, [])
            if document.prompt not in prompts:
                prompts.append(document.prompt)
                if earlier is not row.where:
                    return replace(document, id=f"{document.id}~prompt{len(prompts)}")
        if earlier is row.where:
            return document
        if own:
            raise UserError(f"{row.where}: the id {document.id!r} is already that of {earlier}; ids must be unique")
        raise UserError(
            f"{row.where}: the same document as {earlier} (no field {self._columns.id!r}, so the id comes from its "
            "content); remove one or give the rows ids"
        )

    def _with_own_name(self, document: Document, content: str) -> Document:
        """Return a document that is named by its image's file, with a hash where another image has the name."""
        if self._names.setdefault(document.id, content) == content:
            return document
        stem, dot, suffix = document.id.rpartition(".")
        return replace(document, id=f"{stem or suffix}-{content[:8]}{dot if stem else ''}{suffix if stem else ''}")


def _sound(rows: Iterable[Row], skip: Skip | None) -> Iterator[Row]:
    """Yield the rows that have fields."""
    for row in rows:
        if row.error is None:
            yield row
        else:
            tell(skip, row.where, row.error)


def say_once(line: str) -> None:
    """Log a line, unless this process has: training and validation read the same source."""
    if line not in said_lines:
        said_lines.add(line)
        log.info("%s", line)


def _check_like_first(
    where: str, document: Document, first_where: str, first: Document, target_field: str | None
) -> None:
    if (document.target is None) != (first.target is None):
        has, has_not = ("has a", "has none") if document.target is not None else ("has no", "has one")
        raise UserError(
            f"{where}: {has} target (field {target_field!r}), and {first_where} {has_not}; give every row a target "
            "(summarization) or none (transcription)"
        )
