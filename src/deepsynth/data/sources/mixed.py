"""Several sources as one, in given shares.

Source ``s`` of weight ``w`` (all weights summing to 1) gives its j-th document at the time ``(j + offset) / w``, with
an offset in 0 to 1 drawn from the seed, and documents come in the order of their times. So after any number k of
documents each source has given ``w * k`` of them to within as many as there are sources.
"""

from __future__ import annotations

import heapq
import itertools
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from deepsynth.data.sources.base import Skip, SkippingSource, Source, checked
from deepsynth.errors import UserError
from deepsynth.types import Document

_REPEAT = re.compile(r"(~(turn|prompt)\d+)*(~\d+)?\Z")


@dataclass(frozen=True)
class MixedSource(SkippingSource):
    """Take documents from several sources alternately, by weight.

    Ids become ``{name}/{id}``, so that they stay unique. If ``epoch_size`` needs more documents than a source has, the
    source is repeated: the ids of its n-th pass end in ``~n``, from ``~2``, so the same text gets another layout.
    :func:`original_id` removes the ending, so that all copies of a document are in the same split.

    Example:
        >>> MixedSource(sources={"law": JsonlSource("law.jsonl"), "news": JsonlSource("news.jsonl")},
        ...             weights={"law": 3, "news": 1}, epoch_size=20000)  # doctest: +SKIP

    Attributes:
        sources: sources by name; the name becomes ``Document.source`` of documents without one.
        weights: share of each source by name, in any unit; equal by default.
        epoch_size: number of documents; by default the mix ends with its shortest source and nothing is repeated.
        seed: seed of the sources' offsets.
        prompts: prompt by the name of a source, for its documents that have none of their own; sources that are not
            named keep that of their task.
    """

    sources: Mapping[str, Source]
    weights: Mapping[str, float] | None = None
    epoch_size: int | None = None
    seed: int = 0
    prompts: Mapping[str, str] | None = None

    def __post_init__(self) -> None:
        """Check the names and numbers.

        Raises:
            UserError: for no source, a weight that is not above 0, or names that do not agree.
        """
        if not self.sources:
            raise UserError("sources is empty; a mix needs at least one source, {name: source}")
        for name in self.sources:
            if not name or "/" in name:
                raise UserError(
                    f"sources names {name!r}; a name must have at least one character and no '/' (ids become NAME/ID)"
                )
        if self.weights is not None and set(self.weights) != set(self.sources):
            named, there = (", ".join(sorted(names)) or "nothing" for names in (self.weights, self.sources))
            raise UserError(f"weights names {named}, sources {there}; give one weight for each source")
        for name, weight in (self.weights or {}).items():
            if isinstance(weight, bool) or not isinstance(weight, (int, float)) or not 0 < weight < math.inf:
                raise UserError(
                    f"weights.{name} is {weight!r}; it must be a number above 0 (leave the source out for 0)"
                )
        unknown = sorted(set(self.prompts or {}) - set(self.sources))
        if unknown:
            raise UserError(f"prompts names {unknown[0]!r}; the sources are {', '.join(self.sources)}")
        if self.epoch_size is not None and self.epoch_size < 1:
            raise UserError(f"epoch_size is {self.epoch_size}; it must be at least 1, or null")

    @property
    def streaming(self) -> bool:
        """Whether any of the sources must not be held in memory."""
        return any(source.streaming for source in self.sources.values())

    @cached_property
    def _shares(self) -> tuple[tuple[str, float, float], ...]:
        """Name, share and offset of each source, sorted by name: the order of the mapping does not matter."""
        names = sorted(self.sources)
        weights = [float(self.weights[name]) if self.weights else 1.0 for name in names]
        offsets = np.random.default_rng(self.seed).random(len(names)).tolist()
        total = math.fsum(weights)
        return tuple(
            (name, weight / total, offset) for name, weight, offset in zip(names, weights, offsets, strict=True)
        )

    def with_fields(self, names: tuple[str, ...]) -> MixedSource:
        """Return this mix with the named fields of all rows in ``Document.fields``.

        Raises:
            UserError: when a source has no rows.
        """
        return replace(self, sources={name: source.with_fields(names) for name, source in self.sources.items()})

    def documents(self, *, need_text: bool, skip: Skip | None) -> Iterator[Document]:
        """Yield every document of the mix.

        Raises:
            UserError: for a source without documents, or a row that is not a document.
        """
        return checked(self, self._mix(need_text, skip), need_text=need_text, skip=skip)

    def _mix(self, need_text: bool, skip: Skip | None) -> Iterator[Document]:
        documents = {name: self._documents(name, need_text, skip) for name in self.sources}
        given = dict.fromkeys(self.sources, 0)
        queue = [(_time(0, share, offset), name, share, offset) for name, share, offset in self._shares]
        heapq.heapify(queue)
        for _ in itertools.count() if self.epoch_size is None else range(self.epoch_size):
            _, name, share, offset = queue[0]
            document = next(documents[name], None)
            if document is None:
                return
            yield document
            given[name] += 1
            heapq.heapreplace(queue, (_time(given[name], share, offset), name, share, offset))

    def _documents(self, name: str, need_text: bool, skip: Skip | None) -> Iterator[Document]:
        """Yield a source's documents under their new ids, again and again where an epoch has a size."""
        prompt = (self.prompts or {}).get(name)
        for repeat in itertools.count(1):
            ending = "" if repeat == 1 else f"~{repeat}"
            found = False
            # What is skipped is told in the first pass; the second would say it again.
            told = skip if repeat == 1 or skip is None else _say_nothing
            for document in self.sources[name].walk(need_text=need_text, skip=told):
                found = True
                yield replace(
                    document,
                    id=f"{name}/{document.id}{ending}",
                    source=document.source or name,
                    prompt=document.prompt or prompt,
                )
            if not found:
                raise UserError(f"sources.{name} has no document; leave it out of the mix")
            if self.epoch_size is None:
                return


def original_id(document_id: str) -> str:
    """Return the id without the endings of a repeated document: of a mix, or of one image under several prompts."""
    return _REPEAT.sub("", document_id, count=1)


def _say_nothing(place: str, error: UserError) -> None:
    """Ignore a mistake that was reported before."""


def _time(turn: int, share: float, offset: float) -> float:
    return (turn + offset) / share
