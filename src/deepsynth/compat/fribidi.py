"""The library fribidi, called through ctypes: Pillow uses it too, but hands no embedding levels on."""

from __future__ import annotations

import ctypes
import sys
from functools import cache

from deepsynth.errors import UserError

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


def paragraph_levels(text: str) -> tuple[bytes, int]:
    """Return the embedding level of every character of a paragraph, and the paragraph's own (0 or 1).

    Raises:
        UserError: when fribidi is not installed.
    """
    length = len(text)
    characters = (ctypes.c_uint32 * length).from_buffer_copy(text.encode(_UTF_32))
    types = (ctypes.c_uint32 * length)()
    brackets = (ctypes.c_uint32 * length)()
    levels = (ctypes.c_int8 * length)()
    base = ctypes.c_uint32(_PARAGRAPH_BY_FIRST_LETTER)
    library = load_library()
    library.fribidi_get_bidi_types(characters, length, types)
    library.fribidi_get_bracket_types(characters, length, types, brackets)
    if not library.fribidi_get_par_embedding_levels_ex(types, brackets, length, ctypes.byref(base), levels):
        raise MemoryError("fribidi could not order the paragraph")
    return bytes(levels), base.value & 1


@cache
def load_library() -> ctypes.CDLL:
    """Return the library, wherever the system keeps it."""
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
