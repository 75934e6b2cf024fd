"""``deepsynth evaluate``: figures of predictions as a table, as JSON and as a page."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any

from markupsafe import Markup, escape
from PIL import Image

from deepsynth.errors import UserError
from deepsynth.io.files import atomic_file, explain_write_errors
from deepsynth.io.html import render_page
from deepsynth.io.text import counted
from deepsynth.measurement.evaluation.figures import (
    Comparison,
    Document,
    Evaluation,
    compare_predictions,
    evaluate_predictions,
)
from deepsynth.measurement.evaluation.pictures import encoded, with_boxes
from deepsynth.measurement.evaluation.predictions import GROUPS, Predictions, in_common, read_predictions
from deepsynth.metrics.normalization import normalize
from deepsynth.metrics.structure.tables import tables_of

#: Pages of documents by id.
Pages = Callable[[Sequence[str]], Mapping[str, Sequence[Image.Image]]]
#: Characters of a text in a report from which on its middle is left out.
_LONGEST = 4000


class Evaluate:
    """Compare predictions with their targets, or two systems on the same documents.

    Prints metrics with bounds over all documents and by language, source and prompt, the most frequent confusions, and
    with a second file the difference of both systems. With the options of ``deepsynth predict`` in the place of a file
    it predicts first, and shows the pages of the worst documents. ``deepsynth evaluate olmocr`` and ``omnidocbench``
    score the published benchmarks. Example::

        deepsynth evaluate --config my.yaml --ckpt_path runs/mine/adapter
        deepsynth evaluate runs/tuned/predictions.jsonl --against runs/base/predictions.jsonl --output runs/report

    Args:
        predictions: ``predictions.jsonl`` of ``deepsynth predict``, or the folder that holds it.
        against: predictions of another system on the same documents.
        output: folder for ``metrics.json`` and ``report.html``.
        profile: normalization of both texts before they are compared, such as ``none``, ``layout`` or ``arabic``;
            joined by ``+`` to apply several.
        structure: also score tables, formulas, boxes, Markdown and reading order; by default where a target has markup
            or a table.
        worst: number of documents to show, those with the most edits.
        confidence: probability between the bounds.
        resamples: of the bootstrap over documents.
    """

    def __init__(
        self,
        predictions: Path,
        *,
        against: Path | None = None,
        output: Path | None = None,
        profile: str = "none",
        structure: bool | None = None,
        worst: int = 20,
        confidence: float = 0.95,
        resamples: int = 1000,
    ) -> None:
        normalize("", profile)  # names the profiles that exist
        if not 0.0 < confidence < 1.0:
            raise UserError(f"--confidence is {confidence}; it must be between 0 and 1")
        for name, number, least in (("worst", worst, 0), ("resamples", resamples, 1)):
            if number < least:
                raise UserError(f"--{name} is {number}; it must be at least {least}")
        self.predictions, self.against, self.output = predictions, against, output
        self.profile, self.structure, self.worst = profile, structure, worst
        self.confidence, self.resamples = confidence, resamples

    def run(self, print_line: Callable[[str], None], pages: Pages | None = None) -> None:
        """Evaluate, print the figures, and write the files.

        Args:
            print_line: takes the lines of the table.
            pages: gives the pages of documents, which the report shows with their boxes.
        """
        found = read_predictions(self.predictions)
        comparison = None
        if self.against is not None:
            found, other, left = in_common(found, read_predictions(self.against))
            if left:
                print_line(f"left out: {counted(left, 'document')} in only one of the two files")
            options: dict[str, Any] = {"confidence": self.confidence, "resamples": self.resamples}
            options["structure"] = self._has_structure(found)
            comparison = compare_predictions(found, other, profile=self.profile, **options)
        evaluation = self._evaluate(found)
        for line in table_lines(evaluation, comparison):
            print_line(line)
        if self.output is not None:
            self._write(evaluation, comparison, found, pages)
            print_line(f"metrics.json and report.html in {self.output}")

    def _has_structure(self, found: Predictions) -> bool:
        if self.structure is not None:
            return self.structure
        return any("<|ref|>" in row["target"] or tables_of(row["target"]) for row in found.rows)

    def _evaluate(self, found: Predictions) -> Evaluation:
        return evaluate_predictions(
            found,
            profile=self.profile,
            by=GROUPS,
            structure=self._has_structure(found),
            worst=self.worst,
            confidence=self.confidence,
            resamples=self.resamples,
        )

    def _write(
        self, evaluation: Evaluation, comparison: Comparison | None, found: Predictions, pages: Pages | None
    ) -> None:
        assert self.output is not None, "the caller has looked"
        record = {
            "predictions": str(found.path),
            "against": None if self.against is None else str(self.against),
            "profile": self.profile,
            "confidence": self.confidence,
            "resamples": self.resamples,
            **asdict(evaluation),
            "comparison": None if comparison is None else asdict(comparison),
        }
        page = render_page(
            "evaluation.html",
            title=f"Evaluation of {found.path}",
            evaluation=evaluation,
            comparison=comparison,
            against=self.against,
            profile=self.profile,
            confidence=self.confidence,
            documents=[
                (document, *marked(document.prediction, document.target), pictures)
                for document, pictures in zip(evaluation.worst, _pictures(evaluation.worst, pages), strict=True)
            ],
        )
        texts = {"metrics.json": json.dumps(record, indent=2, ensure_ascii=False) + "\n", "report.html": page}
        with explain_write_errors(self.output, "the evaluation"):
            self.output.mkdir(parents=True, exist_ok=True)
            for name, text in texts.items():
                with atomic_file(self.output / name) as file:
                    file.write_text(text, encoding="utf-8")


def _pictures(documents: Sequence[Document], pages: Pages | None) -> list[list[str]]:
    found = pages([document.id for document in documents]) if pages is not None else {}
    return [
        encoded([with_boxes(image, document.prediction, document.target) for image in found.get(document.id, ())])
        for document in documents
    ]


def table_lines(evaluation: Evaluation, comparison: Comparison | None) -> Iterator[str]:
    """Yield the figures as lines for a terminal."""
    unknown = f", {evaluation.unknown} without a target left out" if evaluation.unknown else ""
    yield counted(evaluation.documents, "document") + unknown
    for name, value in evaluation.metrics.items():
        low, high = evaluation.bounds[name]
        yield f"{name:12} {value:8.4f}   {low:.4f} to {high:.4f}"
    for kind, groups in evaluation.groups.items():
        for group, metrics in groups.items():
            yield f"{kind} {normalize(group, 'whitespace')}: cer {metrics['cer']:.4f}, wer {metrics['wer']:.4f}"
    for name, value in evaluation.structure.items():
        low, high = evaluation.structure_bounds[name]
        yield f"{name:20} {value:.4f}   {low:.4f} to {high:.4f}"
    for kind, of_groups in evaluation.structure_groups.items():
        for group, metrics in of_groups.items():
            shown = ", ".join(f"{name} {value:.4f}" for name, value in metrics.items())
            yield f"{kind} {normalize(group, 'whitespace')}: {shown}"
    if evaluation.cells:
        shown = ", ".join(
            f"{a or 'nothing'!r} as {b or 'nothing'!r} ({count})" for a, b, count in evaluation.cells[:10]
        )
        yield f"cells: {shown}"
    if evaluation.confusions:
        shown = ", ".join(f"{_shown(a)} as {_shown(b)} ({count})" for a, b, count in evaluation.confusions[:10])
        yield f"confusions: {shown}"
    if comparison is not None:
        yield (
            f"cer {comparison.cer[0]:.4f} against {comparison.cer[1]:.4f}: difference {comparison.difference:+.4f} "
            f"({comparison.low:+.4f} to {comparison.high:+.4f}), p {comparison.p:.3g}; better on "
            f"{counted(comparison.better, 'document')}, worse on {comparison.worse}"
        )
        for name, (one, other, p) in comparison.structure.items():
            yield f"{name} {one:.4f} against {other:.4f}: difference {one - other:+.4f}, p {p:.3g}"


def _shown(character: str) -> str:
    return {"": "nothing", " ": "a space", "\n": "a line break"}.get(character, character)


def marked(prediction: str, target: str) -> tuple[Markup, Markup]:
    """Return both texts as HTML: the prediction with what is wrong, the target with what is missing."""
    one, other = (
        text if len(text) <= _LONGEST else f"{text[: _LONGEST // 2]} … {text[-_LONGEST // 2 :]}"
        for text in (prediction, target)
    )
    predicted, expected = [], []
    for tag, a, b, c, d in SequenceMatcher(None, one, other, autojunk=False).get_opcodes():
        predicted.append(_mark("del", one[a:b]) if tag != "equal" else escape(one[a:b]))
        expected.append(_mark("ins", other[c:d]) if tag != "equal" else escape(other[c:d]))
    return Markup("").join(predicted), Markup("").join(expected)


def _mark(tag: str, text: str) -> Markup:
    return Markup("<{0}>{1}</{0}>").format(tag, text) if text else Markup("")
