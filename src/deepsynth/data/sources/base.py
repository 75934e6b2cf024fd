"""The base of every source, and the rules by which a row becomes a document."""

from __future__ import annotations

import hashlib
import unicodedata
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from deepsynth.errors import UserError
from deepsynth.types import Document

#: Default field names, which may be absent from the rows; any other name was given by the user and must be present.
DEFAULT_TEXT_FIELD = "text"
DEFAULT_TARGET_FIELD = "target"
DEFAULT_ID_FIELD = "id"
DEFAULT_LANGUAGE_FIELD = "language"
DEFAULT_SOURCE_FIELD = "source"

#: Largest number of fields that an error message lists.
_FIELDS_SHOWN = 20


class Source(ABC):
    """A collection of documents that can be iterated over any number of times, in the same order each time.

    A source reads nothing when it is made: errors in its content are raised while iterating.
    """

    @abstractmethod
    def __iter__(self) -> Iterator[Document]:
        """Yield every document, ids unique.

        Raises:
            UserError: for a row that is not a document: one line with file, line, what was found and what is expected.
        """

    @property
    def streaming(self) -> bool:
        """Whether the documents must not be held in memory together."""
        return False

    @property
    def checks_documents(self) -> bool:
        """Whether iterating checks that ids are unique and that all or no documents have a target."""
        return False


def read_documents(source: Source, *, need_text: bool) -> list[Document]:
    """Return the documents of a source after the checks that concern all of them.

    Raises:
        UserError: for an empty source, two equal ids, a mix of documents with and without target, or (where text
            is needed) a scan whose text is unknown.
    """
    return list(checked_documents(source, need_text=need_text))


def checked_documents(source: Source, *, need_text: bool) -> Iterator[Document]:
    """Yield the documents of a source, each as soon as it has passed the checks of :func:`read_documents`.

    Raises:
        UserError: as there.
    """
    seen: set[str] = set()
    first: Document | None = None
    for document in source:
        if first is None:
            first = document
        if not source.checks_documents:
            if document.id in seen:
                raise UserError(f"{source}: two documents have the id {document.id!r}; ids must be unique")
            seen.add(document.id)
            if document.task != first.task:
                raise UserError(
                    f"{source}: document {document.id!r} has {'no' if document.target is None else 'a'} target, unlike "
                    f"{first.id!r}; either all documents have one (summarization) or none (transcription)"
                )
        if need_text and document.image is not None and not document.text_is_known:
            raise UserError(
                f"{source}: the text of scan {document.id!r} is unknown or empty; `deepsynth predict` can read it; if "
                "such pages are blank, set blank_pages=keep to train on them, or skip"
            )
        yield document
    if first is None:
        raise UserError(f"{source} holds no document")


class RowSource(Source):
    r"""A source whose documents are rows with named fields.

    Subclasses read the rows; this class makes documents of them:

    * a target field that is absent under its default name, or empty in every row, makes the task transcription;
    * rows with and rows without a target in one source are an error (each row is judged against the first);
    * without an id the id is a hash of the text, and two equal ids are an error;
    * line ends become ``"\n"``; nothing else in a text is changed.
    """

    text_field: str
    target_field: str | None
    id_field: str
    language_field: str
    source_field: str

    @abstractmethod
    def rows(self) -> Iterator[tuple[str, Mapping[str, Any]]]:
        """Yield ``(where, row)``: file and line for error messages, and the fields."""

    @property
    def origin(self) -> str:
        """Path or name of the data set, for error messages."""
        place = getattr(self, "path", None) or getattr(self, "repo_id", None) or type(self).__name__
        return ", ".join(map(str, place)) if isinstance(place, (list, tuple)) else str(place)

    @property
    def checks_documents(self) -> bool:
        """Whether iterating checks that ids are unique and that all or no documents have a target: it does."""
        return True

    def image(self, row: Mapping[str, Any]) -> Path | bytes | None:
        """Return the row's scan, a file or its content, or ``None`` when the text is to be rendered."""
        return None

    def fields(self) -> tuple[str, ...]:
        """Return the names of the fields that a document is made of."""
        names = (self.text_field, self.target_field, self.id_field, self.language_field, self.source_field)
        return tuple(name for name in names if name is not None)

    def check_fields(self, where: str, found: Iterable[str], has_image: bool = False) -> None:
        """Check the columns of a table before its rows are read.

        Args:
            where: name of the table for error messages.
            found: names of its columns.
            has_image: whether the rows are scans, whose text may be unknown.

        Raises:
            UserError: when a required field is absent.
        """
        optional = {DEFAULT_TARGET_FIELD, DEFAULT_ID_FIELD, DEFAULT_LANGUAGE_FIELD, DEFAULT_SOURCE_FIELD}
        if has_image:
            optional.add(DEFAULT_TEXT_FIELD)
        columns = dict.fromkeys(found)
        for name in self.fields():
            if name not in columns and name not in optional:
                raise UserError(f"{where}: no field {name!r}; the fields found are {fields_found(columns)}")

    def __iter__(self) -> Iterator[Document]:
        """Yield every document.

        Raises:
            UserError: for a row that is not a document, naming the place, what was found and how to fix it.
        """
        first: tuple[str, Document] | None = None
        seen: set[str] = set()
        for where, row in self.rows():
            document = self._document(where, row)
            if first is None:
                first = (where, document)
            _check_like_first(where, document, *first, target_field=self.target_field)
            if document.id in seen:
                raise UserError(self._equal_ids(where, document.id, row))
            seen.add(document.id)
            yield document
        if first is None:
            raise UserError(f"{self.origin}: it holds no document; give a file or dataset with at least one row")

    def _document(self, where: str, row: Mapping[str, Any]) -> Document:
        image = self.image(row)
        text = _text(where, row, self.text_field, optional=image is not None and self.text_field == DEFAULT_TEXT_FIELD)
        if image is None and not has_printable(text):
            raise UserError(
                f"{where}: the field {self.text_field!r} has no printable character ({text[:20]!r}); remove the row"
            )
        target = None
        if self.target_field is not None:
            target = _text(where, row, self.target_field, optional=self.target_field == DEFAULT_TARGET_FIELD)
        identity = _label(where, row, self.id_field, optional=self.id_field == DEFAULT_ID_FIELD)
        return Document(
            id=text_id(text) if identity is None else identity,
            text=text,
            target=target if target and has_printable(target) else None,
            image=image,
            language=_label(where, row, self.language_field, optional=self.language_field == DEFAULT_LANGUAGE_FIELD),
            source=_label(where, row, self.source_field, optional=self.source_field == DEFAULT_SOURCE_FIELD),
        )

    def _equal_ids(self, where: str, identity: str, row: Mapping[str, Any]) -> str:
        earlier = next(place for place, other in self.rows() if self._document(place, other).id == identity)
        if row.get(self.id_field) is not None:
            return f"{where}: the id {identity!r} is already that of {earlier}; ids must be unique"
        return (
            f"{where}: the same document as {earlier} (no field {self.id_field!r}, so the id comes from its content); "
            "remove one or give the rows ids"
        )


