"""A look at all data before training: what cannot be used, how long the samples are, what the texts are made of."""

from __future__ import annotations

import hashlib
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from PIL import Image

from deepsynth.data.loading.entries import OnError
from deepsynth.data.pipeline import Pipeline
from deepsynth.data.processing.processor import OcrProcessor
from deepsynth.data.sources.base import Source
from deepsynth.errors import UserError
from deepsynth.io.text import counted
from deepsynth.types import Document, Page

_BINS = 10
_BAR = 40
_NAMES_SHOWN = 5
_THUMBNAIL_PX = 320
#: A budget that no sample exceeds, so that the length of each is known.
_NO_BUDGET = 2**31


@dataclass(slots=True)
class DataReport:
    """What was found in a source.

    Attributes:
        budget: token budget of a sample; 0 where the processor has none.
        errors: ids of documents, or places, with what is wrong.
        stopping: those of the errors that stop training whatever ``data.on_error`` is.
        warnings: ids by kind: empty texts, repeated pages.
        lengths: tokens of every sample: image, prompt, target and EOS.
        scripts: letters of the targets by script.
        languages: documents by language; ``-`` for those that name none.
        bytes_split: characters that the tokenizer takes apart into bytes, with how often they occur.
        documents: number of documents.
        pages: the first pages, small.
    """

    budget: int = 0
    errors: list[tuple[str, str]] = field(default_factory=list)
    stopping: list[tuple[str, str]] = field(default_factory=list)
    warnings: dict[str, list[str]] = field(default_factory=dict)
    lengths: list[int] = field(default_factory=list)
    scripts: Counter[str] = field(default_factory=Counter)
    languages: Counter[str] = field(default_factory=Counter)
    bytes_split: Counter[str] = field(default_factory=Counter)
    documents: int = 0
    pages: list[Image.Image] = field(default_factory=list)

    def warn(self, kind: str, name: str) -> None:
        """Add a document to a kind of warning."""
        self.warnings.setdefault(kind, []).append(name)

    def lines(self, on_error: OnError = "raise") -> Iterator[str]:
        """Yield the report as lines of text.

        Args:
            on_error: ``data.on_error``, which says what training does with most errors.
        """
        found = (self.documents, "document"), (len(self.lengths), "sample"), (len(self.errors), "error")
        yield ", ".join(counted(count, noun) for count, noun in found)
        passed = [error for error in self.errors if on_error == "skip" and error not in self.stopping]
        stopping = [error for error in self.errors if error not in passed]
        if passed:
            yield f"fit leaves {len(passed)} out and lists them in skipped_*.csv (data.on_error is skip):"
            yield from (f"  error: {name}: {what}" for name, what in passed)
        if stopping:
            way_out = " (data.on_error=skip would leave them out)" if on_error == "raise" and not self.stopping else ""
            yield f"fit stops at {'this' if len(stopping) == 1 else 'the first of these'}{way_out}:"
            yield from (f"  error: {name}: {what}" for name, what in stopping)
        for kind, names in self.warnings.items():
            more = f" and {len(names) - _NAMES_SHOWN} more" if len(names) > _NAMES_SHOWN else ""
            yield f"  {kind}: {len(names)}: {', '.join(names[:_NAMES_SHOWN])}{more}"
        if self.lengths:
            low, middle, high = np.percentile(self.lengths, (0, 50, 95))
            yield f"tokens a sample: {low:.0f} to {max(self.lengths)}, median {middle:.0f}, 95 % up to {high:.0f}"
            yield from self._histogram()
        for title, counts in (("letters by script", self.scripts), ("documents by language", self.languages)):
            if counts:
                yield f"{title}: " + ", ".join(f"{name} {count}" for name, count in counts.most_common())
        if self.bytes_split:
            shown = ", ".join(f"{c} (U+{ord(c):04X}) {count}" for c, count in self.bytes_split.most_common(20))
            yield f"{len(self.bytes_split)} characters take several tokens each: {shown}"

    def _histogram(self) -> Iterator[str]:
        top = max(self.budget, *self.lengths)
        counts, edges = np.histogram(self.lengths, bins=_BINS, range=(0, top))
        for count, start, end in zip(counts, edges, edges[1:], strict=False):
            yield f"  {start:7.0f} to {end:7.0f}  {'#' * round(_BAR * count / max(counts)):<{_BAR}} {count}"
        if self.budget:
            over = sum(length > self.budget for length in self.lengths)
            yield f"  over the budget of {self.budget}: {counted(over, 'sample')}"


