"""White space at which a line may be broken, and how wide it is."""

from __future__ import annotations

import re

#: Widths in units of the font size; ``None`` is the width of the font's own space. No-break spaces are letters.
SPACES: dict[str, float | None] = {
    " ": None,
    "\t": None,
    "\u1680": None,
    "\u2000": 0.5,
    "\u2001": 1.0,
    "\u2002": 0.5,
    "\u2003": 1.0,
    "\u2004": 1 / 3,
    "\u2005": 0.25,
    "\u2006": 1 / 6,
    "\u2008": 0.25,
    "\u2009": 0.2,
    "\u200a": 0.1,
    "\u205f": 4 / 18,
    "\u3000": 1.0,
}
#: Runs of white space, and runs of everything else.
TOKENS = re.compile(f"[{''.join(SPACES)}]+|[^{''.join(SPACES)}]+")
_TAB_SPACES = 4


def gap_width(gap: str, x: float, space: float, size_px: float) -> float:
    """Return the width of white space that begins ``x`` pixels into the line; a tab goes to the next tab stop.

    Args:
        gap: the white space.
        x: pixels.
        space: width of the font's space, pixels.
        size_px: of the font.
    """
    if gap == " ":
        return space
    pen = x
    for character in gap:
        if character == "\t":
            stop = _TAB_SPACES * space
            pen = (pen // stop + 1) * stop
        else:
            ems = SPACES[character]
            pen += space if ems is None else ems * size_px
    return pen - x
