"""From the text of a paragraph to shaped words, between which a line may end."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from deepsynth.data.fonts.formulas import fit_formula
from deepsynth.data.fonts.glyphs import Direction, FontStyle, GlyphBitmap, ShapedRun
from deepsynth.data.fonts.shaping import Shaper
from deepsynth.data.text.linebreak import SPACES, TOKENS, breakable_parts, grapheme_clusters, segments
from deepsynth.data.typesetting.bidi_lines import LineItem
from deepsynth.errors import UserError

#: A word with more letters is not shaped whole only to find out that it is too wide.
LONGEST_WORD = 200
#: A text with more letters is seldom one line.
_SHORT = 80
#: For private use: a letter that runs left to right.
_FORMULA_LETTER = "\ue000"


#: Text that a line break may not part: the index of its first character, the white space before it and its embedding
#: level, its runs with their embedding levels, and the room that they need on a line, pixels. A word is made of several
#: runs where it has several styles or directions; a run that is too long to be shaped whole has infinite room. This is
#: a plain tuple, as there is one for every word of every page.
Word = tuple[int, str, int, Sequence[tuple[ShapedRun, int]], float]


def one_line(shaper: Shaper, text: str, style: FontStyle, width: int, space: float) -> list[LineItem] | None:
    """Return the items of a short text, as cells and headings have; ``None`` where there is more to set them.

    That is so when a word was not shaped before, or may run from the right, or when the text does not fit.

    Args:
        shaper: remembers the words.
        text: the text.
        style: its one style.
        width: width of the line, pixels.
        space: width of a space, pixels.
    """
    if len(text) > _SHORT or not text.isascii() or style.formula:
        return None
    known = shaper.remembered(style, "ltr")
    items: list[LineItem] = []
    x, gap, gap_px = 0.0, "", 0.0
    for word in text.split(" "):
        run = known.get(word)
        if run is None or x + gap_px + run.room > width:
            return None
        items.append((run, 0, gap, 0, gap_px))
        x = x + gap_px + run.advance
        gap, gap_px = " ", space
    return items


def shaped_words(
    shaper: Shaper, styled: Sequence[tuple[str, FontStyle]], shown: str, start: int, levels: bytes
) -> Iterator[Word]:
    """Yield the words of a paragraph.

    Args:
        shaper: shapes the words and remembers them.
        styled: the paragraph's text in parts of one style.
        shown: the whole text, its formulas replaced by :func:`without_formulas`.
        start: index of the character to begin with.
        levels: embedding level of every character.

    Raises:
        UserError: when no font has a character.
    """
    text = "".join([part for part, _ in styled])
    parts = _parts(shaper, styled, levels.count(levels[:1]) == len(levels))
    limit, quick, style, known = next(parts)
    gap, gap_level, end = "", 0, start
    for token in TOKENS.findall(shown, start):
        begin, end = end, end + len(token)
        level = levels[begin]
        if token[0] in SPACES:
            gap, gap_level = token, level
            continue
        run = known[level & 1].get(token) if end <= quick else None
        if run:  # most words of most texts
            yield begin, gap, gap_level, ((run, level),), run.room
            gap = ""
            continue
        for segment in segments(token):
            first, stop = begin, begin + len(segment)
            shape = shaper.shape_once if len(segment) <= LONGEST_WORD else _unshaped
            runs: list[tuple[ShapedRun, int]] = []
            while begin < stop:  # for each style and direction
                while begin >= limit:
                    limit, quick, style, known = next(parts)
                level, last = levels[begin], min(stop, limit)
                while levels.count(level, begin, last) < last - begin:
                    last -= 1
                part = text[begin:last]
                runs.append((known[level & 1].get(part) or shape(part, style, direction_of(level)), level))
                begin = last
            yield first, gap, gap_level, runs, sum([run.room for run, _ in runs])
            gap = ""


def _parts(
    shaper: Shaper, styled: Sequence[tuple[str, FontStyle]], has_one_level: bool
) -> Iterator[tuple[int, int, FontStyle, tuple[dict[str, ShapedRun], dict[str, ShapedRun]]]]:
    """Yield for each part of one style the index of the character behind it, and its style.

    And the runs that are remembered in that style, by direction, with the index up to which a whole word may be looked
    up in them: 0 where it may have to be divided first.
    """
    limit = 0
    for part, style in styled:
        limit += len(part)
        known = (shaper.remembered(style, "ltr"), shaper.remembered(style, "rtl"))
        yield limit, limit if has_one_level and not style.formula else 0, style, known


def without_formulas(styled: Sequence[tuple[str, FontStyle]]) -> str:
    """Return a text with letters of no script for its formulas, which are neither broken nor turned."""
    return "".join([_FORMULA_LETTER * len(part) if style.formula else part for part, style in styled])


def direction_of(level: int) -> Direction:
    """Return the direction of text at an embedding level."""
    return "rtl" if level & 1 else "ltr"


def _unshaped(text: str, style: FontStyle, direction: Direction) -> ShapedRun:
    """Return a run that fits on no line and must be broken."""
    return ShapedRun(text, style, math.inf, (), ())


def shape_marker(shaper: Shaper, text: str, style: FontStyle, base: int) -> ShapedRun:
    """Return the marker of a list item; in a paragraph that runs from the right, its dot is left of the number."""
    number = text.rstrip(".)")
    sign = text[len(number) :]
    if not base or not sign or not number:
        return shaper.shape_once(text, style)
    left, right = (shaper.shape_once(part, style) for part in (sign.replace(")", "("), number))
    shift = round(left.advance)
    moved = tuple([GlyphBitmap(mask, dx + shift, dy) for mask, dx, dy in right.bitmaps])
    return ShapedRun(text, style, shift + right.advance, (*left.bitmaps, *moved), left.fonts)


def break_run(shaper: Shaper, text: str, style: FontStyle, direction: Direction, width: int) -> Iterator[ShapedRun]:
    """Yield a run that is wider than a line in parts, one for each line, broken between grapheme clusters.

    Args:
        shaper: shapes the parts, which are not remembered.
        text: the run.
        style: style of the run.
        direction: direction of the run.
        width: width of a line, pixels.

    Raises:
        UserError: when one cluster is wider than a line.
    """
    if style.formula:
        yield fit_formula(text, style, width)
        return
    clusters = breakable_parts(text)
    start, count = 0, 8
    while start < len(clusters):
        count = _clusters_that_fit(shaper, clusters[start:], count, style, direction, width)
        while True:
            run = shaper.shape("".join(clusters[start : start + count]), style, direction)
            if run.room - min(run.left, 0) <= width:
                break
            if count == 1 and len(grapheme_clusters(clusters[start])) > 1:
                clusters[start : start + 1] = grapheme_clusters(clusters[start])
            elif count == 1:
                raise UserError(
                    f"{clusters[start][:20]!r} at {style.size_px:g} pixels is wider than the column of {width} "
                    "pixels; use a smaller font_size_px or margin_px, or a wider page"
                )
            count = max(1, count - 1)
        yield run
        start += count


def _clusters_that_fit(
    shaper: Shaper, clusters: Sequence[str], guess: int, style: FontStyle, direction: Direction, width: int
) -> int:
    """Return how many clusters fit into the width, at least one, looking around a guess."""

    def fits(count: int) -> bool:
        return shaper.measure("".join(clusters[:count]), style, direction) <= width

    low, high = 1, min(max(guess, 2), len(clusters))
    while high < len(clusters) and fits(high):
        low, high = high, min(2 * high, len(clusters))
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return low
