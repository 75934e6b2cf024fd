"""From placed lines to pixels, and to the record of what they show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from PIL import Image, ImageDraw

from deepsynth.data.layout import PlacedLine
from deepsynth.types import Line, Page, Word


def draw_page(
    lines: Sequence[PlacedLine],
    size: tuple[int, int],
    ink: tuple[int, int, int],
    paper: tuple[int, int, int],
    number: int,
    stats: Mapping[str, float],
) -> Page:
    """Draw lines on an empty page; text and boxes are taken from the very glyphs that are drawn.

    Args:
        lines: with their places.
        size: width and height of the page, pixels.
        ink: colour of the text.
        paper: colour of the page.
        number: of the page in its document.
        stats: what was counted while the text was laid out.
    """
    image = Image.new("RGB", size, paper)
    # ImageDraw.text ends in this very call; a cached mask skips the shaping and rasterising before it.
    canvas = ImageDraw.Draw(image).draw
    colour = canvas.draw_ink(ink)
    drawn: list[Line] = []
    text: list[str] = []
    for placed in lines:
        words: list[Word] = []
        for piece, x in placed.line.places:
            pen = placed.x + round(x)
            for mask, dx, dy in piece.blits:
                canvas.draw_bitmap((pen + dx, placed.baseline + dy), mask, colour)
            words.append(
                Word(
                    piece.text,
                    (
                        float(pen + piece.left),
                        float(placed.baseline - piece.top),
                        float(pen + piece.right),
                        float(placed.baseline + piece.bottom),
                    ),
                )
            )
        if words:
            boxes = [word.box for word in words]
            box = (
                min(b[0] for b in boxes),
                min(b[1] for b in boxes),
                max(b[2] for b in boxes),
                max(b[3] for b in boxes),
            )
            fonts = dict.fromkeys(font for piece, _ in placed.line.places for font in piece.fonts)
            style = placed.line.style
            drawn.append(Line(placed.line.text, box, tuple(words), ", ".join(fonts), style.size_px))
        text += (placed.line.text, placed.line.joiner)
    return Page(image, "".join(text[:-1]).strip("\n"), tuple(drawn), number, stats)
