"""What a shaped word is: its glyphs as pixels, and the room that they take."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

Direction = Literal["ltr", "rtl"]


class Style(NamedTuple):
    """How a run of text looks.

    Attributes:
        family: of the font that is asked first.
        size_px: of the em square.
        bold: wanted.
        italic: wanted.
        region: whose forms of Chinese characters: SC, TC, HK, JP or KR.
    """

    family: str
    size_px: float
    bold: bool = False
    italic: bool = False
    region: str = "SC"


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
        left: of the ink, relative to the pen, pixels; 0 without ink.
        right: of the ink, relative to the pen, pixels.
        top: of the ink above the baseline, pixels.
        bottom: of the ink below the baseline, pixels.
        blits: the glyphs.
        fonts: names of the fonts.
        room: that it takes on a line, the larger of advance and right, pixels.
        replaced: characters that were replaced because no font has them.
        hyphenated: whether a hyphen is drawn after the text, which it is no part of.
    """

    __slots__ = (
        "advance",
        "blits",
        "bottom",
        "fonts",
        "hyphenated",
        "left",
        "replaced",
        "right",
        "room",
        "text",
        "top",
    )

    def __init__(
        self,
        text: str,
        advance: float,
        blits: tuple[Blit, ...],
        fonts: tuple[str, ...],
        replaced: int = 0,
        hyphenated: bool = False,
    ) -> None:
        """Work out where the ink is."""
        self.text = text
        self.advance = advance
        self.blits = blits
        self.fonts = fonts
        self.replaced = replaced
        self.hyphenated = hyphenated
        self.left = self.right = self.top = self.bottom = 0
        if len(blits) == 1:
            mask, self.left, dy = blits[0]
            self.right, self.top, self.bottom = self.left + mask.size[0], -dy, dy + mask.size[1]
        elif blits:
            lefts, rights, tops, bottoms = [], [], [], []
            for mask, dx, dy in blits:
                width, height = mask.size
                lefts.append(dx)
                rights.append(dx + width)
                tops.append(-dy)
                bottoms.append(dy + height)
            self.left, self.right, self.top, self.bottom = min(lefts), max(rights), max(tops), max(bottoms)
        self.room = max(advance, self.right)
