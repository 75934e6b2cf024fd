"""The base of every source, and the checks that concern all of its documents."""

from __future__ import annotations

import hashlib
import unicodedata
from abc import ABC, abstractmethod
from collections.abc import Iterator

from deepsynth.errors import UserError
from deepsynth.types import Document


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


def text_id(text: str) -> str:
    """Return the id of a document without one: the first 16 hex digits of the SHA-256 of its UTF-8 text."""
    return hashlib.sha256(text.encode("utf-8")).hexdigest()[:16]


def has_printable(text: str) -> bool:
    """Return whether any character is visible: outside Unicode's control, format, unassigned and separator classes."""
    return any(unicodedata.category(character)[0] not in "CZ" for character in text)


def unix_line_ends(text: str) -> str:
    r"""Return the text with ``\r\n`` and ``\r`` as ``\n``."""
    return text.replace("\r\n", "\n").replace("\r", "\n")
