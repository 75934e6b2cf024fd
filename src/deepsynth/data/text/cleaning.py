"""The one change that a text undergoes before it is drawn.

1. Lone surrogates are refused: they are no characters.
2. Line ends become one newline: CR LF, CR, vertical tab, form feed, NEL, U+2028 and U+2029.
3. Byte-order marks (U+FEFF) and the C0 and C1 controls are removed, and counted; newline and tab stay.
4. The text is normalized to NFC.

Everything else stays as it is: spaces of every kind, joiners (U+200C, U+200D), bidirectional marks, soft hyphens.
"""

from __future__ import annotations

import re
import unicodedata

from deepsynth.errors import UserError

_LINE_ENDS = re.compile("\r\n|[\r\x0b\x0c\x85\u2028\u2029]")
_REMOVED = re.compile("[\x00-\x08\x0e-\x1f\x7f-\x9f\ufeff]")
_SURROGATE = re.compile("[\ud800-\udfff]")


def clean_text(text: str) -> tuple[str, int]:
    """Return the text as it will be drawn, and how many characters were removed.

    Raises:
        UserError: for a lone surrogate, with its place.
    """
    surrogate = _SURROGATE.search(text)
    if surrogate:
        raise UserError(
            f"character {surrogate.start()} of the text is the lone surrogate U+{ord(surrogate.group()):04X}, which is "
            "half a character; decode the source with errors='replace', or fix its \\u escapes"
        )
    text = _LINE_ENDS.sub("\n", text)
    text, removed = _REMOVED.subn("", text)
    return unicodedata.normalize("NFC", text), removed


def fold_whitespace(text: str) -> str:
    """Return the text with every run of white space made one space, and none at the ends."""
    return " ".join(text.split())
