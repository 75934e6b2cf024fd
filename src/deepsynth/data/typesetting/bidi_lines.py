"""The places of words on a line: in one style and direction, or in several."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

from deepsynth.data.fonts.glyphs import ShapedRun
from deepsynth.data.text.bidi import visual_order

#: A run on a line: the shaped text and its embedding level, the white space before it with its embedding level and its
#: width, pixels. A plain tuple, as there is one for every word of every page.
LineItem = tuple[ShapedRun, int, str, int, float]


def in_reading_order(
    items: Sequence[LineItem], justified: bool, width: int, offset: int
) -> list[tuple[ShapedRun, float]]:
    """Return the places of a left-to-right line in one style: the first glyph in the column, the gaps stretched."""
    places: list[tuple[ShapedRun, float]] = []
    if not items:
        return places
    offset -= min(items[0][0].left, 0)
    x = end = 0.0
    for run, _, _, _, gap_px in items:
        x = end + gap_px
        places.append((run, x + offset))
        end = x + run.advance
    if not justified:
        return places
    gaps = [bool(gap) for _, _, gap, _, _ in items]
    gaps[0] = False
    stretch = max(0.0, width - x - places[-1][0].room) / max(1, sum(gaps))
    return [(run, x + count * stretch) for (run, x), count in zip(places, accumulate(gaps), strict=True)]


def in_visual_order(
    items: Sequence[LineItem], justified: bool, base: int, width: int, offset: int
) -> list[tuple[ShapedRun, float]]:
    """Return the runs of a line in reading order, each with the pen's x from the left of the column, pixels.

    Args:
        items: the line in reading order.
        justified: stretch every gap but an indentation, until the line fills the column.
        base: embedding level of the paragraph; an odd one is set against the right side.
        width: width of the column without ``offset``, pixels.
        offset: where the line begins in the column, pixels.
    """
    if not items:
        return []
    stretch = _stretch(items, width) if justified else 0.0
    levels = {level for _, level, _, _, _ in items}
    if levels == {base} and {gap_level for _, _, gap, gap_level, _ in items[1:] if gap} <= levels:
        places = _in_one_direction(items, stretch, base, width)
    else:
        places = _in_two_directions(items, stretch, base, width)
    left = min([start + run.left if run.left < 0 else start for run, start in places])
    right = max([start + run.right if run.right > 0 else start for run, start in places])
    shift = offset - left if left < 0 else min(0.0, width - right) + offset
    return [(run, start + shift) for run, start in places] if shift else places


def _stretch(items: Sequence[LineItem], width: int) -> float:
    """Return how much wider every gap of a justified line gets, pixels."""
    gaps = sum([1 for _, _, gap, _, _ in items[1:] if gap])
    if not gaps:
        return 0.0
    return max(0.0, width - sum([gap_px + run.advance for run, _, _, _, gap_px in items])) / gaps


def _in_one_direction(
    items: Sequence[LineItem], stretch: float, base: int, width: int
) -> list[tuple[ShapedRun, float]]:
    """Return the places of a line in the direction of its paragraph, as most lines are."""
    places: list[tuple[ShapedRun, float]] = []
    x = -stretch if items[0][2] else 0.0
    for run, _, gap, _, gap_px in items:
        x += gap_px + stretch if gap else gap_px
        places.append((run, width - x - run.advance if base else x))
        x += run.advance
    return places


def _in_two_directions(
    items: Sequence[LineItem], stretch: float, base: int, width: int
) -> list[tuple[ShapedRun, float]]:
    widths: list[float] = []
    levels: list[int] = []
    for number, (run, level, gap, gap_level, gap_px) in enumerate(items):
        widths += (gap_px + (stretch if gap and number else 0.0), run.advance)
        # White space at the start of a right-to-left line is on the right, whatever follows it; where there is none, it
        # must not come between what belongs together.
        levels += ((gap_level if gap else level) if number else base, level)
    x = width - sum(widths) if base else 0.0
    starts = [0.0] * len(widths)
    for position in visual_order(levels):
        starts[position] = x
        x += widths[position]
    return [(item[0], starts[2 * number + 1]) for number, item in enumerate(items)]
