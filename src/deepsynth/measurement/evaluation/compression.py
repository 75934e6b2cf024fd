"""The compression curve: how precisely pages are transcribed at more and more text for each vision token.

The form is that of DeepSeek-OCR's paper (Wei et al. 2025, https://arxiv.org/abs/2510.18234, its table on Fox): pages of
600 to 1,300 text tokens at 64 and 100 vision tokens. Precision is 1 less the normalized edit distance of prediction and
text, white space folded. The paper does not say which precision it means, and Fox's own code scores words, so that is
given too. The control has the same pages with the letters of every word shuffled: a model that guesses words by their
language, and does not see them, fails there.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rapidfuzz.distance import Levenshtein

from deepsynth.errors import UserError
from deepsynth.types import Document

#: Documents that passages are taken from in turn.
_AT_A_TIME = 8


@dataclass(frozen=True)
class Condition:
    """How the pages of a curve are made and predicted.

    Attributes:
        mode: resolution by name; ``None`` for the model's own.
        font_size_px: of the pages; ``None`` for scans.
        shuffled: whether the letters of every word are shuffled.
        tuned: whether the adapter is used.
    """

    mode: str | None
    font_size_px: float | None
    shuffled: bool
    tuned: bool

    @property
    def name(self) -> str:
        """Name of its folder."""
        parts = [self.mode or "own", *([] if self.font_size_px is None else [f"{self.font_size_px:g}px"])]
        return "-".join([*parts, *(["shuffled"] if self.shuffled else []), *(["tuned"] if self.tuned else [])])


@dataclass(frozen=True)
class PageResult:
    """A page that was predicted.

    Attributes:
        condition: how.
        id: of its document.
        text_tokens: of what it shows, by the model's tokenizer.
        characters: of what it shows.
        vision_tokens: features of the image, without newlines and separators, as the paper counts.
        precision: 1 less the edits for each character, from 0 to 1.
        word_precision: share of the different words of the prediction that the page has.
    """

    condition: Condition
    id: str
    text_tokens: int
    characters: int
    vision_tokens: int
    precision: float
    word_precision: float


def passages(
    documents: Iterable[Document], lengths: Sequence[int], count_tokens: Callable[[str], int]
) -> list[Document]:
    """Return passages of so many text tokens each, taken in turn from several documents at a time.

    Args:
        documents: whose white space becomes single spaces; those that are too short are joined.
        lengths: most tokens of each passage.
        count_tokens: of a text.

    Raises:
        UserError: when the texts are too short for one passage.
    """
    found: list[Document] = []
    stream = iter(documents)
    waiting: list[list[str]] = [[] for _ in range(_AT_A_TIME)]  # words of the documents that are open
    while waiting and len(found) < len(lengths):
        words, length = waiting.pop(0), lengths[len(found)]
        while count_tokens(" ".join(words)) <= length:
            document = next(stream, None)
            if document is None:
                break
            words += document.text.split()
        low, high = 0, len(words)  # the most words that fit
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if count_tokens(" ".join(words[:middle])) <= length else (low, middle - 1)
        if 0 < low < len(words):  # else the texts are used up, or one word has more tokens
            found.append(Document(f"passage-{len(found):04}", " ".join(words[:low])))
            waiting.append(words[low:])
    if not found:
        raise UserError(f"the source has no passage of {min(lengths)} text tokens; give more text, or shorter lengths")
    return found


def shuffled(text: str, seed: int) -> str:
    """Return a text with the letters of every word in another order."""
    draw = random.Random(seed)
    return " ".join("".join(draw.sample(word, len(word))) for word in text.split(" "))


def page_results(
    condition: Condition, rows: Iterable[dict[str, Any]], count_tokens: Callable[[str], int], vision_tokens: int
) -> list[PageResult]:
    """Return what became of the pages of a condition; those of unknown text are left out.

    Args:
        condition: of all of them.
        rows: of ``deepsynth predict``.
        count_tokens: of a text.
        vision_tokens: of a page.
    """
    found = []
    for row in rows:
        if not row.get("target"):
            continue
        predicted, written = row["prediction"].split(), row["target"].split()
        edits = Levenshtein.normalized_distance(" ".join(predicted), " ".join(written))
        different = set(predicted)
        found.append(
            PageResult(
                condition,
                id=str(row["id"]),
                text_tokens=count_tokens(row["target"]),
                characters=len(row["target"]),
                vision_tokens=vision_tokens,
                precision=1.0 - float(edits),
                word_precision=len(different.intersection(written)) / max(1, len(different)),
            )
        )
    return found


@dataclass(frozen=True)
class Point:
    """Pages of a condition whose number of text tokens is in one bucket.

    Attributes:
        low: text tokens from which on.
        high: below which.
        pages: number of pages.
        precision: mean.
        word_precision: mean.
        tokens_per_vision_token: mean text tokens of a page for each of its vision tokens.
        characters_per_vision_token: the same of characters.
    """

    low: int
    high: int
    pages: int
    precision: float
    word_precision: float
    tokens_per_vision_token: float
    characters_per_vision_token: float


def curves(results: Sequence[PageResult], bucket: int) -> dict[Condition, list[Point]]:
    """Return the points of each condition, by text tokens.

    Args:
        results: of all pages.
        bucket: text tokens that a point spans.
    """
    groups: dict[tuple[Condition, int], list[PageResult]] = {}
    for result in results:
        groups.setdefault((result.condition, result.text_tokens // bucket), []).append(result)
    found: dict[Condition, list[Point]] = {result.condition: [] for result in results}
    for (condition, number), pages in sorted(groups.items(), key=lambda item: item[0][1]):
        vision = sum(page.vision_tokens for page in pages)
        found[condition].append(
            Point(
                low=number * bucket,
                high=(number + 1) * bucket,
                pages=len(pages),
                precision=sum(page.precision for page in pages) / len(pages),
                word_precision=sum(page.word_precision for page in pages) / len(pages),
                tokens_per_vision_token=sum(page.text_tokens for page in pages) / vision,
                characters_per_vision_token=sum(page.characters for page in pages) / vision,
            )
        )
    return found


def table(found: dict[Condition, list[Point]], vision_tokens: dict[str | None, int]) -> list[str]:
    """Return the curves as a Markdown table: a row for each bucket, three columns for each condition.

    Args:
        found: points by condition.
        vision_tokens: by mode.
    """
    buckets = sorted({(point.low, point.high) for points in found.values() for point in points})
    titles = [
        f"{condition.name} ({vision_tokens[condition.mode]} vision tokens): precision | of words | tokens for each"
        for condition in found
    ]
    lines = [f"| text tokens | pages | {' | '.join(titles)} |", "|---" * (2 + 3 * len(titles)) + "|"]
    for low, high in buckets:
        points = [next((p for p in own if p.low == low), None) for own in found.values()]
        cells = [
            f"{p.precision:.1%} | {p.word_precision:.1%} | {p.tokens_per_vision_token:.1f}×" if p else " |  | "
            for p in points
        ]
        pages = sorted({p.pages for p in points if p})  # smaller pages hold less of a text
        number = str(pages[0]) if len(pages) == 1 else f"{pages[0]} to {pages[-1]}"
        lines.append(f"| {low}–{high} | {number} | {' | '.join(cells)} |")
    return lines


def plot(found: dict[Condition, list[Point]], file: Path) -> None:
    """Write the curves as a picture: precision against text tokens and against characters for each vision token.

    Args:
        found: points by condition; the control is dashed.
        file: PNG or WebP.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.8), layout="constrained")
    colors = list(dict.fromkeys((c.mode, c.font_size_px, c.tuned) for c in found))
    axes = figure.subplots(1, 2, sharey=True)
    for axis, key, title in zip(
        axes, ("tokens_per_vision_token", "characters_per_vision_token"), ("text tokens", "characters"), strict=True
    ):
        for condition, points in found.items():
            color = f"C{colors.index((condition.mode, condition.font_size_px, condition.tuned))}"
            axis.plot(
                [getattr(point, key) for point in points],
                [point.precision for point in points],
                "o--" if condition.shuffled else "o-",
                color=color,
                markersize=4,
                markerfacecolor="white" if condition.shuffled else color,
                label=condition.name.replace("-", ", "),
            )
        axis.set(xlabel=f"{title} for each vision token", ylim=(0, 1.02))
        axis.set_xlim(left=0)
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("precision")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, fontsize=8, loc="outside right upper")
    figure.savefig(file, dpi=110)


def record(found: dict[Condition, list[Point]]) -> list[dict[str, Any]]:
    """Return the curves as JSON has them."""
    return [{**asdict(condition), "points": [asdict(p) for p in points]} for condition, points in found.items()]
