"""A self-contained HTML page of page images, targets and predictions with the differences marked."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from rapidfuzz.distance import Levenshtein

from deepsynth.io.html import render_page
from deepsynth.metrics.corpus import summarize
from deepsynth.metrics.scores import score_table

if TYPE_CHECKING:
    from markupsafe import Markup

#: Fewer equal characters than this between two differences are chance and count as part of the difference.
MIN_EQUAL_CHARACTERS = 3


@dataclass(frozen=True, slots=True)
class Prediction:
    """The text that the model generated for a sample.

    Attributes:
        step: optimizer steps before it was generated.
        text: generated text.
    """

    step: int
    text: str


@dataclass(slots=True)
class GalleryEntry:
    """One sample with its first and its newest prediction.

    Attributes:
        name: id of the sample.
        target: text that the sample shows.
        first: the earliest prediction.
        latest: the newest prediction; the same object as ``first`` while there is only one.
        pictures: JPEG files of the pages.
    """

    name: str
    target: str
    first: Prediction
    latest: Prediction
    pictures: list[bytes] = field(default_factory=list)


def corpus_cer(predictions: Sequence[Prediction], targets: Sequence[str]) -> float:
    """Return the corpus CER of predictions."""
    return summarize(score_table([prediction.text for prediction in predictions], targets))["cer"]


def differences(prediction: str, target: str) -> Iterator[tuple[str, str]]:
    """Yield pairs of a part of the prediction and the target's part in its place, alternately equal and different.

    The first parts together are the prediction, the second parts together the target.
    """
    predicted = expected = ""
    for code in Levenshtein.opcodes(prediction, target):
        one, other = prediction[code.src_start : code.src_end], target[code.dest_start : code.dest_end]
        at_an_end = code.src_start == code.dest_start == 0 or (
            code.src_end == len(prediction) and code.dest_end == len(target)
        )
        if code.tag == "equal" and (len(one) >= MIN_EQUAL_CHARACTERS or at_an_end):
            if predicted or expected:
                yield predicted, expected
            yield one, one
            predicted = expected = ""
        else:
            predicted, expected = predicted + one, expected + other
    if predicted or expected:
        yield predicted, expected


def mark_differences(prediction: str, target: str, *, line_breaks: bool = True) -> Markup:
    """Return a prediction as HTML: wrong characters in ``<del>``, missing ones in ``<ins>``.

    Args:
        prediction: generated text.
        target: text of the page.
        line_breaks: whether a line break differs from a space; if not, all are shown as spaces.
    """
    if not line_breaks:
        prediction, target = prediction.replace("\n", " "), target.replace("\n", " ")
    from markupsafe import Markup, escape

    def element(name: str, text: str) -> Markup:
        # A wrong or missing line break would not be visible.
        return Markup(f"<{name}>{{}}</{name}>").format(text.replace("\n", "↵\n")) if text else Markup()

    return Markup().join(
        escape(predicted) if predicted == expected else element("del", predicted) + element("ins", expected)
        for predicted, expected in differences(prediction, target)
    )


def gallery_page(title: str, entries: Sequence[GalleryEntry], *, line_breaks: bool = True) -> str:
    """Return the page, which needs no network and adapts to light and dark screens.

    Args:
        title: heading of the page.
        entries: at least one sample.
        line_breaks: whether wrong line breaks are marked: those of a page can be known, those of its source cannot.
    """
    targets = [entry.target for entry in entries]
    return render_page(
        "gallery.html",
        title=title,
        entries=[_view(entry, line_breaks) for entry in entries],
        first_step=entries[0].first.step,
        first_cer=f"{corpus_cer([entry.first for entry in entries], targets):.1%}",
        latest_step=max(entry.latest.step for entry in entries),
        latest_cer=f"{corpus_cer([entry.latest for entry in entries], targets):.1%}",
    )


def _view(entry: GalleryEntry, line_breaks: bool) -> dict[str, Any]:
    """Return the values that the template shows of a sample."""
    predictions = [entry.first] if entry.latest == entry.first else [entry.first, entry.latest]
    return {
        "name": entry.name,
        "target": entry.target,
        "pictures": [base64.b64encode(data).decode() for data in entry.pictures],
        "predictions": [
            (
                prediction.step,
                f"{corpus_cer([prediction], [entry.target]):.1%}",
                mark_differences(prediction.text.strip(), entry.target.strip(), line_breaks=line_breaks),
            )
            for prediction in predictions
        ],
    }
