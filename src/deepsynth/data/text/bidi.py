"""Right-to-left and mixed text: the Unicode Bidirectional Algorithm (UAX #9), by the library that Pillow uses too.

Text without a right-to-left character needs no library.
"""

from __future__ import annotations

import ctypes
import re
import sys
from collections.abc import Sequence
from functools import cache

from deepsynth.errors import UserError

#: Hebrew to Arabic Extended, their presentation forms, the right-to-left scripts beyond the basic plane, and the marks
#: and controls that set a direction.
_RIGHT_TO_LEFT = re.compile(
    "[\u0590-\u08ff\u200f\u202a-\u202e\u2066-\u2069\ufb1d-\ufdff\ufe70-\ufefe\U00010800-\U00010fff\U0001e800-\U0001efff]"
)
_LIBRARIES = (
    "libfribidi.so.0",
    "libfribidi.so",
    "libfribidi.0.dylib",
    "libfribidi.dylib",
    "fribidi-0.dll",
    "fribidi.dll",
)
_UTF_32 = "utf-32-le" if sys.byteorder == "little" else "utf-32-be"
_PARAGRAPH_BY_FIRST_LETTER = 0x40  # FRIBIDI_PAR_ON


def embedding_levels(text: str) -> tuple[bytes, int]:
    """Return the embedding level of every character of a paragraph, and the paragraph's own.

    Even levels run left to right, odd ones right to left.

    Raises:
        UserError: when fribidi is not installed.
    """
    length = len(text)
    if _RIGHT_TO_LEFT.search(text) is None:
        return bytes(length), 0
    characters = (ctypes.c_uint32 * length).from_buffer_copy(text.encode(_UTF_32))
    types = (ctypes.c_uint32 * length)()
    brackets = (ctypes.c_uint32 * length)()
    levels = (ctypes.c_int8 * length)()
    base = ctypes.c_uint32(_PARAGRAPH_BY_FIRST_LETTER)
    library = _fribidi()
    library.fribidi_get_bidi_types(characters, length, types)
    library.fribidi_get_bracket_types(characters, length, types, brackets)
    if not library.fribidi_get_par_embedding_levels_ex(types, brackets, length, ctypes.byref(base), levels):
        raise MemoryError("fribidi could not order the paragraph")
    return bytes(levels), base.value & 1


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


@cache
def _fribidi() -> ctypes.CDLL:
    for name in _LIBRARIES:
        try:
            library = ctypes.CDLL(name)
        except OSError:
            continue
        library.fribidi_get_par_embedding_levels_ex.restype = ctypes.c_int8
        return library
    raise UserError(
        "right-to-left text needs the library fribidi: apt install libfribidi0 (Debian, Ubuntu), "
        "dnf install fribidi (Fedora), brew install fribidi (macOS)"
    )
