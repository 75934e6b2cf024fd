"""From paragraphs to lines, in pixels.

A line is filled greedily. A break falls at white space, or where the script allows one within a run of letters; a
word that is wider than the column is broken between its letters. Only the white space at a break is dropped, and every
line remembers what joins it to the next one.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

from deepsynth.data.fonts.files import damaged
from deepsynth.data.fonts.glyphs import FontStyle, ShapedRun
from deepsynth.data.fonts.shaping import Shaper
from deepsynth.data.text.bidi import embedding_levels
from deepsynth.data.text.linebreak import HYPHEN, SOFT_HYPHEN, gap_width
from deepsynth.data.typesetting.bidi_lines import LineItem, in_reading_order, in_visual_order
from deepsynth.data.typesetting.hyphenation import Hyphenation
from deepsynth.data.typesetting.paragraphs import Look, Paragraph, RunStyle, Side, quantize
from deepsynth.data.typesetting.words import (
    Word,
    break_run,
    direction_of,
    one_line,
    shape_marker,
    shaped_words,
    without_formulas,
)

#: Wider than any line.
UNBROKEN_PX = 1_000_000


@dataclass(slots=True)
class LaidOutLine:
    """A line whose words have their places.

    Attributes:
        text: the text that the line shows, in reading order.
        joiner: text between this line and the next one in the source: a new line, a space, or nothing within a word.
        ending: what ends the line on the page: a new line, after the hyphen that is drawn and is not in the text.
        end: index of the paragraph's character that the next line begins with.
        places: runs in reading order, each with the pen's x from the left of the column, pixels.
        style: font and size of the first run.
        ascent: room needed above the baseline, pixels.
        descent: room needed below the baseline, pixels.
    """

    text: str
    joiner: str
    end: int
    places: list[tuple[ShapedRun, float]]
    style: FontStyle
    ascent: int
    descent: int
    ending: str = "\n"


class Typesetter:
    """Breaks paragraphs into lines.

    Args:
        shaper: shapes the words.
        body: font and size of the page's text.
        line_height: distance of baselines, in units of the font size.
        justify: stretch white space until broken lines fill the column.
        hyphenation: divides words at the end of a line; without it they move to the next line whole.
        look: how blocks are set.
    """

    def __init__(
        self,
        shaper: Shaper,
        body: FontStyle,
        line_height: float,
        justify: bool = False,
        hyphenation: Hyphenation | None = None,
        look: Look = Look(),  # noqa: B008  it is frozen
    ) -> None:
        self.look = look
        self.body = body
        self._shaper = shaper
        self._line_height = line_height
        self._justify = justify
        self._hyphenation = hyphenation
        self._styles: dict[RunStyle, FontStyle] = {}
        self._heights: dict[FontStyle, tuple[int, int, float]] = {}

    def style(self, run: RunStyle) -> FontStyle:
        """Return the font and size of a run on this page."""
        found = self._styles.get(run)
        if found is None:
            body = self.body
            size = body.size_px if run.scale == 1 else quantize(body.size_px * run.scale)
            found = FontStyle(run.family or body.family, size, run.bold, run.italic, body.region, run.formula)
            self._styles[run] = found
        return found

    def pixels(self, ems: float) -> int:
        """Return a distance in units of the body's font size as pixels."""
        return round(ems * self.body.size_px)

    def lines(self, paragraph: Paragraph, width_px: int, start: int = 0) -> Iterator[LaidOutLine]:
        """Yield the lines of a paragraph in a column; an empty one has one line.

        Args:
            paragraph: the paragraph.
            width_px: width of the column, pixels.
            start: index of the character to begin with: the ``end`` of a line, when that line is on another page.

        Raises:
            UserError: when no font has a character, or a character is wider than the column.
        """
        return self._lines(paragraph, width_px, start, paragraph.align)

    def _lines(self, paragraph: Paragraph, width_px: int, start: int, align: Side | None) -> Iterator[LaidOutLine]:
        text = paragraph.text
        characters = text if len(paragraph.runs) == 1 else set(text)
        styled = [(part, self._shaper.for_text(characters, self.style(run))) for part, run in paragraph.runs]
        style = styled[0][1]
        indent = self.pixels(paragraph.indent_em)
        width = width_px - indent
        ascent, descent, space = self.metrics(style)
        broken: Iterable[tuple[list[LineItem], str, int]]
        short = one_line(self._shaper, text, style, width, space) if len(styled) == 1 and not start else None
        if short:
            is_plain, base, broken = True, 0, ((short, "\n", len(text)),)
        else:
            shown = without_formulas(styled) if any(style.formula for _, style in styled) else text
            levels, base = embedding_levels(shown)
            is_plain = len(styled) == 1 and levels.count(0) == len(levels)
            words = shaped_words(self._shaper, styled, shown, start, levels)
            broken = self._break(words, text, width, style.size_px, space)
        for number, (items, joiner, end) in enumerate(broken):
            justified = self._justify and joiner != "\n" and not paragraph.heading
            if is_plain:
                places = in_reading_order(items, justified, width, indent)
            else:
                places = in_visual_order(items, justified, base, width, 0 if base else indent)
            top, bottom = ascent, descent
            for run, _ in places:
                if run.top > top:
                    top = run.top
                if run.bottom > bottom:
                    bottom = run.bottom
            shown = "".join([gap + run.text for run, _, gap, _, _ in items])
            line = LaidOutLine(shown, joiner, end, places, style, top, bottom)
            if places and places[-1][0].hyphenated:
                line.ending = f"{HYPHEN}\n"
            if align:
                align_line(line, align, width, indent)
            if number == 0 and start == 0 and paragraph.marker:
                marker = shape_marker(self._shaper, paragraph.marker, style, base)
                room = indent - marker.advance
                x = width + min(space, room) if base else max(0.0, room - space)
                line.places.insert(0, (marker, x))
                line.text = f"{paragraph.marker} {line.text}"
            yield line

    def _break(
        self, words: Iterable[Word], text: str, width: int, size_px: float, space: float
    ) -> Iterator[tuple[list[LineItem], str, int]]:
        """Yield the items of every line, what joins it to the next one, and the index that the next one begins with."""
        items: list[LineItem] = []
        x = 0.0
        for start, gap, gap_level, runs, room in words:
            gap_px = space if gap == " " else gap_width(gap, x, space, size_px) if gap else 0.0
            if x + gap_px + room > width:
                divided = self._divide(runs, width - x - gap_px)
                carried: list[LineItem] = []
                if divided:
                    part, rest = divided
                    start += len(part.text)
                    yield [*items, (part, runs[0][1], gap, gap_level, gap_px)], "", start
                    runs, room = ((rest, runs[0][1]),), rest.room
                elif items:
                    ended, carried = (items, []) if gap else self._at_soft_hyphen(items, width)
                    yield ended, " " if gap or (carried and carried[0][2]) else "", start - _length(carried)
                    carried = _at_start(carried)
                if carried and _width(carried) + room > width:
                    ended, over = self._at_soft_hyphen(carried, width)
                    yield carried if over else ended, "", start
                    carried = []
                if items or divided:
                    items, x, gap, gap_px = carried, _width(carried), "", 0.0
                else:  # an indentation never pushes a word out of the column
                    gap_px = max(0.0, min(gap_px, width / 2, width - room))
            while room > width and (divided := self._divide(runs, width)):
                part, rest = divided
                start += len(part.text)
                yield [(part, runs[0][1], gap, gap_level, 0.0)], "", start
                runs, room, gap = ((rest, runs[0][1]),), rest.room, ""
            if room > width:
                for part, level in self._parts(runs, text[start:], width):
                    if items:
                        yield items, "", start
                    items, x = [(part, level, gap, gap_level, 0.0)], part.advance
                    start += len(part.text)
                    gap = ""
                continue
            for run, level in runs:
                items.append((run, level, gap, gap_level, gap_px))
                x = x + gap_px + run.advance
                gap, gap_px = "", 0.0
        yield items, "\n", len(text)

    def _at_soft_hyphen(self, items: list[LineItem], width: int) -> tuple[list[LineItem], list[LineItem]]:
        """Return a line with the hyphen of the soft hyphen at its end, and what that pushes to the next line.

        A line that ends otherwise stays as it is, and so does one whose column has no room for a hyphen at all.
        """
        kept = list(items)
        while kept and kept[-1][0].text.endswith(SOFT_HYPHEN):
            run, level, gap, gap_level, gap_px = kept.pop()
            text = run.text
            drawn = self._shaper.shape(text[:-1] + HYPHEN, run.style, direction_of(level))
            if _width(kept) + gap_px + drawn.room <= width:
                run = ShapedRun(text, run.style, drawn.advance, drawn.bitmaps, drawn.fonts, hyphenated=True)
                return [*kept, (run, level, gap, gap_level, gap_px)], items[len(kept) + 1 :]
            if gap and kept:
                return kept, items[len(kept) :]
        return items, []

    def _divide(self, runs: Sequence[tuple[ShapedRun, int]], room_px: float) -> tuple[ShapedRun, ShapedRun] | None:
        """Return the part of a word that fits into the line with its hyphen, and the rest."""
        run, level = runs[0]
        if self._hyphenation is None or len(runs) > 1 or level & 1 or math.isinf(run.room) or run.style.formula:
            return None
        return self._hyphenation.divide(self._shaper, run, room_px)

    def _parts(self, runs: Sequence[tuple[ShapedRun, int]], source: str, width: int) -> Iterator[tuple[ShapedRun, int]]:
        """Yield the parts of a word that is wider than a line, with their embedding levels, one for each line."""
        start = 0
        for run, level in runs:
            text = source[start : start + len(run.text)]  # the run may show U+FFFD instead
            for part in break_run(self._shaper, text, run.style, direction_of(level), width):
                yield part, level
            start += len(text)

    def unbroken(self, paragraph: Paragraph) -> tuple[list[LaidOutLine], float, float]:
        """Return a paragraph that is neither broken nor aligned, its width and that of its widest run, pixels."""
        lines = list(self._lines(paragraph, UNBROKEN_PX, 0, None))
        left, right, widest = math.inf, -math.inf, 0.0
        for line in lines:
            for run, x in line.places:
                room = run.room
                left, right, widest = min(left, x), max(right, x + room), max(widest, room)
        return lines, max(0.0, right - left), widest

    def metrics(self, style: FontStyle) -> tuple[int, int, float]:
        """Return a style's ascent and descent at the line height, and the width of its space, pixels."""
        found = self._heights.get(style)
        if found is None:
            ascent, descent, space = _font_metrics(self._shaper, style)
            extra = style.size_px * self._line_height - ascent - descent
            found = ascent + round(extra / 2), descent + round(extra - extra / 2), space
            self._heights[style] = found
        return found


