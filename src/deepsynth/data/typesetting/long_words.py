"""Words that are wider than a line, broken between grapheme clusters, each part as long as fits."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from deepsynth.data.fonts.glyphs import Direction, Piece, Style
from deepsynth.data.fonts.shaping import Shaper
from deepsynth.data.text.linebreak import grapheme_clusters

#: A run of letters longer than this is not shaped whole to find out that it is too wide.
LONGEST_WORD = 200


class Span(NamedTuple):
    """Letters of one style and direction, not shaped yet; odd embedding levels run from the right."""

    text: str
    style: Style
    level: int

    @property
    def direction(self) -> Direction:
        """Of the embedding level."""
        return "rtl" if self.level & 1 else "ltr"


def break_word(shaper: Shaper, span: Span, width: int) -> Iterator[Piece]:
    """Yield the parts of a span, one for each line.

    Args:
        shaper: for the parts, which are not remembered.
        span: the word.
        width: of a line, pixels.

    Raises:
        ValueError: when one cluster is wider than a line.
    """
    clusters = grapheme_clusters(span.text)
    start, count = 0, 8
    while start < len(clusters):
        count = _clusters_that_fit(shaper, clusters, start, count, span, width)
        while True:
            piece = shaper.shape("".join(clusters[start : start + count]), span.style, span.direction)
            if piece.room - min(piece.left, 0) <= width:
                break
            if count == 1:
                raise ValueError(
                    f"{clusters[start][:20]!r} at {span.style.size_px:g} pixels is wider than the column of {width} "
                    "pixels; take a smaller font_size_px or margin_px, or a wider page"
                )
            count -= 1
        yield piece
        start += count


def _clusters_that_fit(shaper: Shaper, clusters: list[str], start: int, guess: int, span: Span, width: int) -> int:
    """Return how many clusters fit into the width, at least one, looking around a guess."""

    def fits(count: int) -> bool:
        return shaper.measure("".join(clusters[start : start + count]), span.style, span.direction) <= width

    most = len(clusters) - start
    low, high = 1, min(max(guess, 2), most)
    while high < most and fits(high):
        low, high = high, min(2 * high, most)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return low
