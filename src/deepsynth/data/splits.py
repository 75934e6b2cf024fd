"""Which documents of a source are for training, validation and test."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, NoReturn

from deepsynth.data.pipeline import stable_hash
from deepsynth.data.sources.mixed import original_id
from deepsynth.errors import UserError
from deepsynth.types import Document

Split = Literal["train", "val", "test"]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Splitter:
    """Splits documents by the hash of their id, so that a document stays in its split when others are added.

    Attributes:
        val_fraction: share of the documents for validation.
        test_fraction: share of the documents for test.
        max_train_documents: limit for training, or ``None``; the first by hash are taken, of a stream the first.
        max_eval_documents: limit for validation and for test, or ``None``.
    """

    val_fraction: float = 0.05
    test_fraction: float = 0.05
    max_train_documents: int | None = None
    max_eval_documents: int | None = None

    def __post_init__(self) -> None:
        """Check the numbers.

        Raises:
            UserError: for a share beyond 0 to 1, shares that leave nothing for training, or a limit below 1.
        """
        for name in ("val_fraction", "test_fraction"):
            share = getattr(self, name)
            if not 0 <= share < 1:
                raise UserError(f"data.{name} is {share}; it must be at least 0 and below 1")
        held_out = self.val_fraction + self.test_fraction
        if held_out >= 1:
            raise UserError(f"data.val_fraction + data.test_fraction is {held_out:g}; it must be below 1")
        for name in ("max_train_documents", "max_eval_documents"):
            limit = getattr(self, name)
            if limit is not None and limit < 1:
                raise UserError(f"data.{name} is {limit}; it must be at least 1")

    def split_of(self, document: Document) -> Split:
        """Return the split of a document, from its id alone; a repeated document of a mix has one split."""
        position = _position(original_id(document.id))
        if position < self.val_fraction:
            return "val"
        return "test" if position < self.val_fraction + self.test_fraction else "train"

    def select(self, documents: Sequence[Document], split: Split) -> list[Document]:
        """Return the documents of a split, in their order.

        A set so small that the share of validation is no document gives one, the nearest to that share, and says so.
        """
        chosen = [document for document in documents if self.split_of(document) == split]
        lent = self._lent_to_validation(documents) if split != "test" else None
        if lent is None:
            return chosen
        if split == "train":
            return [document for document in chosen if original_id(document.id) != lent]
        log.info(
            "val: data.val_fraction %g of %d documents is none, so one is held out: %s",
            *(self.val_fraction, len(documents), lent),
        )
        return [document for document in documents if original_id(document.id) == lent]

    def _lent_to_validation(self, documents: Sequence[Document]) -> str | None:
        """Return the id of the training document that validates, where no document would and one can be spared."""
        if not self.val_fraction or any(self.split_of(document) == "val" for document in documents):
            return None
        train = {original_id(document.id) for document in documents if self.split_of(document) == "train"}
        return min(train, key=_position) if len(train) > 1 else None

    def most(self, split: Split) -> int | None:
        """Return the limit of a split."""
        return self.max_train_documents if split == "train" else self.max_eval_documents

    def take(self, documents: Iterable[Document], splits: Sequence[Split]) -> dict[Split, list[Document]]:
        """Return the first documents of splits, and read no further than their limits ask for.

        A split without a limit has what came by until the others were full, but at least one document.
        """
        taken: dict[Split, list[Document]] = {split: [] for split in splits}
        limits = {split: self.most(split) for split in splits}
        bounded = any(most is not None for most in limits.values())

        def is_full(split: Split) -> bool:
            most = limits[split]
            return bounded and len(taken[split]) >= (1 if most is None else most)

        for document in documents:
            split = self.split_of(document)
            if split in taken and (limits[split] is None or not is_full(split)):
                taken[split].append(document)
            if all(map(is_full, splits)):
                break
        return taken

    def limit(self, documents: list[Document], split: Split) -> list[Document]:
        """Return as many documents of a split as its limit allows, in their order."""
        most = self.most(split)
        if most is None:
            return documents
        chosen = {document.id for document in sorted(documents, key=lambda d: stable_hash(d.id))[:most]}
        return [document for document in documents if document.id in chosen]


def no_documents(split: Split, found: str) -> NoReturn:
    """Refuse a split without documents.

    Args:
        split: its name.
        found: what was looked through.

    Raises:
        UserError: with the key to change.
    """
    key = "data.val_fraction and data.test_fraction" if split == "train" else f"data.{split}_fraction"
    raise UserError(
        f"none of the {found} fall into the {split} split; change {key}"
        + ("" if split == "train" else f" or give data.{split}_source")
    )


def _position(document_id: str) -> float:
    """Return where the id of a document lies between 0 and 1: the shares are counted from 0."""
    return stable_hash(f"split:{document_id}") / 2**64
