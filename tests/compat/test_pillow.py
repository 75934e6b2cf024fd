"""What the package assumes of Pillow's private parts."""

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from deepsynth.compat.pillow import draw_masks, fill_boxes
from deepsynth.data.fonts.files import bundled_folder


def test_masks_are_drawn_as_imagedraw_draws_text():
    font = ImageFont.truetype(str(bundled_folder() / "DejaVuSans.ttf"), 20, layout_engine=ImageFont.Layout.BASIC)
    color, background = (120, 40, 200), (250, 240, 220)
    expected = Image.new("RGB", (200, 60), background)
    ImageDraw.Draw(expected).text((20, 40), "Qg", color, font, anchor="ls")
    drawn = Image.new("RGB", (200, 60), background)
    mask, (dx, dy) = font.getmask2("Qg", "L", anchor="ls")
    draw_masks(drawn, [(20, 40, [(mask, dx, dy)])], color)
    assert np.array_equal(np.asarray(drawn), np.asarray(expected))
    moved = Image.new("RGB", (200, 60), background)
    draw_masks(moved, [(17, 42, [(mask, dx + 3, dy - 2)])], color)  # the same place by another pen
    assert np.array_equal(np.asarray(moved), np.asarray(expected))
    assert len(drawn.getcolors()) > 10


def test_boxes_are_filled_as_imagedraw_fills_rectangles():
    boxes, color = [(3, 2, 17, 3), (5, 5, 6, 19), (8.0, 8.0, 30.0, 12.0)], (120, 40, 200)
    expected = Image.new("RGB", (40, 20), "white")
    for left, top, right, bottom in boxes:
        ImageDraw.Draw(expected).rectangle((left, top, right - 1, bottom - 1), fill=color)
    drawn = Image.new("RGB", (40, 20), "white")
    fill_boxes(drawn, boxes, color)
    assert np.array_equal(np.asarray(drawn), np.asarray(expected))
    assert (np.asarray(drawn) == color).all(axis=2).sum() == 14 + 14 + 22 * 4
