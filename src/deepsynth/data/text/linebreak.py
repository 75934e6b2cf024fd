"""Where a line may end inside a run of letters: a small part of the Unicode line breaking algorithm (UAX #14).

White space is dealt with by the layout. Within a run without white space a line may end

* before and after an ideograph, kana or emoji (UAX #14: ID), but not before closing punctuation, small kana, iteration
  and length marks, nor after opening punctuation (CL, EX, NS, OP);
* after a hyphen or dash that follows a letter and precedes one (HY, BA), and after an em dash (B2);
* after a slash before a letter (SY), a zero-width space (ZW), a soft hyphen, a Tibetan tsheg, an Ethiopic word space.

Hangul words are kept whole, as Korean print does. Thai, Lao, Khmer and Burmese would need dictionaries: their phrases
are kept whole too. Whatever is wider than a line is broken between grapheme clusters (UAX #29), by the layout.
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache
from typing import Literal

_Kind = Literal["letter", "digit", "ideograph", "open", "close", "wide close", "after", "zero width", "glue"]

_NO_BREAK_BEFORE = frozenset(
    "ーゝゞヽヾ々〻・ぁぃぅぇぉっゃゅょゎゕゖァィゥェォッャュョヮヵヶㇰㇱㇲㇳㇴㇵㇶㇷㇸㇹㇺㇻㇼㇽㇾㇿ…‥〜～％‰℃゠："
)
_BREAK_AFTER = frozenset("-‐–—\u00ad\u058a\u0f0b\u1361/")
_GLUE = frozenset("\u00a0\u202f\u2007\u2060\u2011\ufeff\u200d\u0f0c")
#: Without one of these there is no break: the marks above, and whatever may be as wide as an ideograph.
_MAY_BREAK = re.compile(
    "[-‐–—/\u00ad\u058a\u0f0b\u1361\u200b\u231a-\u27bf\u2b00-\u2bff\u2e80-\ua4cf\ua960-\ua97f\uf900-\ufaff"
    "\ufe10-\ufe6f\uff00-\uffef\U00016fe0-\U00018fff\U0001aff0-\U0001b2ff\U0001f000-\U0003ffff]"
)
_ZERO_WIDTH_JOINER = "\u200d"


def grapheme_clusters(text: str) -> list[str]:
    """Split a text into what a reader takes for one character, none of which is ever broken.

    A cluster is a letter with its marks, joiners and variation selectors; consonants joined by a virama; a Hangul
    syllable written with jamo; two regional indicators; an emoji sequence.
    """
    clusters: list[str] = []
    for character in text:
        if clusters and _continues(clusters[-1], character):
            clusters[-1] += character
        else:
            clusters.append(character)
    return clusters


def segments(text: str) -> list[str]:
    """Split a text without white space into pieces between which a line may end."""
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


def _continues(cluster: str, character: str) -> bool:
    last = cluster[-1]
    if _is_extender(character):
        return True
    if last == _ZERO_WIDTH_JOINER:
        return unicodedata.category(character) in ("So", "Lo")
    if unicodedata.combining(last) == 9:  # a virama joins the consonant after it
        return unicodedata.category(character) == "Lo"
    if "\u1100" <= last <= "\u11ff" and "\u1100" <= character <= "\u11ff":
        return character >= "\u1160" or last < "\u1160"
    if "\uac00" <= last <= "\ud7a3" and "\u1160" <= character <= "\u11ff":
        return True
    regional = "\U0001f1e6" <= character <= "\U0001f1ff"
    return regional and "\U0001f1e6" <= last <= "\U0001f1ff" and len(cluster) % 2 == 1


@lru_cache(maxsize=4096)
def _is_extender(character: str) -> bool:
    return (
        unicodedata.category(character).startswith("M")
        or character in "\u200c\u200d"
        or "\U0001f3fb" <= character <= "\U0001f3ff"
        or "\U000e0020" <= character <= "\U000e007f"
    )


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
    if character in _NO_BREAK_BEFORE or category in ("Pe", "Pf", "Po"):
        return "wide close" if wide else "close"
    if category == "Nd" and not wide:
        return "digit"
    if wide and not "\u1100" <= character <= "\u11ff" and not "\uac00" <= character <= "\ud7a3":
        return "ideograph"
    return "letter"


def _is_wide(character: str) -> bool:
    return unicodedata.east_asian_width(character) in ("W", "F")
