"""Private parts of Pillow that the package relies on, and why no public one serves."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from PIL import Image, ImageDraw


def draw_masks(
    image: Image.Image, runs: Iterable[tuple[int, int, Sequence[tuple[Any, int, int]]]], color: tuple[int, int, int]
) -> None:
    """Blend a color into an image through glyph masks.

    ``ImageDraw.text`` ends in this very call. The public ``ImageDraw.bitmap`` takes a whole image where
    ``FreeTypeFont.getmask2`` gives a mask, and looks its color up at every call, which takes longer than to draw a
    glyph.

    Args:
        image: RGB.
        runs: x and y of the pen, and the masks around it, each with its offset from the pen, pixels.
        color: red, green and blue.
    """
    canvas = ImageDraw.Draw(image).draw
    ink = canvas.draw_ink(color)
    for x, y, masks in runs:
        for mask, dx, dy in masks:
            canvas.draw_bitmap((x + dx, y + dy), mask, ink)


def fill_boxes(image: Image.Image, boxes: Sequence[tuple[float, float, float, float]], color: tuple[int, ...]) -> None:
    """Fill boxes of an image with a color.

    ``ImageDraw.rectangle`` ends in this very call, and looks its color up for every box; the grid of a table has
    hundreds.

    Args:
        image: RGB.
        boxes: left, top, and the right and bottom edges that are not filled themselves, pixels.
        color: red, green and blue.
    """
    if not boxes:
        return
    canvas = ImageDraw.Draw(image).draw
    ink = canvas.draw_ink(color)
    for left, top, right, bottom in boxes:
        canvas.draw_rectangle((left, top, right - 1, bottom - 1), ink, 1)
