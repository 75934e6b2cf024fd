"""From placed lines to pixels, and to the record of what they show."""

from __future__ import annotations

from collections.abc import Mapping

from PIL import Image, ImageDraw

from deepsynth.data.rendering.page_geometry import Colour
from deepsynth.data.typesetting.pages import PlacedLine, Sheet, sheet_text
from deepsynth.types import Box, Line, Page, Word


def draw_page(
    sheet: Sheet, size: tuple[int, int], ink: Colour, paper: Colour, number: int, stats: Mapping[str, float]
) -> Page:
    """Draw one page; text and boxes come from the very glyphs that are drawn.

    Args:
        sheet: lines with their places.
        size: width and height of the page, pixels.
        ink: colour of the text.
        paper: colour of the page.
        number: of the page in its document.
        stats: what was counted while the text was laid out.

    Raises:
        ValueError: when ink would fall outside the page.
    """
    image = Image.new("RGB", size, paper)
    canvas = ImageDraw.Draw(image)
    for box in sheet.rules:
        canvas.rectangle((box[0], box[1], box[2] - 1, box[3] - 1), fill=ink)
    # ImageDraw.text ends in this very call; a cached mask skips the shaping and rasterising before it.
    paint = canvas.draw.draw_bitmap
    colour = canvas.draw.draw_ink(ink)
    lines: list[Line] = []
    for placed in sheet.lines:
        if not placed.line.places:
            continue
        line = _record(placed)
        if line.box[0] < 0 or line.box[2] > size[0]:  # marks that hang over the ends of a line, without a margin
            placed.x += int(max(-line.box[0], 0) or size[0] - line.box[2])
            line = _record(placed)
        left, top, right, bottom = line.box
        if left < 0 or top < 0 or right > size[0] or bottom > size[1]:
            raise ValueError(
                f"the line {line.text[:30]!r} would reach {line.box} on a page of {size[0]} x {size[1]} pixels; take a "
                "larger margin_px"
            )
        baseline = placed.baseline
        for piece, x in placed.line.places:
            pen = placed.x + round(x)
            for mask, dx, dy in piece.blits:
                paint((pen + dx, baseline + dy), mask, colour)
        lines.append(line)
    return Page(image, sheet_text(sheet), tuple(lines), number, stats)


def _record(placed: PlacedLine) -> Line:
    """Return the line with the boxes of its ink; a word without ink has an empty box at its place."""
    words: list[Word] = []
    boxes: list[Box] = []
    baseline = placed.baseline
    for piece, x in placed.line.places:
        pen = placed.x + round(x)
        box = (pen + piece.left, baseline - piece.top, pen + piece.right, baseline + piece.bottom)
        boxes.append(box)
        words.append(Word(piece.text, box))
    lefts, tops, rights, bottoms = zip(*boxes, strict=True)
    fonts = dict.fromkeys([font for piece, _ in placed.line.places for font in piece.fonts])
    whole = (min(lefts), min(tops), max(rights), max(bottoms))
    return Line(placed.line.text, whole, tuple(words), ", ".join(fonts), placed.line.style.size_px)
