"""What the package assumes of Pillow's private parts."""

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from deepsynth.compat.pillow import draw_masks
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
    assert len(drawn.getcolors()) > 10
