"""Where a line may end: white space and its width, and a small part of the Unicode line breaking algorithm (UAX #14).

A line may end at white space. Within a run of letters without white space a line may end

* before and after an ideograph, kana or emoji (UAX #14: ID), but not before closing punctuation, small kana, units,
  iteration, voicing and length marks, nor after opening punctuation (CL, EX, CJ, PO, NS, OP);
* after a hyphen or dash that follows a letter and precedes one (HY, BA), and after an em dash (B2);
* after a slash before a letter (SY), a zero-width space (ZW), a soft hyphen, a Tibetan tsheg, an Ethiopic word space.

Hangul words are kept whole, as Korean print does. Thai, Lao, Khmer and Burmese would need dictionaries: their phrases
are kept whole too. Where a page hyphenates, those of Thai are divided between words, of Lao and Burmese between
syllables. Whatever is wider than a line is broken between grapheme clusters (UAX #29), by the layout; those of Thai and
Lao stay with the vowels written before and behind them, sara am among them. In Lao and Burmese lines begin with a
syllable.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from functools import lru_cache
from typing import Literal

import regex

_Kind = Literal["letter", "digit", "ideograph", "open", "close", "wide close", "after", "zero width", "glue"]

#: Where a word may be divided, and what is drawn when it is.
SOFT_HYPHEN, HYPHEN = "\u00ad", "-"
#: Small kana (CJ), iteration and voicing marks (NS), leaders (IN), units (PO). UAX #14 counts the full-width tilde as
#: an ideograph; Japanese print keeps it at the line's end, like the wave dash.
_NO_BREAK_BEFORE: Callable[[str], object] = regex.compile(
    r"[\p{Line_Break=CJ}\p{Line_Break=NS}\p{Line_Break=IN}\p{Line_Break=PO}～]"
).match
_BREAK_AFTER = frozenset("-‐–—\u00ad\u058a\u0f0b\u1361/")
_GLUE = frozenset("\u00a0\u202f\u2007\u2060\u2011\ufeff\u200d\u0f0c")
#: Without one of these there is no break: the marks above, and whatever may be as wide as an ideograph.
_MAY_BREAK = re.compile(
    "[-‐–—/\u00ad\u058a\u0f0b\u1361\u200b\u231a-\u27bf\u2b00-\u2bff\u2e80-\ua4cf\ua960-\ua97f\uf900-\ufaff"
    "\ufe10-\ufe6f\uff00-\uffef\U00016fe0-\U00018fff\U0001aff0-\U0001b2ff\U0001f000-\U0003ffff]"
)
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

#: Vowels of Thai and Lao that stand before their consonant, and what begins no line: vowels and signs of Thai and Lao,
#: those of Burmese that are no part of their consonant's cluster, stops of Burmese and Khmer.
_VOWELS_BEFORE = r"\u0e40-\u0e44\u0ec0-\u0ec4"
_SIGNS_BEHIND = r"\u0e2f\u0e30\u0e32\u0e33\u0e45\u0e46\u0eaf\u0eb0\u0eb2\u0eb3\u0ebd\u0ec6"
_SIGNS_BEHIND += r"\u102b\u102c\u1038\u104a\u104b\u17d4-\u17d7"
#: A consonant of Burmese that ends a syllable: one with the sign that kills its vowel, or with another one below.
_BURMESE_END = r"(?<=\p{Myanmar})(?=[\u1000-\u1021](?:\u1037?\u103a|\u1039))\X"
#: Where a syllable of Lao begins beyond doubt: at a vowel that stands before its consonant, at a consonant that ends
#: no syllable, and at any consonant with a vowel or tone of its own. What may be the second letter of a cluster begins
#: none (after ຫ; ລ, ຣ and ວ after any consonant), nor does the end of a vowel such as ົວະ.
_LAO_SYLLABLE = (
    rf"(?<![{_VOWELS_BEFORE}])(?:[\u0ec0-\u0ec4]|[ຂຄຈຊຕຖທຜຝພປຢຫຮໜໝ]"
    r"|(?!(?<=ຫ)[ງຍນມ]|(?<=[ກ-ຮ])[ຣລວ]|[ວອຍ]ະ)[ກ-ຮ]\u0ebc?[\u0eb0-\u0ebb\u0ebd\u0ec8-\u0ecb\u0ecd])"
)
#: Splits a text into parts between which any word may be broken: grapheme clusters, in Thai and Lao with the vowels and
#: signs that end or begin no line in print, in Lao and Burmese with the consonants that end the syllable.
breakable_parts: Callable[[str], list[str]] = regex.compile(
    rf"[{_VOWELS_BEFORE}]*\X[{_SIGNS_BEHIND}]*"
    rf"(?:(?:(?<=\p{{Lao}})(?!{_LAO_SYLLABLE})[ກ-ຮ]\p{{M}}*|{_BURMESE_END})[{_SIGNS_BEHIND}]*)*|\X"
).findall
#: Splits a text into extended grapheme clusters (UAX #29): what a reader takes for one character, never broken.
grapheme_clusters: Callable[[str], list[str]] = regex.compile(r"\X").findall


def gap_width(gap: str, x: float, space: float, size_px: float) -> float:
    """Return the width of white space that begins ``x`` pixels into the line; a tab goes to the next tab stop.

    Args:
        gap: the white space.
        x: pixels.
        space: width of the font's space, pixels.
        size_px: font size, pixels.
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


def segments(text: str) -> list[str]:
    """Split a text without white space into parts between which a line may end."""
    if _MAY_BREAK.search(text) is None:
        return [text]
    parts: list[str] = []
    before: str | None = None
    for cluster in grapheme_clusters(text):
        if before is not None and _may_break(before, cluster, parts[-1]):
            parts.append(cluster)
        elif parts:
            parts[-1] += cluster
        else:
            parts.append(cluster)
        before = cluster
    return parts


def _may_break(before: str, after: str, part: str) -> bool:
    first, second = _kind(before[0]), _kind(after[0])
    if second in ("close", "wide close", "glue", "zero width") or first in ("open", "glue"):
        return False
    if first == "zero width":
        return True
    if first == "after":
        # "-5" and "--option" stay whole; so do the two slashes of an address.
        return before[0] in "—\u00ad" or (second in ("letter", "ideograph") and part.rstrip("-‐–/") != "")
    if first == "ideograph":
        return second != "after"
    if first == "wide close":
        return True
    return second == "ideograph" or (second == "open" and _is_wide(after[0]))


@lru_cache(maxsize=8192)
def _kind(character: str) -> _Kind:
    if character in _GLUE:
        return "glue"
    if character in _BREAK_AFTER:
        return "after"
    if character == "\u200b":
        return "zero width"
    category = unicodedata.category(character)
    wide = _is_wide(character)
    if category in ("Ps", "Pi"):
        return "open"
    if _NO_BREAK_BEFORE(character) or category in ("Pe", "Pf", "Po"):
        return "wide close" if wide else "close"
    if category == "Nd" and not wide:
        return "digit"
    if wide and not "\u1100" <= character <= "\u11ff" and not "\uac00" <= character <= "\ud7a3":
        return "ideograph"
    return "letter"


def _is_wide(character: str) -> bool:
    """Return whether a character is as wide as an ideograph, or half-width kana, which breaks as full-width kana."""
    return unicodedata.east_asian_width(character) in ("W", "F") or "\uff61" <= character <= "\uff9f"
