"""From paragraphs to lines, in pixels.

A line is filled greedily. A break falls at white space, or where the script allows one within a run of letters; a
word that is wider than the column is broken between its letters. Nothing is ever dropped but the white space at a
break, and every line remembers what joins it to the next one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from deepsynth.data.fonts.glyphs import Piece, Style
from deepsynth.data.fonts.shaping import Shaper
from deepsynth.data.text.bidi import embedding_levels, has_right_to_left
from deepsynth.data.text.linebreak import segments
from deepsynth.data.text.spaces import SPACES, TOKENS, gap_width
from deepsynth.data.typesetting.bidi_lines import Item, fill_mixed, in_visual_order
from deepsynth.data.typesetting.hyphenation import Hyphenation
from deepsynth.data.typesetting.long_words import LONGEST_WORD, Span, break_word
from deepsynth.data.typesetting.paragraphs import Paragraph, RunStyle, quantise

_UNBROKEN_PX = 1_000_000


@dataclass(slots=True)
class SetLine:
    """A line whose words have their places.

    Attributes:
        text: what it shows, in reading order.
        joiner: what stands between it and the next line in the text: a new line, a space, or nothing within a word.
        end: number of the paragraph's character that the next line begins with.
        places: pieces in reading order, and the pen's x from the left of the column, pixels.
        style: of its first run.
        ascent: room needed above the baseline, pixels.
        descent: room needed below the baseline, pixels.
    """

    text: str
    joiner: str
    end: int
    places: list[tuple[Piece, float]]
    style: Style
    ascent: int
    descent: int


class Typesetter:
    """Breaks paragraphs into lines.

    Args:
        shaper: for the words.
        body: font and size of the page's text.
        leading: distance of baselines, in units of the font size.
        justify: stretch white space until broken lines fill the column.
        hyphenation: divides words at the end of a line; without it they are moved to the next one whole.
    """

    def __init__(
        self,
        shaper: Shaper,
        body: Style,
        leading: float,
        justify: bool = False,
        hyphenation: Hyphenation | None = None,
    ) -> None:
        """Keep the settings of a page."""
        self.body = body
        self._shaper = shaper
        self._leading = leading
        self._justify = justify
        self._hyphenation = hyphenation

    def style(self, run: RunStyle) -> Style:
        """Return the font and size of a run on this page."""
        body = self.body
        size = body.size_px if run.scale == 1 else quantise(body.size_px * run.scale)
        return Style(run.family or body.family, size, run.bold, run.italic, body.region)

    def pixels(self, ems: float) -> int:
        """Return a distance in units of the body's font size as pixels."""
        return round(ems * self.body.size_px)

    def lines(self, paragraph: Paragraph, width_px: int, start: int = 0) -> Iterator[SetLine]:
        """Yield the lines of a paragraph in a column; an empty one has one line.

        Args:
            paragraph: to be set.
            width_px: of the column.
            start: number of the character to begin with: the ``end`` of a line, when the others are elsewhere.

        Raises:
            ValueError: for a character without a font, or one that is wider than the column.
        """
        text = paragraph.text
        indent = self.pixels(paragraph.indent_em)
        width = width_px - indent
        runs = [(part, self.style(run)) for part, run in paragraph.runs]
        base = 0
        if has_right_to_left(text):
            levels, base = embedding_levels(text)
            lines = self._mixed_lines(runs, text, start, levels, base, width, indent)
        elif len(runs) > 1 or _has_endless_word(text):
            lines = self._mixed_lines(runs, text, start, bytes(len(text)), base, width, indent)
        else:
            lines = self._plain_lines(text, start, runs[0][1], width, indent)
        for number, line in enumerate(lines):
            if paragraph.align:
                _align(line, paragraph.align, width, indent)
            if number == 0 and start == 0 and paragraph.marker:
                self._set_marker(line, paragraph.marker, runs[0][1], base, width, indent)
            yield line

    def natural_width(self, paragraph: Paragraph) -> float:
        """Return the width of a paragraph that is never broken, pixels."""
        lines = self.lines(paragraph, _UNBROKEN_PX)
        places = [place for line in lines for place in line.places]
        left = min([x for _, x in places], default=0.0)
        return max([x + piece.room - left for piece, x in places], default=0.0)

    def longest_word(self, paragraph: Paragraph) -> float:
        """Return the width of the widest piece of a paragraph, pixels."""
        lines = self.lines(paragraph, _UNBROKEN_PX)
        return max((piece.room for line in lines for piece, _ in line.places), default=0.0)

    def metrics(self, style: Style) -> tuple[int, int, float]:
        """Return a style's ascent and descent with its leading, and the width of its space, pixels."""
        ascent, descent, space = _font_metrics(self._shaper, style)
        extra = style.size_px * self._leading - ascent - descent
        return ascent + round(extra / 2), descent + round(extra - extra / 2), space

    def _plain_lines(self, text: str, start: int, style: Style, width: int, offset: int) -> Iterator[SetLine]:
        """Yield the lines of a left-to-right text in one style: the path that almost all text takes."""
        space = self.metrics(style)[2]
        words = self._shaper.words(style)
        end = start
        places: list[tuple[Piece, float]] = []
        parts: list[str] = []
        gaps: list[int] = []
        x, gap, gap_px = 0.0, "", 0.0
        for token in TOKENS.findall(text, start):
            pieces = words.get(token)
            if pieces is None:
                if token[0] in SPACES:
                    gap, gap_px = token, gap_width(token, x, space, style.size_px)
                    end += len(token)
                    continue
                pieces = self._shaper.word(token, style)
            for whole in pieces:
                piece: Piece | None = whole
                while piece and x + gap_px + piece.room > width:
                    divided = self._divide(piece, style, width - x - gap_px) if piece is whole else None
                    if divided:
                        part, rest = divided
                        places.append((part, x + gap_px))
                        parts += (gap, part.text)
                        if gap and len(places) > 1:
                            gaps.append(len(places) - 1)
                        end += len(part.text)
                        yield self._plain_line(places, parts, gaps, "", end, style, width, offset)
                        piece = self._shaper.piece(rest, style)
                    elif places:
                        yield self._plain_line(places, parts, gaps, " " if gap else "", end, style, width, offset)
                    elif piece.room > width:
                        source = Span(text[end : end + len(piece.text)], style, 0)  # the piece may have U+FFFD instead
                        for part in break_word(self._shaper, source, width):
                            if places:
                                yield self._plain_line(places, parts, gaps, "", end, style, width, offset)
                            places, parts, gaps, x = [(part, 0.0)], [gap, part.text], [], part.advance
                            end += len(part.text)
                            gap, gap_px = "", 0.0
                        piece = None
                        break
                    else:  # an indentation never pushes a word out of the column
                        gap_px = max(0.0, min(gap_px, width / 2, width - piece.room))
                        break
                    places, parts, gaps, x, gap, gap_px = [], [], [], 0.0, "", 0.0
                if piece is None:
                    continue
                if gap:
                    if places:
                        gaps.append(len(places))
                    x += gap_px
                    parts.append(gap)
                    gap, gap_px = "", 0.0
                places.append((piece, x))
                parts.append(piece.text)
                end += len(piece.text)
                x += piece.advance
        yield self._plain_line(places, parts, gaps, "\n", end, style, width, offset)

    def _divide(self, piece: Piece, style: Style, room_px: float) -> tuple[Piece, str] | None:
        """Return the part of a word that fits into the line with its hyphen, and the rest."""
        if self._hyphenation is None or piece.replaced:
            return None
        return self._hyphenation.divide(self._shaper, piece.text, style, room_px)

    def _plain_line(
        self,
        places: list[tuple[Piece, float]],
        parts: list[str],
        gaps: list[int],
        joiner: str,
        end: int,
        style: Style,
        width: int,
        offset: int,
    ) -> SetLine:
        """Return a line, moved so that its first ink is in the column, and stretched when it is justified."""
        ascent, descent, _ = self.metrics(style)
        if places:
            ascent = max(ascent, max([piece.top for piece, _ in places]))
            descent = max(descent, max([piece.bottom for piece, _ in places]))
            offset -= min(places[0][0].left, 0)
            if self._justify and joiner != "\n" and gaps:
                last, x = places[-1]
                stretch = max(0.0, width - x - last.room) / len(gaps)
                before = [0] * len(places)
                for gap in gaps:
                    before[gap] = 1
                count = 0
                for number, (piece, x) in enumerate(places):
                    count += before[number]
                    places[number] = (piece, x + offset + count * stretch)
            elif offset:
                places = [(piece, x + offset) for piece, x in places]
        return SetLine("".join(parts), joiner, end, places, style, ascent, descent)

    def _mixed_lines(
        self,
        runs: Sequence[tuple[str, Style]],
        text: str,
        start: int,
        levels: bytes,
        base: int,
        width: int,
        indent: int,
    ) -> Iterator[SetLine]:
        """Yield the lines of a text in several styles or directions."""
        style = runs[0][1]
        ascent, descent, space = self.metrics(style)
        offset = indent if base == 0 else 0
        for items, joiner, end in fill_mixed(self._shaper, runs, text, start, levels, space, width, self._hyphenation):
            stretch = self._stretch(items, width) if joiner != "\n" else 0.0
            places = in_visual_order(items, stretch, base, width, offset)
            yield SetLine(
                "".join([part for item in items for part in (item.gap, item.piece.text)]),
                joiner,
                end,
                places,
                style,
                max([ascent, *[item.piece.top for item in items]]),
                max([descent, *[item.piece.bottom for item in items]]),
            )

    def _stretch(self, items: list[Item], width: int) -> float:
        """Return how much wider every gap of a line gets when it is justified, pixels."""
        gaps = sum(1 for item in items[1:] if item.gap)
        if not self._justify or not gaps:
            return 0.0
        return max(0.0, width - sum(item.gap_px + item.piece.advance for item in items)) / gaps

    def _set_marker(self, line: SetLine, marker: str, style: Style, base: int, width: int, indent: int) -> None:
        """Set a list item's marker in the indent of its first line."""
        piece = self._shaper.piece(marker, style)
        gap = self.metrics(style)[2]
        x = width + gap if base else max(0.0, indent - gap - piece.advance)
        line.places.insert(0, (piece, x))
        line.text = f"{marker} {line.text}"


