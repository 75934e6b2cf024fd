"""Shaped text: its glyphs as pixels, and the room that they need."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

Direction = Literal["ltr", "rtl"]


class FontStyle(NamedTuple):
    """Font and size of text.

    Attributes:
        family: family of the font that is tried first.
        size_px: size of the em square, pixels.
        bold: use the bold face, if there is one.
        italic: use the italic face, if there is one.
        region: region whose forms of Chinese characters are used: SC, TC, HK, JP or KR.
        formula: the text is a formula between dollar signs.
        scripts: families that are tried before ``family`` for words of a script, as pairs.
    """

    family: str
    size_px: float
    bold: bool = False
    italic: bool = False
    region: str = "SC"
    formula: bool = False
    scripts: tuple[tuple[str, str], ...] = ()


class GlyphBitmap(NamedTuple):
    """Coverage of a glyph, or of several that were shaped together.

    Attributes:
        mask: Pillow's mask, coverage from 0 to 255.
        dx: left edge of the mask, relative to the pen, pixels.
        dy: top edge of the mask, relative to the baseline, pixels.
    """

    mask: Any
    dx: int
    dy: int


class ShapedRun:
    """Shaped and rasterized text that is never broken.

    Attributes:
        text: the text that the glyphs show.
        style: font and size.
        advance: how far the pen moves, pixels.
        bitmaps: the glyphs.
        fonts: names of the fonts that are used.
        replaced: number of characters that were replaced because no font has them.
        hyphenated: whether a hyphen that is not in the text is drawn after it.
        left: left edge of the glyphs, relative to the pen, pixels; 0 without glyphs, as for the other edges.
        right: right edge of the glyphs, relative to the pen, pixels.
        top: height of the glyphs above the baseline, pixels.
        bottom: depth of the glyphs below the baseline, pixels.
        room: width needed on a line, the larger of ``advance`` and ``right``, pixels.
    """

    __slots__ = (
        "advance",
        "bitmaps",
        "bottom",
        "fonts",
        "hyphenated",
        "left",
        "replaced",
        "right",
        "room",
        "style",
        "text",
        "top",
    )

    def __init__(
        self,
        text: str,
        style: FontStyle,
        advance: float,
        bitmaps: tuple[GlyphBitmap, ...],
        fonts: tuple[str, ...],
        *,
        replaced: int = 0,
        hyphenated: bool = False,
    ) -> None:
        self.text = text
        self.style = style
        self.advance = advance
        self.bitmaps = bitmaps
        self.fonts = fonts
        self.replaced = replaced
        self.hyphenated = hyphenated
        self.left = self.right = self.top = self.bottom = 0
        if bitmaps:
            masks, lefts, tops = zip(*bitmaps, strict=True)
            sizes = [mask.size for mask in masks]
            self.left, self.top = min(lefts), -min(tops)
            self.right = max([left + width for left, (width, _) in zip(lefts, sizes, strict=True)])
            self.bottom = max([top + height for top, (_, height) in zip(tops, sizes, strict=True)])
        self.room = max(advance, self.right)
