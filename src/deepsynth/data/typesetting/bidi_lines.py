"""Lines of text in several styles or directions: bold words, right-to-left scripts, endless words."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from deepsynth.data.fonts.glyphs import Piece, Style
from deepsynth.data.fonts.shaping import Shaper
from deepsynth.data.text.bidi import visual_order
from deepsynth.data.text.linebreak import segments
from deepsynth.data.text.spaces import SPACES, TOKENS, gap_width
from deepsynth.data.typesetting.hyphenation import Hyphenation
from deepsynth.data.typesetting.long_words import LONGEST_WORD, Span, break_word


class Item(NamedTuple):
    """A piece on a line, and the white space before it, with their embedding levels."""

    piece: Piece
    level: int
    gap: str
    gap_level: int
    gap_px: float


def fill_mixed(
    shaper: Shaper,
    runs: Sequence[tuple[str, Style]],
    text: str,
    begin: int,
    levels: bytes,
    space: float,
    width: int,
    hyphenation: Hyphenation | None = None,
) -> Iterator[tuple[list[Item], str, int]]:
    """Yield the items of every line in reading order, what joins it to the next, and which character that begins with.

    Args:
        shaper: for the words.
        runs: text and its style.
        text: of all runs.
        begin: number of the character to begin with.
        levels: embedding level of every character.
        space: width of a space, pixels.
        width: of the column, pixels.
        hyphenation: divides left-to-right words at the end of a line.

    Raises:
        ValueError: for a character without a font, or one that is wider than the column.
    """
    items: list[Item] = []
    x = 0.0
    end = begin
    size_px = runs[0][1].size_px
    known = (shaper.pieces(runs[0][1], "ltr"), shaper.pieces(runs[0][1], "rtl"))
    for gap, gap_level, unit, level in _units(runs, text, begin, levels):
        end += len(gap)
        gap_px = space if gap == " " else gap_width(gap, x, space, size_px) if gap else 0.0
        if isinstance(unit, str):
            whole = known[level & 1].get(unit)
            if whole and items and x + gap_px + whole.room <= width:  # the path that most words take
                items.append(Item(whole, level, gap, gap_level, gap_px))
                x += gap_px + whole.advance
                end += len(whole.text)
                continue
            spans = [Span(unit, runs[0][1], level)]
        else:
            spans = unit
        pieces, room = _pieces(shaper, spans, width)
        if hyphenation and len(pieces) == 1 and x + gap_px + room > width and spans[0].level % 2 == 0:
            divided = hyphenation.divide(shaper, pieces[0].text, spans[0].style, width - x - gap_px)
            if divided and not pieces[0].replaced:
                part, rest = divided
                end += len(part.text)
                yield [*items, Item(part, spans[0].level, gap, gap_level, gap_px)], "", end
                items, x, gap, gap_px = [], 0.0, "", 0.0
                spans = [spans[0]._replace(text=rest)]
                pieces, room = _pieces(shaper, spans, width)
        if items and x + gap_px + room > width:
            yield items, " " if gap else "", end
            items, x, gap, gap_px = [], 0.0, "", 0.0
        if not items:  # an indentation never pushes a word out of the column
            gap_px = max(0.0, min(gap_px, width / 2, width - room))
        if room <= width:
            for piece, span in zip(pieces, spans, strict=True):
                items.append(Item(piece, span.level, gap, gap_level, gap_px))
                x += gap_px + piece.advance
                end += len(piece.text)
                gap, gap_px = "", 0.0
            continue
        for span in spans:
            for piece in break_word(shaper, span, width):
                if items:
                    yield items, "", end
                items, x = [Item(piece, span.level, gap, gap_level, 0.0)], piece.advance
                end += len(piece.text)
                gap = ""
    yield items, "\n", end


def _pieces(shaper: Shaper, spans: list[Span], width: int) -> tuple[list[Piece], float]:
    """Return a unit's pieces and the room that they take; none, and more than a line, when it is too long to shape."""
    if len(spans) == 1 and len(spans[0].text) <= LONGEST_WORD:
        text, style, level = spans[0]
        piece = shaper.piece(text, style, "rtl" if level & 1 else "ltr")
        return [piece], piece.room
    if sum([len(span.text) for span in spans]) <= LONGEST_WORD:
        pieces = [shaper.piece(span.text, span.style, span.direction) for span in spans]
        return pieces, sum([piece.room for piece in pieces])
    return [], width + 1.0


