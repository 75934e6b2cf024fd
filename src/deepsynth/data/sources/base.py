"""The base of every source, and the checks that concern all of its documents."""

from __future__ import annotations

import hashlib
import unicodedata
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from deepsynth.errors import UserError
from deepsynth.types import Document

#: Takes the place of what is no document (a file and line, or an id), and why it is none.
Skip = Callable[[str, UserError], None]

#: Documents of a streaming source whose ids are kept, to find two that are equal.
KEPT_IDS = 100_000


class LastIds(OrderedDict[str, Any]):
    """What is known of the last :data:`KEPT_IDS` ids of a source that streams: memory must not grow with it."""

    def __setitem__(self, key: str, value: Any) -> None:
        """Keep a value of an id, and forget the oldest one where there are too many."""
        super().__setitem__(key, value)
        if len(self) > KEPT_IDS:
            self.popitem(last=False)


def known_ids(source: Source) -> dict[str, Any]:
    """Return an empty table of what is known of ids, for one walk over a source."""
    return LastIds() if source.streaming else {}


class Source(ABC):
    """A collection of documents that can be iterated over any number of times, in the same order each time.

    A source reads nothing when it is made: errors in its content are raised while iterating.
    """

    def __str__(self) -> str:
        """Return what messages call the source: its class, and the file, folder or repository that it reads."""
        read = getattr(self, "path", getattr(self, "repo_id", None))
        return type(self).__name__ if read is None else f"{type(self).__name__} {read}"

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

    def walk(self, *, need_text: bool = False, skip: Skip | None = None) -> Iterator[Document]:
        """Yield the documents after the checks that concern all of them: ids are unique, all or none have a target.

        Args:
            need_text: whether a scan whose text is unknown is a mistake too.
            skip: called with the place of each mistake, and with what it is, to go on behind it; without it the first
                is raised. What iteration itself raises ends the walk, unless this is a :class:`SkippingSource`.

        Raises:
            UserError: for a mistake.
        """
        return checked(self, iter(self), need_text=need_text, skip=skip)

    def with_fields(self, names: tuple[str, ...]) -> Source:
        """Return this source with the named fields of its rows in ``Document.fields``.

        Raises:
            UserError: when its documents are no rows.
        """
        if not names:
            return self
        raise UserError(
            f"data.target is 'field:{names[0]}', and {self} has no rows with fields; use a source of rows, such as "
            "JsonlSource"
        )


class SkippingSource(Source):
    """A source that goes on behind a row that is no document."""

    @abstractmethod
    def documents(self, *, need_text: bool, skip: Skip | None) -> Iterator[Document]:
        """Yield the documents of :meth:`walk`."""

    def __iter__(self) -> Iterator[Document]:
        """Yield every document.

        Raises:
            UserError: for a row that is not a document, naming the place, what was found and how to fix it.
        """
        return self.documents(need_text=False, skip=None)

    def walk(self, *, need_text: bool = False, skip: Skip | None = None) -> Iterator[Document]:
        """Yield the documents after the checks that concern all of them; see :meth:`Source.walk`.

        Raises:
            UserError: for a mistake.
        """
        if type(self).__iter__ is not SkippingSource.__iter__:  # a subclass chooses or changes documents
            return super().walk(need_text=need_text, skip=skip)
        return self.documents(need_text=need_text, skip=skip)


def checked(source: Source, documents: Iterable[Document], *, need_text: bool, skip: Skip | None) -> Iterator[Document]:
    """Yield documents of a source after the checks of :meth:`Source.walk`."""
    seen = known_ids(source)
    first: Document | None = None
    for document in documents:
        try:
            if document.id in seen:
                raise UserError(f"{source}: two documents have the id {document.id!r}; ids must be unique")
            if first is not None and document.task != first.task:
                raise UserError(
                    f"{source}: document {document.id!r} has {'no' if document.target is None else 'a'} target, unlike "
                    f"{first.id!r}; either all documents have one (summarization) or none (transcription)"
                )
            if need_text:
                check_text_is_known(f"{source}", document)
        except UserError as error:
            tell(skip, document.id, error)
            continue
        seen[document.id] = None
        first = first or document
        yield document


def tell(skip: Skip | None, place: str, error: UserError) -> None:
    """Report a mistake to those that go on behind it, or raise it."""
    if skip is None:
        raise error
    skip(place, error)


def check_text_is_known(where: str, document: Document) -> None:
    """Refuse a scan that cannot be learned.

    Raises:
        UserError: when its text is unknown.
    """
    if document.image is not None and not document.text_is_known:
        raise UserError(
            f"{where}: the text of scan {document.id!r} is unknown or empty; `deepsynth predict` can transcribe it; if "
            "such pages are blank, set blank_pages=keep to train on them, or skip"
        )


def read_documents(source: Source, *, need_text: bool, skip: Skip | None = None) -> list[Document]:
    """Return the documents of a source after the checks that concern all of them; see :meth:`Source.walk`.

    Raises:
        UserError: for a source without a document, or a mistake.
    """
    return list(checked_documents(source, need_text=need_text, skip=skip))


def checked_documents(source: Source, *, need_text: bool, skip: Skip | None = None) -> Iterator[Document]:
    """Yield the documents of a source, each as soon as it has passed the checks of :func:`read_documents`.

    Raises:
        UserError: as there.
    """
    found = False
    for document in source.walk(need_text=need_text, skip=skip):
        found = True
        yield document
    if not found:
        raise UserError(f"{source} holds no document" + (" that can be used" if skip is not None else ""))


def text_id(text: str) -> str:
    """Return the id of a document without one: the first 16 hex digits of the SHA-256 of its UTF-8 text."""
    return hashlib.sha256(text.encode("utf-8")).hexdigest()[:16]


def has_printable(text: str) -> bool:
    """Return whether any character is visible: outside Unicode's control, format, unassigned and separator classes."""
    return any(unicodedata.category(character)[0] not in "CZ" for character in text)


def unix_line_ends(text: str) -> str:
    r"""Return the text with ``\r\n`` and ``\r`` as ``\n``."""
    return text.replace("\r\n", "\n").replace("\r", "\n")