def _width(items: Sequence[LineItem]) -> float:
    """Return how far the pen moves over items, pixels."""
    return sum([gap_px + run.advance for run, _, _, _, gap_px in items])


def _length(items: Sequence[LineItem]) -> int:
    """Return the number of characters of items and of the white space between them."""
    return sum([len(gap) + len(run.text) for run, _, gap, _, _ in items]) - len(items[0][2] if items else "")


def _at_start(items: Sequence[LineItem]) -> list[LineItem]:
    """Return items as a line begins with them: without the white space before them."""
    return [(items[0][0], items[0][1], "", items[0][3], 0.0), *items[1:]] if items else []


def align_line(line: LaidOutLine, side: Side, width: int, offset: int) -> None:
    """Move a line within the column to its side, or to the middle."""
    if not line.places:
        return
    left = min([x + min(run.left, 0) for run, x in line.places])
    right = max([x + max(run.room, run.right) for run, x in line.places])
    share = {"left": 0.0, "center": 0.5, "right": 1.0}[side]
    shift = offset + share * max(0.0, width - (right - left)) - left
    line.places = [(run, x + shift) for run, x in line.places]


@lru_cache(maxsize=1024)
def _font_metrics(shaper: Shaper, style: FontStyle) -> tuple[int, int, float]:
    """Return ascent, descent and width of the space of a style's own font, pixels."""
    faces = shaper.library.family(style.family)
    face = faces.get((style.bold, style.italic), faces[False, False])
    try:
        font = shaper.font(face, style.size_px, shaped=False)
        return *font.getmetrics(), font.getlength(" ")
    except OSError as error:
        raise damaged(face.path, error) from error