def in_visual_order(
    items: Sequence[Item], stretch: float, base: int, width: int, offset: int
) -> list[tuple[Piece, float]]:
    """Return the items' places, in reading order.

    Args:
        items: of a line, in reading order.
        stretch: added to every gap but an indentation, pixels.
        base: embedding level of the paragraph; an odd one is set against the right side.
        width: of the column, pixels.
        offset: of the column's left side, pixels.
    """
    if not items:
        return []
    levels = {item.level for item in items}
    if levels == {base} and {gap_level for _, _, gap, gap_level, _ in items[1:] if gap} <= levels:
        places = _in_one_direction(items, stretch, base, width)
    else:
        places = _in_two_directions(items, stretch, base, width)
    left = min([start + min(piece.left, 0) for piece, start in places])
    right = max([start + max(piece.right, 0) for piece, start in places])
    shift = offset - left if left < 0 else min(0.0, width - right) + offset
    return [(piece, start + shift) for piece, start in places]


def _in_one_direction(items: Sequence[Item], stretch: float, base: int, width: int) -> list[tuple[Piece, float]]:
    """Return the places of a line in the direction of its paragraph, as most lines are."""
    places: list[tuple[Piece, float]] = []
    x = -stretch if items[0].gap else 0.0
    for piece, _, gap, _, gap_px in items:
        x += gap_px + stretch if gap else gap_px
        places.append((piece, width - x - piece.advance if base else x))
        x += piece.advance
    return places


def _in_two_directions(items: Sequence[Item], stretch: float, base: int, width: int) -> list[tuple[Piece, float]]:
    widths: list[float] = []
    levels: list[int] = []
    for number, item in enumerate(items):
        widths += (item.gap_px + (stretch if item.gap and number else 0.0), item.piece.advance)
        # White space at the start of a right-to-left line is on the right, whatever follows it; where there is none, it
        # must not come between what belongs together.
        levels += ((item.gap_level if item.gap else item.level) if number else base, item.level)
    x = width - sum(widths) if base else 0.0
    starts = [0.0] * len(widths)
    for position in visual_order(levels):
        starts[position] = x
        x += widths[position]
    return [(item.piece, starts[2 * number + 1]) for number, item in enumerate(items)]


def _units(
    runs: Sequence[tuple[str, Style]], text: str, begin: int, levels: bytes
) -> Iterator[tuple[str, int, str | list[Span], int]]:
    """Yield what no break may part: white space, its level, then letters of one level or several spans, and a level."""
    styles = [style for run, style in runs for _ in run] if len(runs) > 1 else None
    only = runs[0][1]
    gap, gap_level, end = "", 0, begin
    for token in TOKENS.findall(text, begin):
        start, end = end, end + len(token)
        if token[0] in SPACES:
            gap, gap_level = token, levels[start]
            continue
        for segment in segments(token):
            stop = start + len(segment)
            level = levels[start]
            if styles is None and levels.count(level, start, stop) == stop - start:
                yield gap, gap_level, segment, level
            else:
                yield gap, gap_level, _spans(text, start, stop, styles, only, levels), level
            gap, start = "", stop


def _spans(text: str, start: int, end: int, styles: list[Style] | None, only: Style, levels: bytes) -> list[Span]:
    spans: list[Span] = []
    while start < end:
        stop = start + 1
        style = styles[start] if styles else only
        while stop < end and levels[stop] == levels[start] and (not styles or styles[stop] is style):
            stop += 1
        spans.append(Span(text[start:stop], style, levels[start]))
        start = stop
    return spans
