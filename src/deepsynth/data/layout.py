"""From paragraphs to lines to pages, in pixels.

A line is filled greedily. A break falls at white space, or where the script allows one within a run of letters; a
word that is wider than the column is broken between its letters. Nothing is ever dropped but the white space at a
break, and every line remembers what joins it to the next one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from deepsynth.data.shaping import Piece, Shaper, Style

#: White space that a line may be broken at; no-break spaces are not among it.
SPACES = " \t\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2008\u2009\u200a\u205f\u3000"
_TOKENS = re.compile(f"[{SPACES}]+|[^{SPACES}]+")
_TAB_SPACES = 4


@dataclass(frozen=True)
class Paragraph:
    """Text without a line end of its own, and how it is set.

    Attributes:
        runs: text and its style.
    """

    runs: tuple[tuple[str, Style], ...]


@dataclass(slots=True)
class SetLine:
    """A line whose words have their places.

    Attributes:
        text: what it shows, in reading order.
        joiner: what stands between it and the next line in the text: a new line, a space, or nothing in a word.
        places: pieces and the pen's x from the left of the column, pixels.
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


@dataclass(slots=True)
class PlacedLine:
    """A line on a page: x of its column and y of its baseline, pixels."""

    line: SetLine
    x: int
    baseline: int


@dataclass(frozen=True)
class Frame:
    """The columns of a page, pixels: left edges, their width, top and bottom."""

    lefts: tuple[int, ...]
    width: int
    top: int
    bottom: int


@dataclass(slots=True)
class Typesetter:
    """Breaks paragraphs into lines.

    Attributes:
        shaper: for the words.
        width: of a column, pixels.
        leading: distance of baselines, in units of the font size.
    """

    shaper: Shaper
    width: int
    leading: float
    _metrics: dict[Style, tuple[int, int, float]] = field(default_factory=dict)

    def lines(self, paragraphs: Sequence[Paragraph]) -> Iterator[SetLine]:
        """Yield the lines of the paragraphs, each of which has at least one."""
        for paragraph in paragraphs:
            yield from self._fill(paragraph)

    def _fill(self, paragraph: Paragraph) -> Iterator[SetLine]:
        style = paragraph.runs[0][1]
        ascent, descent, space = self._style_metrics(style)
        places: list[tuple[Piece, float]] = []
        parts: list[str] = []
        x = 0.0
        gap_text, gap = "", 0.0
        for text, style in paragraph.runs:
            for token in _TOKENS.findall(text):
                if token[0] in SPACES:
                    gap_text, gap = token, len(token) * space
                    continue
                piece = self.shaper.piece(token, style)
                if places and x + gap + piece.right > self.width:
                    yield self._set(parts, " ", places, style, ascent, descent)
                    places, parts, x, gap_text, gap = [], [], 0.0, "", 0.0
                x += gap
                parts.append(gap_text)
                parts.append(piece.text)
                places.append((piece, x))
                x += piece.advance
                gap_text, gap = "", 0.0
        yield self._set(parts, "\n", places, style, ascent, descent)

    def _set(
        self, parts: list[str], joiner: str, places: list[tuple[Piece, float]], style: Style, ascent: int, descent: int
    ) -> SetLine:
        ascent = max([ascent, *[piece.top for piece, _ in places]])
        descent = max([descent, *[piece.bottom for piece, _ in places]])
        return SetLine("".join(parts), joiner, places, style, ascent, descent)

    def _style_metrics(self, style: Style) -> tuple[int, int, float]:
        if style not in self._metrics:
            face = self.shaper.library.family(style.family)[False, False]
            font = self.shaper.font(face, style.size_px, shaped=False)
            ascent, descent = font.getmetrics()
            extra = style.size_px * self.leading - ascent - descent
            self._metrics[style] = (ascent + round(extra / 2), descent + round(extra / 2), font.getlength(" "))
        return self._metrics[style]


def paginate(lines: Iterator[SetLine], frame: Frame) -> list[list[PlacedLine]]:
    """Put lines into columns and pages.

    Raises:
        ValueError: when a line is taller than a page.
    """
    pages: list[list[PlacedLine]] = [[]]
    column, y = 0, frame.top
    for line in lines:
        if y + line.ascent + line.descent > frame.bottom:
            column, y = column + 1, frame.top
            if column == len(frame.lefts):
                pages.append([])
                column = 0
            if y + line.ascent + line.descent > frame.bottom:
                raise ValueError(
                    f"a line is {line.ascent + line.descent} pixels high, more than the {frame.bottom - frame.top} "
                    "pixels between the margins; take a smaller font_size_px or margin_px, or a higher page"
                )
        pages[-1].append(PlacedLine(line, frame.lefts[column], y + line.ascent))
        y += line.ascent + line.descent
    return pages
