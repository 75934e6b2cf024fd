"""Which documents each split has, each source read once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any

from deepsynth.data.loading.entries import OnError
from deepsynth.data.loading.usable import usable_documents
from deepsynth.data.sources.base import Skip, Source
from deepsynth.data.splits import Split, Splitter, no_documents
from deepsynth.types import Document

if TYPE_CHECKING:
    from lightning.pytorch import Trainer


@dataclass(frozen=True)
class SplitReader:
    """Reads the documents of splits.

    Attributes:
        source: of all splits without a source of their own.
        own: the sources of splits that may have one of their own.
        splitter: divides ``source``, and knows the limits.
        on_error: what to do with rows that are no documents.
    """

    source: Source
    own: dict[Split, Source | None]
    splitter: Splitter
    on_error: OnError

    def read(self, splits: Sequence[Split], trainer: Trainer | None) -> dict[Split, list[Document]]:
        """Return the documents of splits; a source that streams is read only as far as their limits ask.

        Args:
            splits: their names.
            trainer: whose run folder gets the lists of what is skipped.

        Raises:
            UserError: for a split without documents, with the key to change.
        """
        found: dict[Split, list[Document]] = {}
        shared = [split for split in splits if self.own.get(split) is None]
        if shared:
            found |= self._read(self.source, partial(self._divide, shared), trainer)
        for split in splits:
            if own := self.own.get(split):
                found |= self._read(own, partial(self._limit, split, own), trainer, split)
        return found

    def streams(self, split: Split) -> bool:
        """Return whether a split is too large to be held, as its source streams and it has no limit."""
        return (self.own.get(split) or self.source).streaming and self.splitter.most(split) is None

    def _read(self, source: Source, choose: Callable[..., Any], trainer: Trainer | None, split: str = "") -> Any:
        return usable_documents(source, self.on_error, trainer, choose, split)

    def _divide(self, splits: Sequence[Split], documents: Iterator[Document]) -> dict[Split, list[Document]]:
        if self.source.streaming:
            found, where = self.splitter.take(documents, splits), "documents that were read of data.source"
        else:
            every = list(documents)
            found = {split: self.splitter.limit(self.splitter.select(every, split), split) for split in splits}
            where = f"{len(every)} documents of data.source"
        return {split: chosen or no_documents(split, where) for split, chosen in found.items()}

    def _limit(self, split: Split, own: Source, documents: Iterator[Document]) -> dict[Split, list[Document]]:
        if own.streaming:
            return {split: list(islice(documents, self.splitter.most(split)))}
        return {split: self.splitter.limit(list(documents), split)}


@dataclass(frozen=True)
class SplitSource(Source):
    """The documents of a source that fall into a split, read one by one.

    Attributes:
        whole: the source.
        splitter: knows their splits.
        split: its name.
    """

    whole: Source
    splitter: Splitter
    split: Split

    def __str__(self) -> str:
        """Return what messages call the source."""
        return str(self.whole)

    def __iter__(self) -> Iterator[Document]:
        """Yield the documents of the split."""
        return self._chosen(iter(self.whole))

    @property
    def streaming(self) -> bool:
        """Whether the whole streams."""
        return self.whole.streaming

    def walk(self, *, need_text: bool = False, skip: Skip | None = None) -> Iterator[Document]:
        """Yield them after the checks of the whole; see :meth:`Source.walk`."""
        return self._chosen(self.whole.walk(need_text=need_text, skip=skip))

    def _chosen(self, documents: Iterator[Document]) -> Iterator[Document]:
        return (document for document in documents if self.splitter.split_of(document) == self.split)
