"""From a word to the pixels of its glyphs, once: the cache that makes a page fast.

A word is shaped whole, so that kerning, ligatures and joins are right within it. Words that need no shaping (Latin,
Greek, Cyrillic, Chinese, Japanese, Korean …) are always set by Pillow's own layout, on every machine, so that their
pixels never depend on which libraries are installed. All others need HarfBuzz, through Pillow's raqm.
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple

from PIL import ImageFont, features

from deepsynth.data.fonts import FontFile, FontLibrary

_CACHED_PIECES = 60_000

#: What Pillow's basic layout cannot set: combining marks, right-to-left scripts, Indic and South-East Asian scripts,
#: Hangul letters, Mongolian, joiners, variation selectors, and the scripts beyond the basic plane that are like them.
_NEEDS_SHAPING = re.compile(
    "[\u0300-\u036f\u0483-\u0489\u0590-\u109f\u1100-\u11ff\u135d-\u135f\u1700-\u18af\u1900-\u1cff\u1ab0-\u1aff"
    "\u1dc0-\u1dff\u200c-\u200f\u202a-\u202e\u2060-\u206f\u20d0-\u20ff\u2cef-\u2cf1\u2d7f\u2de0-\u2dff\u302a-\u302f"
    "\u3099\u309a\ua66f-\ua67d\ua69e\ua69f\ua6f0\ua6f1\ua800-\uabff\ud7b0-\ud7ff\ufb1d-\ufdff\ufe00-\ufe0f"
    "\ufe20-\ufe2f\ufe70-\ufefe\U00010800-\U00011fff\U00016a00-\U00016fff\U0001bc00-\U0001bcff\U0001d165-\U0001d1ad"
    "\U0001d242-\U0001d244\U0001da00-\U0001daff\U0001e000-\U0001efff\U0001f1e6-\U0001f1ff\U0001f3fb-\U0001f3ff"
    "\U000e0000-\U000e0fff]"
)


class Style(NamedTuple):
    """How a run of text looks."""

    family: str
    size_px: float
    bold: bool = False
    italic: bool = False


class Blit(NamedTuple):
    """Coverage of one run of glyphs, 0 to 255, and its place relative to the pen on the baseline, in pixels."""

    mask: Any
    dx: int
    dy: int


class Piece:
    """A run of text that is never broken, shaped and rasterised.

    Attributes:
        text: what it shows.
        advance: how far the pen moves, pixels.
        left: of the ink, relative to the pen, pixels (at most 0).
        right: of the ink or the advance, whichever is farther.
        top: of the ink above the baseline, pixels (positive upwards).
        bottom: of the ink below the baseline, pixels (positive downwards).
        blits: the glyphs.
        fonts: names of the fonts, first used first.
    """

    __slots__ = ("advance", "blits", "bottom", "fonts", "left", "right", "text", "top")

    def __init__(self, text: str, advance: float, blits: tuple[Blit, ...], fonts: tuple[str, ...]) -> None:
        """Work out where the ink is."""
        self.text = text
        self.advance = advance
        self.blits = blits
        self.fonts = fonts
        self.left = min((blit.dx for blit in blits), default=0)
        self.right = max((blit.dx + blit.mask.size[0] for blit in blits), default=0)
        self.top = max((-blit.dy for blit in blits), default=0)
        self.bottom = max((blit.dy + blit.mask.size[1] for blit in blits), default=0)


class Shaper:
    """Shapes words and remembers them.

    Args:
        library: where fonts are found.
    """

    def __init__(self, library: FontLibrary) -> None:
        """Start with empty caches."""
        self.library = library
        self._fonts: dict[tuple[str, int, float, bool], ImageFont.FreeTypeFont] = {}
        self._pieces: dict[tuple[Style, str, str | None], Piece] = {}

    def piece(self, text: str, style: Style, direction: str | None = None) -> Piece:
        """Return a shaped word.

        Raises:
            ValueError: for a character that no font has.
        """
        key = (style, text, direction)
        piece = self._pieces.get(key)
        if piece is None:
            if len(self._pieces) >= _CACHED_PIECES:
                self._pieces.clear()
            piece = self._pieces[key] = self._shape(text, style, direction)
        return piece

    def _shape(self, text: str, style: Style, direction: str | None) -> Piece:
        face = self.library.face_for(text, style.family, style.bold, style.italic)
        if face is None:
            raise ValueError(f"no font has all of {text!r}")
        font = self.font(face, style.size_px, shaped=_NEEDS_SHAPING.search(text) is not None)
        mask, (dx, dy) = font.getmask2(text, "L", anchor="ls")
        blits = (Blit(mask, dx, dy),) if mask.size[0] and mask.size[1] else ()
        return Piece(text, font.getlength(text), blits, (face.name,))

    def font(self, face: FontFile, size_px: float, shaped: bool) -> ImageFont.FreeTypeFont:
        """Return a face at a size, with the layout engine that the text needs.

        Raises:
            RuntimeError: when the text needs shaping and raqm or fribidi is missing.
        """
        key = (face.path, face.index, size_px, shaped)
        if key not in self._fonts:
            if shaped and not features.check("raqm"):
                raise RuntimeError("raqm is missing")
            engine = ImageFont.Layout.RAQM if shaped else ImageFont.Layout.BASIC
            self._fonts[key] = ImageFont.truetype(face.path, size_px, index=face.index, layout_engine=engine)
        return self._fonts[key]
