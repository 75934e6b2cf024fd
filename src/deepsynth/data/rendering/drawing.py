"""From positioned lines to pixels, and to the record of what they show."""

from __future__ import annotations

from dataclasses import replace

from PIL import Image

from deepsynth.compat.pillow import draw_masks, fill_boxes
from deepsynth.data.fonts.glyphs import GlyphBitmap
from deepsynth.data.rendering.page_geometry import Color
from deepsynth.data.typesetting.pages import PageLayout, PositionedLine
from deepsynth.errors import UserError
from deepsynth.types import Box, Line, Word

#: The x and y of the pen, pixels, and what is drawn there.
_Drawn = tuple[int, int, tuple[GlyphBitmap, ...]]


def draw_page(
    layout: PageLayout, size: tuple[int, int], text_color: Color, background_color: Color
) -> tuple[Image.Image, tuple[Line, ...]]:
    """Draw one page; the boxes of its lines and words come from the very glyphs that are drawn.

    Args:
        layout: lines with their positions.
        size: width and height of the page, pixels.
        text_color: color of the text and of rules.
        background_color: color of the page.

    Returns:
        The page, and its lines in reading order; an empty one only adds to the ``ending`` of the line before it.

    Raises:
        UserError: when a line does not fit on the page.
    """
    image = Image.new("RGB", size, background_color)
    light = tuple([round(0.1 * ink + 0.9 * paper) for ink, paper in zip(text_color, background_color, strict=True)])
    # No rule lies under the light ground of another row.
    fill_boxes(image, [box for row in layout.rows for box in row.fills], light)
    fill_boxes(image, [box for row in layout.rows for box in row.rules], text_color)
    for row in layout.rows:
        for picture, x, y in row.pictures:
            image.paste(picture, (x, y))
    glyphs: list[_Drawn] = []
    lines: list[Line] = []
    for positioned in layout.lines:
        if not positioned.line.places:
            if lines:
                lines[-1] = replace(lines[-1], ending=lines[-1].ending + positioned.line.ending)
            continue
        line, drawn = _record(positioned)
        if line.box[0] < 0 or line.box[2] > size[0]:  # marks that hang over the ends of a line, without a margin
            positioned.x += int(max(-line.box[0], 0) or size[0] - line.box[2])
            line, drawn = _record(positioned)
        left, top, right, bottom = line.box
        if left < 0 or top < 0 or right > size[0] or bottom > size[1]:
            raise UserError(
                f"the line {line.text[:30]!r} would reach {line.box} on a page of {size[0]} x {size[1]} pixels; use a "
                "larger margin_px"
            )
        glyphs += drawn
        lines.append(line)
    draw_masks(image, glyphs, text_color)
    return image, tuple(lines)


def _record(positioned: PositionedLine) -> tuple[Line, list[_Drawn]]:
    """Return the line with the boxes of its glyphs, and its words as they are drawn.

    A word without glyphs has an empty box at its place.
    """
    shown, left, baseline = positioned.line, positioned.x, positioned.baseline
    drawn: list[_Drawn] = []
    boxes: list[Box] = []
    words: list[Word] = []
    for run, x in shown.places:
        pen = left + round(x)
        box = (pen + run.left, baseline - run.top, pen + run.right, baseline + run.bottom)
        drawn.append((pen, baseline, run.bitmaps))
        boxes.append(box)
        words.append(Word(run.text, box))
    whole, fonts = boxes[0], shown.places[0][0].fonts
    if len(boxes) > 1:
        lefts, tops, rights, bottoms = zip(*boxes, strict=True)
        whole = (min(lefts), min(tops), max(rights), max(bottoms))
        fonts = tuple(dict.fromkeys([font for run, _ in shown.places for font in run.fonts]))
    return Line(shown.text, whole, tuple(words), ", ".join(fonts), shown.style.size_px, shown.ending), drawn
