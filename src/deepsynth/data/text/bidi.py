"""Right-to-left and mixed text: the Unicode Bidirectional Algorithm (UAX #9), by the library that Pillow uses too.

Text without a right-to-left character needs no library.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from deepsynth.compat.fribidi import paragraph_levels

#: Hebrew to Arabic Extended, their presentation forms, the right-to-left scripts beyond the basic plane, and the marks
#: and controls that set a direction.
_RIGHT_TO_LEFT = re.compile(
    "[\u0590-\u08ff\u200f\u202a-\u202e\u2066-\u2069\ufb1d-\ufdff\ufe70-\ufefe\U00010800-\U00010fff\U0001e800-\U0001efff]"
)


def embedding_levels(text: str) -> tuple[bytes, int]:
    """Return the embedding level of every character of a paragraph, and the paragraph's own (0 or 1).

    Even levels run left to right, odd ones right to left.

    Raises:
        UserError: when the text has right-to-left characters and fribidi is not installed.
    """
    return paragraph_levels(text) if has_right_to_left(text) else (bytes(len(text)), 0)


def has_right_to_left(text: str) -> bool:
    """Return whether some of a text may run from right to left."""
    return _RIGHT_TO_LEFT.search(text) is not None


def runs_right_to_left(text: str) -> bool:
    """Return whether most letters of a text run from right to left."""
    right = len(_RIGHT_TO_LEFT.findall(text))
    return right > 0 and 2 * right > sum(map(str.isalpha, text))


def visual_order(levels: Sequence[int]) -> list[int]:
    """Return the positions of a line's runs from left to right (rule L2: reverse every level from the highest)."""
    order = list(range(len(levels)))
    for level in range(max(levels, default=0), 0, -1):
        start = 0
        while start < len(order):
            end = start
            while end < len(order) and levels[order[end]] >= level:
                end += 1
            if end > start:
                order[start:end] = order[start:end][::-1]
            start = end + 1
    return order