def check_data(sources: Sequence[Source], pipeline: Pipeline, pages_shown: int = 16) -> DataReport:
    """Make every sample of the sources once, and return the findings.

    Args:
        sources: of training, and of validation and test where they have their own.
        pipeline: stages of the data module.
        pages_shown: number of pages for a contact sheet.
    """
    return _Check(pipeline, pages_shown).run(sources)


class _Check:
    """One walk over sources."""

    def __init__(self, pipeline: Pipeline, pages_shown: int) -> None:
        self.report = DataReport()
        self._pages_shown = pages_shown
        self._encode: Any = None
        processor = pipeline.processor
        self._drops = processor.drops
        if isinstance(processor, OcrProcessor):
            tokenizer = processor.hf_processor.tokenizer
            self.report.budget = processor.token_budget
            self._encode = lambda text: tokenizer.encode(text, add_special_tokens=False)
            processor = replace(processor, max_tokens=_NO_BUDGET, on_max_tokens="error")
        self._pipeline = replace(pipeline, processor=processor, augmenter=None, prompt_only=False)
        self._seen: dict[bytes, str] = {}
        self._split: dict[str, bool] = {}

    def run(self, sources: Sequence[Source]) -> DataReport:
        for source in sources:
            begun = (self.report.documents, len(self.report.errors))
            try:
                for document in source.walk(need_text=True, skip=self._note_error):
                    self._document(document)
                if begun == (self.report.documents, len(self.report.errors)):
                    self._note_stop(str(source), "it holds no document")
            except UserError as error:  # there is no way behind it
                self._note_stop(str(getattr(source, "path", source)), f"{error}; nothing behind it was checked")
        return self.report

    def _note_stop(self, place: str, what: str) -> None:
        self.report.errors.append((place, what))
        self.report.stopping.append((place, what))

    def _note_error(self, place: str, error: UserError) -> None:
        self.report.errors.append((place, str(error).removeprefix(f"{place}: ")))

    def _document(self, document: Document) -> None:
        self.report.documents += 1
        self.report.languages[document.language or "-"] += 1
        try:
            numbers = [None] if document.is_whole else list(range(self._pipeline.count_pages(document)))
            for number in numbers:
                self._sample(document, number)
        except UserError as error:
            self.report.errors.append((document.id, str(error).removeprefix(f"document {document.id!r}: ")))

    def _sample(self, document: Document, number: int | None) -> None:
        pages = self._pipeline.pages(document, number, 0)
        sample = self._pipeline.sample_of(document, pages)
        assert sample is not None, "nothing is over a budget without an end"
        report, length = self.report, len(sample.input_ids)
        report.lengths.append(length)
        if report.budget and length > report.budget:
            what = f"{length} tokens, over the budget of {report.budget} (data.max_tokens)"
            if self._drops:
                report.warn("over the budget, dropped", sample.id)
            else:
                report.errors.append((sample.id, what))
        if not sample.target.strip() and not document.blank:
            report.warn("empty", sample.id)
        self._note_repeated(sample.id, pages)
        self._note_characters(sample.target)
        if len(report.pages) < self._pages_shown:
            small = pages[0].image.copy()
            small.thumbnail((_THUMBNAIL_PX, _THUMBNAIL_PX), Image.Resampling.BOX)
            report.pages.append(small)

    def _note_repeated(self, name: str, pages: Sequence[Page]) -> None:
        digest = hashlib.sha256()
        for page in pages:
            digest.update(repr(page.image.size).encode() + page.image.tobytes())
        first = self._seen.setdefault(digest.digest(), name)
        if first != name:
            self.report.warn("the same page as an earlier one", f"{name} (= {first})")

    def _note_characters(self, target: str) -> None:
        for character, count in Counter(target).items():
            if character.isalpha():
                self.report.scripts[unicodedata.name(character, "UNKNOWN").split()[0].lower()] += count
            if self._encode is None or character.isspace():
                continue
            if character not in self._split:
                self._split[character] = len(self._encode(character)) > 1
            if self._split[character]:
                self.report.bytes_split[character] += count
