"""Formulas in LaTeX as pixels, by matplotlib's mathtext; each is set once for a size."""

from __future__ import annotations

from functools import cache, lru_cache
from typing import Any

import numpy as np
from PIL import Image

from deepsynth.data.fonts.glyphs import FontStyle, GlyphBitmap, ShapedRun
from deepsynth.errors import UserError
from deepsynth.io.mathtext import as_mathtext, display_style
from deepsynth.io.text import shortened

_PROBE_PX = 12.0


def shape_formula(text: str, style: FontStyle) -> ShapedRun:
    """Return a formula as a run that is never broken.

    Args:
        text: LaTeX between one or two dollar signs on each side; two display it, with large fractions.
        style: font, whose kind (with or without serifs) the letters have, and size.

    Raises:
        UserError: when mathtext cannot set it.
    """
    bitmap, width = _bitmap(text.strip("$"), style.size_px, _font(style.family), text.startswith("$$"))
    bitmaps = (bitmap,) if bitmap else ()
    return ShapedRun(text, style, width, bitmaps, (f"mathtext {_font(style.family)}",))


def fit_formula(text: str, style: FontStyle, width_px: int) -> ShapedRun:
    """Return a formula at the largest size, up to the style's, at which it is no wider than a column.

    Raises:
        UserError: when mathtext cannot set it.
    """
    run = shape_formula(text, style)
    while run.room > width_px and style.size_px > 1:
        style = style._replace(size_px=max(1.0, min(style.size_px * width_px / run.room, style.size_px - 0.5)))
        run = shape_formula(text, style)
    return run


@lru_cache(maxsize=4096)
def can_set(text: str) -> bool:
    """Return whether mathtext can set a formula."""
    try:
        _bitmap(text.strip("$"), _PROBE_PX, "dejavusans")
    except UserError:
        return False
    return True


def _font(family: str) -> str:
    name = family.lower()
    if "stix" in name:
        return "stix"
    return "dejavuserif" if "serif" in name and "sans" not in name else "dejavusans"


@lru_cache(maxsize=4096)
def _bitmap(latex: str, size_px: float, font: str, is_display: bool = False) -> tuple[GlyphBitmap | None, float]:
    """Return a formula's pixels, ``None`` where it shows nothing, and its width, pixels."""
    from matplotlib.font_manager import FontProperties

    mathtext = as_mathtext(display_style(latex) if is_display else latex)
    try:
        # At 72 dots per inch a point is a pixel.
        found = _parser().parse(f"${mathtext}$", dpi=72, prop=FontProperties(size=size_px, math_fontfamily=font))
    except ValueError as error:
        reason = shortened((str(error).strip() or type(error).__name__).splitlines()[-1])
        raise UserError(
            f"the formula {shortened(latex)!r} cannot be set ({reason}); rewrite it, or set on_bad_formula to 'omit'"
        ) from error
    pixels = np.asarray(found.image)  # matplotlib 3.9 has a type of its own
    if not pixels.any():
        return None, float(found.width)
    image = Image.fromarray(pixels)
    left, top, right, bottom = image.getbbox() or (0, 0, *image.size)
    mask = image.crop((left, top, right, bottom)).im
    return GlyphBitmap(mask, left, top - round(found.height - found.depth)), float(found.width)


@cache
def _parser() -> Any:
    from matplotlib.mathtext import MathTextParser

    return MathTextParser("agg")