def _align(line: SetLine, side: Literal["left", "center", "right"], width: int, offset: int) -> None:
    """Move a line within the column to its side, or to the middle."""
    if not line.places:
        return
    left = min([x + min(piece.left, 0) for piece, x in line.places])
    right = max([x + max(piece.room, piece.right) for piece, x in line.places])
    share = {"left": 0.0, "center": 0.5, "right": 1.0}[side]
    shift = offset + share * max(0.0, width - (right - left)) - left
    line.places = [(piece, x + shift) for piece, x in line.places]


def _has_endless_word(text: str) -> bool:
    """Return whether a run of letters is too long to be shaped whole."""
    if len(text) <= LONGEST_WORD:
        return False
    tokens = [token for token in text.split() if len(token) > LONGEST_WORD]
    return any(len(segment) > LONGEST_WORD for token in tokens for segment in segments(token))


@lru_cache(maxsize=1024)
def _font_metrics(shaper: Shaper, style: Style) -> tuple[int, int, float]:
    """Return ascent, descent and width of the space of a style's own font, pixels."""
    faces = shaper.library.family(style.family)
    face = faces.get((style.bold, style.italic), faces[False, False])
    font = shaper.font(face, style.size_px, shaped=False)
    return *font.getmetrics(), font.getlength(" ")
