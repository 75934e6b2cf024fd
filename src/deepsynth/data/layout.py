"""From paragraphs to lines, in pixels.

A line is filled greedily. A break falls at white space, or where the script allows one within a run of letters; a
word that is wider than the column is broken between its letters. Nothing is ever dropped but the white space at a
break, and every line remembers what joins it to the next one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from deepsynth.data.bidi import embedding_levels, has_right_to_left, visual_order
from deepsynth.data.linebreak import grapheme_clusters, segments
from deepsynth.data.shaping import Direction, Piece, Shaper, Style

#: White space at which a line may be broken; no-break spaces are not among it. Widths are in units of the font size,
#: ``None`` is the width of the font's own space.
SPACES: dict[str, float | None] = {
    " ": None,
    "\t": None,
    "\u1680": None,
    "\u2000": 0.5,
    "\u2001": 1.0,
    "\u2002": 0.5,
    "\u2003": 1.0,
    "\u2004": 1 / 3,
    "\u2005": 0.25,
    "\u2006": 1 / 6,
    "\u2008": 0.25,
    "\u2009": 0.2,
    "\u200a": 0.1,
    "\u205f": 4 / 18,
    "\u3000": 1.0,
}
_TOKENS = re.compile(f"[{''.join(SPACES)}]+|[^{''.join(SPACES)}]+")
_TAB_SPACES = 4
_UNBROKEN_PX = 1_000_000
#: A run of letters longer than this is not shaped whole to find out that it is too wide.
_LONGEST_WORD = 200


@dataclass(frozen=True)
class Paragraph:
    """Text without a line end of its own.

    Attributes:
        runs: text and its style; at least one.
        indent_px: of the whole paragraph, from the side where its lines begin.
        marker: of a list item, set in the indent of the first line.
        space_before_px: above the paragraph, unless it begins a column.
        keep_with_next: do not end a column with it.
    """

    runs: tuple[tuple[str, Style], ...]
    indent_px: int = 0
    marker: str = ""
    space_before_px: int = 0
    keep_with_next: bool = False


@dataclass(slots=True)
class SetLine:
    """A line whose words have their places.

    Attributes:
        text: what it shows, in reading order.
        joiner: what stands between it and the next line in the text: a new line, a space, or nothing within a word.
        places: pieces in reading order, and the pen's x from the left of the column, pixels.
        style: of its first run.
        ascent: room needed above the baseline, pixels.
        descent: room needed below the baseline, pixels.
    """

    text: str
    joiner: str
    places: list[tuple[Piece, float]]
    style: Style
    ascent: int
    descent: int


class _Span(NamedTuple):
    """Letters of one style and direction, not shaped yet."""

    text: str
    style: Style
    level: int

    @property
    def direction(self) -> Direction:
        """Odd levels run from the right."""
        return "rtl" if self.level & 1 else "ltr"


class _Unit(NamedTuple):
    """Spans that no break may part, and the white space before them."""

    gap: str
    gap_level: int
    spans: tuple[_Span, ...]


class _Item(NamedTuple):
    """A piece on a line, and the white space before it."""

    piece: Piece
    level: int
    gap: str
    gap_level: int
    gap_px: float


class Typesetter:
    """Breaks paragraphs into lines.

    Args:
        shaper: for the words.
        leading: distance of baselines, in units of the font size.
        justify: stretch white space until broken lines fill the column.
    """

    def __init__(self, shaper: Shaper, leading: float, justify: bool = False) -> None:
        """Keep the settings of a document."""
        self._shaper = shaper
        self._leading = leading
        self._justify = justify

    def lines(self, paragraph: Paragraph, width_px: int) -> Iterator[SetLine]:
        """Yield the lines of a paragraph in a column; an empty one has one line.

        Raises:
            ValueError: for a character without a font, or one that is wider than the column.
        """
        text = "".join(text for text, _ in paragraph.runs)
        style = paragraph.runs[0][1]
        base = 0
        if has_right_to_left(text):
            levels, base = embedding_levels(text)
            units = self._mixed_units(paragraph, text, levels)
        elif len(paragraph.runs) > 1:
            units = self._mixed_units(paragraph, text, bytes(len(text)))
        else:
            units = self._plain_units(text, style)
        width = width_px - paragraph.indent_px
        offset = paragraph.indent_px if base == 0 else 0
        for number, (items, joiner) in enumerate(self._fill(units, style, width)):
            line = self._set(items, joiner, style, base, width, offset)
            if number == 0 and paragraph.marker:
                self._set_marker(line, paragraph, base, width)
            yield line

    def natural_width(self, paragraph: Paragraph) -> float:
        """Return the width of a paragraph that is never broken, pixels."""
        lines = list(self.lines(paragraph, _UNBROKEN_PX))
        return max(x + max(piece.advance, piece.right) for piece, x in lines[0].places) if lines[0].places else 0.0

    def metrics(self, style: Style) -> tuple[int, int, float]:
        """Return a style's ascent and descent with its leading, and the width of its space, pixels."""
        ascent, descent, space = _font_metrics(self._shaper, style)
        extra = style.size_px * self._leading - ascent - descent
        return ascent + round(extra / 2), descent + round(extra - extra / 2), space

    def _fill(self, units: Iterator[_Unit], style: Style, width: int) -> Iterator[tuple[list[_Item], str]]:
        """Yield the items of every line, and what joins it to the next one."""
        space = self.metrics(style)[2]
        shape = self._shaper.piece
        items: list[_Item] = []
        x = 0.0
        for gap, gap_level, spans in units:
            gap_px = _gap_width(gap, x, space, style.size_px) if gap else 0.0
            if len(spans) == 1 and len(spans[0].text) <= _LONGEST_WORD:
                text, span_style, level = spans[0]
                piece = shape(text, span_style, "rtl" if level & 1 else "ltr")
                pieces = [piece]
                room = max(piece.advance, piece.right)
            else:
                pieces = []
                room = 0.0
                for span in spans:
                    if len(span.text) > _LONGEST_WORD:
                        room = width + 1.0
                        break
                    pieces.append(shape(span.text, span.style, span.direction))
                    room += max(pieces[-1].advance, pieces[-1].right)
            if items and x + gap_px + room > width:
                yield items, " " if gap else ""
                items, x, gap, gap_px = [], 0.0, "", 0.0
            if not items:  # an indentation never pushes a word out of the column
                gap_px = max(0.0, min(gap_px, width / 2, width - room))
            if room <= width:
                for piece, span in zip(pieces, spans, strict=True):
                    items.append(_Item(piece, span.level, gap, gap_level, gap_px))
                    x += gap_px + piece.advance
                    gap, gap_px = "", 0.0
                continue
            for span in spans:
                for piece in self._broken(span, width):
                    if items:
                        yield items, ""
                    items, x = [_Item(piece, span.level, gap, gap_level, 0.0)], piece.advance
                    gap = ""
        yield items, "\n"

    def _broken(self, span: _Span, width: int) -> Iterator[Piece]:
        """Yield the pieces of a span that is wider than a line, each as long as fits."""
        clusters = grapheme_clusters(span.text)
        start, count = 0, 8
        while start < len(clusters):
            count = self._clusters_that_fit(clusters, start, count, span, width)
            piece = self._shaper.shape("".join(clusters[start : start + count]), span.style, span.direction)
            while max(piece.advance, piece.right - min(piece.left, 0)) > width:
                if count == 1:
                    raise ValueError(
                        f"{clusters[start][:20]!r} at {span.style.size_px:g} pixels is wider than the column of "
                        f"{width} pixels; take a smaller font_size_px or margin_px, or a wider page"
                    )
                count -= 1
                piece = self._shaper.shape("".join(clusters[start : start + count]), span.style, span.direction)
            yield piece
            start += count

    def _clusters_that_fit(self, clusters: list[str], start: int, guess: int, span: _Span, width: int) -> int:
        """Return how many clusters fit into the width, at least one, looking around a guess."""

        def fits(count: int) -> bool:
            text = "".join(clusters[start : start + count])
            return self._shaper.measure(text, span.style, span.direction) <= width

        most = len(clusters) - start
        low, high = 1, min(max(guess, 2), most)
        while high < most and fits(high):
            low, high = high, min(2 * high, most)
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if fits(middle) else (low, middle - 1)
        return low

    def _set(self, items: list[_Item], joiner: str, style: Style, base: int, width: int, offset: int) -> SetLine:
        """Give every piece its place."""
        ascent, descent, _ = self.metrics(style)
        if not items:
            return SetLine("", joiner, [], style, ascent, descent)
        text = "".join([part for item in items for part in (item.gap, item.piece.text)])
        used = sum([item.gap_px + item.piece.advance for item in items])
        gaps = sum(1 for item in items[1:] if item.gap)
        stretch = (width - used) / gaps if self._justify and joiner == " " and gaps else 0.0
        places: list[tuple[Piece, float]] = []
        if base == 0 and not any(item.level for item in items):
            x = float(offset - min(items[0].piece.left, 0))
            for item in items:
                x += item.gap_px + (stretch if item.gap and places else 0.0)
                places.append((item.piece, x))
                x += item.piece.advance
        else:
            places = self._in_visual_order(items, stretch, base, width, offset)
        ascent = max(ascent, max([item.piece.top for item in items]))
        descent = max(descent, max([item.piece.bottom for item in items]))
        return SetLine(text, joiner, places, style, ascent, descent)

    def _in_visual_order(
        self, items: list[_Item], stretch: float, base: int, width: int, offset: int
    ) -> list[tuple[Piece, float]]:
        """Return the places of a line with right-to-left text, in reading order."""
        widths: list[float] = []
        levels: list[int] = []
        for number, item in enumerate(items):
            widths += (item.gap_px + (stretch if item.gap and number else 0.0), item.piece.advance)
            # White space at the start of a right-to-left paragraph is on the right, whatever follows it.
            levels += (item.gap_level if number else base, item.level)
        x = width - sum(widths) if base else 0.0
        starts = [0.0] * len(widths)
        for position in visual_order(levels):
            starts[position] = x
            x += widths[position]
        places = [(item.piece, starts[2 * number + 1]) for number, item in enumerate(items)]
        left = min(start + min(piece.left, 0) for piece, start in places)
        right = max(start + max(piece.right, 0) for piece, start in places)
        shift = offset - left if left < 0 else min(0.0, width - right) + offset
        return [(piece, start + shift) for piece, start in places]

    def _set_marker(self, line: SetLine, paragraph: Paragraph, base: int, width: int) -> None:
        """Set a list item's marker in the indent of its first line."""
        style = paragraph.runs[0][1]
        piece = self._shaper.piece(paragraph.marker, style)
        gap = self.metrics(style)[2]
        x = width + gap if base else max(0.0, paragraph.indent_px - gap - piece.advance)
        line.places.insert(0, (piece, x))
        line.text = f"{paragraph.marker} {line.text}"

    def _plain_units(self, text: str, style: Style) -> Iterator[_Unit]:
        """Yield the units of a left-to-right text in one style."""
        gap = ""
        for token in _TOKENS.findall(text):
            if token[0] in SPACES:
                gap = token
            else:
                for segment in _segments(token):
                    yield _Unit(gap, 0, (_Span(segment, style, 0),))
                    gap = ""

    def _mixed_units(self, paragraph: Paragraph, text: str, levels: bytes) -> Iterator[_Unit]:
        """Yield the units of a text in several styles or directions."""
        styles = [style for run, style in paragraph.runs for _ in run]
        gap, gap_level = "", 0
        for match in _TOKENS.finditer(text):
            token, start = match.group(), match.start()
            if token[0] in SPACES:
                gap, gap_level = token, levels[start]
                continue
            for segment in _segments(token):
                spans: list[_Span] = []
                end = start + len(segment)
                while start < end:
                    stop = start + 1
                    while stop < end and levels[stop] == levels[start] and styles[stop] == styles[start]:
                        stop += 1
                    spans.append(_Span(text[start:stop], styles[start], levels[start]))
                    start = stop
                yield _Unit(gap, gap_level, tuple(spans))
                gap = ""


def _gap_width(gap: str, x: float, space: float, size_px: float) -> float:
    """Return the width of white space that begins x pixels into the line; tabs go to the next of the tab stops."""
    if gap == " ":
        return space
    pen = x
    for character in gap:
        if character == "\t":
            stop = _TAB_SPACES * space
            pen = (pen // stop + 1) * stop
        else:
            ems = SPACES[character]
            pen += space if ems is None else ems * size_px
    return pen - x


@lru_cache(maxsize=65_536)
def _cached_segments(token: str) -> tuple[str, ...]:
    return tuple(segments(token))


def _segments(token: str) -> tuple[str, ...]:
    """Return the pieces of a token, remembered unless it is unusually long."""
    return _cached_segments(token) if len(token) <= _LONGEST_WORD else tuple(segments(token))


@lru_cache(maxsize=1024)
def _font_metrics(shaper: Shaper, style: Style) -> tuple[int, int, float]:
    """Return ascent, descent and width of the space of a style's own font, pixels."""
    faces = shaper.library.family(style.family)
    face = faces.get((style.bold, style.italic), faces[False, False])
    font = shaper.font(face, style.size_px, shaped=False)
    ascent, descent = font.getmetrics()
    return ascent, descent, font.getlength(" ")