def text_id(text: str) -> str:
    """Return the id of a document without one: the first 16 hex digits of the SHA-256 of its UTF-8 text."""
    return hashlib.sha256(text.encode("utf-8")).hexdigest()[:16]


def has_printable(text: str) -> bool:
    """Return whether any character is visible: outside Unicode's control, format, unassigned and separator classes."""
    return any(unicodedata.category(character)[0] not in "CZ" for character in text)


def unix_line_ends(text: str) -> str:
    r"""Return the text with ``\r\n`` and ``\r`` as ``\n``."""
    return text.replace("\r\n", "\n").replace("\r", "\n")


def fields_found(row: Mapping[str, Any]) -> str:
    """Return the names of a row's fields for an error message."""
    names = [repr(name) for name in row]
    more = f" and {len(names) - _FIELDS_SHOWN} more" if len(names) > _FIELDS_SHOWN else ""
    return ", ".join(names[:_FIELDS_SHOWN]) + more if names else "none"


def _text(where: str, row: Mapping[str, Any], field: str, optional: bool) -> str:
    """Return a text field, "" when it is null, or absent where that is allowed."""
    if field not in row and not optional:
        raise UserError(f"{where}: no field {field!r}; the fields found are {fields_found(row)}")
    value = row.get(field)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise UserError(f"{where}: {field} is of type {type(value).__name__}; it must be a text")
    return unix_line_ends(_encodable(where, field, value))


def _label(where: str, row: Mapping[str, Any], field: str, optional: bool) -> str | None:
    """Return an id, language or source name, ``None`` when it is null, or absent where that is allowed."""
    if field not in row and not optional:
        raise UserError(f"{where}: no field {field!r}; the fields found are {fields_found(row)}")
    value = row.get(field)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        raise UserError(f"{where}: {field} is of type {type(value).__name__}; it must be a name or a number")
    label = _encodable(where, field, str(value)).strip()
    if not label:
        raise UserError(f"{where}: {field} is empty; give it a value or remove it")
    return label


def _encodable(where: str, field: str, value: str) -> str:
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise UserError(
            f"{where}: the field {field!r} has half a surrogate pair, {value[error.start]!r} at character "
            f"{error.start}; it is no Unicode text"
        ) from None
    return value


def _check_like_first(
    where: str, document: Document, first_where: str, first: Document, target_field: str | None
) -> None:
    if (document.target is None) != (first.target is None):
        has, has_not = ("has a", "has none") if document.target is not None else ("has no", "has one")
        raise UserError(
            f"{where}: {has} target (field {target_field!r}), and {first_where} {has_not}; give every row a target "
            "(summarization) or none (transcription)"
        )
    if bool(document.text) != bool(first.text):
        has, has_not = ("has a", "has none") if document.text else ("has no", "has one")
        raise UserError(f"{where}: {has} text, and {first_where} {has_not}; give every scan its text or none")
