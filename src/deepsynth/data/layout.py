"""From paragraphs to lines, in pixels.

A line is filled greedily. A break falls at white space, or where the script allows one within a run of letters; a
word that is wider than the column is broken between its letters. Nothing is ever dropped but the white space at a
break, and every line remembers what joins it to the next one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from deepsynth.data.bidi import embedding_levels, has_right_to_left
from deepsynth.data.linebreak import segments
from deepsynth.data.longwords import LONGEST_WORD, Span, break_word
from deepsynth.data.mixed import Item, fill_mixed, in_visual_order
from deepsynth.data.shaping import Piece, Shaper, Style
from deepsynth.data.spaces import SPACES, TOKENS, gap_width

_UNBROKEN_PX = 1_000_000


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
        text = "".join([text for text, _ in paragraph.runs])
        width = width_px - paragraph.indent_px
        base = 0
        if has_right_to_left(text):
            levels, base = embedding_levels(text)
            lines = self._mixed_lines(paragraph, text, levels, base, width)
        elif len(paragraph.runs) > 1 or _has_endless_word(text):
            lines = self._mixed_lines(paragraph, text, bytes(len(text)), 0, width)
        else:
            lines = self._plain_lines(paragraph, text, width)
        for number, line in enumerate(lines):
            if number == 0 and paragraph.marker:
                self._set_marker(line, paragraph, base, width)
            yield line

    def natural_width(self, paragraph: Paragraph) -> float:
        """Return the width of a paragraph that is never broken, pixels."""
        lines = self.lines(paragraph, _UNBROKEN_PX)
        return max((x + piece.room for line in lines for piece, x in line.places), default=0.0)

    def longest_word(self, paragraph: Paragraph) -> float:
        """Return the width of the widest piece of a paragraph, pixels."""
        lines = self.lines(paragraph, _UNBROKEN_PX)
        return max((piece.room for line in lines for piece, _ in line.places), default=0.0)

    def metrics(self, style: Style) -> tuple[int, int, float]:
        """Return a style's ascent and descent with its leading, and the width of its space, pixels."""
        ascent, descent, space = _font_metrics(self._shaper, style)
        extra = style.size_px * self._leading - ascent - descent
        return ascent + round(extra / 2), descent + round(extra - extra / 2), space

    def _plain_lines(self, paragraph: Paragraph, text: str, width: int) -> Iterator[SetLine]:
        """Yield the lines of a left-to-right text in one style: the path that almost all text takes."""
        style = paragraph.runs[0][1]
        space = self.metrics(style)[2]
        words = self._shaper.words(style)
        offset = paragraph.indent_px
        places: list[tuple[Piece, float]] = []
        parts: list[str] = []
        gaps: list[int] = []
        x, gap, gap_px = 0.0, "", 0.0
        for token in TOKENS.findall(text):
            pieces = words.get(token)
            if pieces is None:
                if token[0] in SPACES:
                    gap, gap_px = token, gap_width(token, x, space, style.size_px)
                    continue
                pieces = self._shaper.word(token, style)
            for piece in pieces:
                if x + gap_px + piece.room > width:
                    if places:
                        yield self._plain_line(places, parts, gaps, " " if gap else "", style, width, offset)
                        places, parts, gaps, x, gap, gap_px = [], [], [], 0.0, "", 0.0
                    if piece.room > width:
                        for part in break_word(self._shaper, Span(piece.text, style, 0), width):
                            if places:
                                yield self._plain_line(places, parts, gaps, "", style, width, offset)
                            places, parts, gaps, x = [(part, 0.0)], [gap, part.text], [], part.advance
                            gap, gap_px = "", 0.0
                        continue
                    # an indentation never pushes a word out of the column
                    gap_px = max(0.0, min(gap_px, width / 2, width - piece.room))
                if gap:
                    if places:
                        gaps.append(len(places))
                    x += gap_px
                    parts.append(gap)
                    gap, gap_px = "", 0.0
                places.append((piece, x))
                parts.append(piece.text)
                x += piece.advance
        yield self._plain_line(places, parts, gaps, "\n", style, width, offset)

    def _plain_line(
        self,
        places: list[tuple[Piece, float]],
        parts: list[str],
        gaps: list[int],
        joiner: str,
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
            if self._justify and joiner == " " and gaps:
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
        return SetLine("".join(parts), joiner, places, style, ascent, descent)

    def _mixed_lines(self, paragraph: Paragraph, text: str, levels: bytes, base: int, width: int) -> Iterator[SetLine]:
        """Yield the lines of a text in several styles or directions."""
        style = paragraph.runs[0][1]
        ascent, descent, space = self.metrics(style)
        offset = paragraph.indent_px if base == 0 else 0
        for items, joiner in fill_mixed(self._shaper, paragraph.runs, text, levels, space, width):
            stretch = self._stretch(items, width) if joiner == " " else 0.0
            places = in_visual_order(items, stretch, base, width, offset)
            yield SetLine(
                "".join([part for item in items for part in (item.gap, item.piece.text)]),
                joiner,
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

    def _set_marker(self, line: SetLine, paragraph: Paragraph, base: int, width: int) -> None:
        """Set a list item's marker in the indent of its first line."""
        style = paragraph.runs[0][1]
        piece = self._shaper.piece(paragraph.marker, style)
        gap = self.metrics(style)[2]
        x = width + gap if base else max(0.0, paragraph.indent_px - gap - piece.advance)
        line.places.insert(0, (piece, x))
        line.text = f"{paragraph.marker} {line.text}"


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
    ascent, descent = font.getmetrics()
    return ascent, descent, font.getlength(" ")
