"""What the metrics compare: the words of a text in any script, and texts under a normalization profile."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Mapping
from types import MappingProxyType

import regex  # the standard library's re knows neither scripts nor marks

from deepsynth.errors import UserError
from deepsynth.metrics.visible_text import join_paragraphs, remove_invisible

#: Scripts that put no spaces between words: each character, with the marks on it, counts as a word.
_SPACELESS = r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}ー]"
_SPACELESS_CHARACTER = rf"[{_SPACELESS}&&[\p{{L}}\p{{N}}]]\p{{M}}*"
#: Letters, marks and digits of the other scripts, and the zero-width joiners that stand inside Persian and Indic words.
_WORD = rf"[[\p{{L}}\p{{M}}\p{{N}}\u200c\u200d]--{_SPACELESS}]+"
_TOKEN = regex.compile(rf"{_SPACELESS_CHARACTER}|{_WORD}", regex.V1)
_TOKEN_OR_PUNCTUATION = regex.compile(rf"{_SPACELESS_CHARACTER}|{_WORD}|[\p{{P}}\p{{S}}]", regex.V1)
_CHUNK = regex.compile(rf"{_SPACELESS_CHARACTER}|[\S--{_SPACELESS}]+|\S", regex.V1)

_PUNCTUATION = regex.compile(r"[\p{P}\p{S}]", regex.V1)
_LINE_END_HYPHEN = regex.compile(r"(\p{L}\p{M}*)[-\u00ad\u2010\u00ac\u2e17] *\n *(?=\p{Ll}|\p{Lo})", regex.V1)

#: Spellings of one letter in Arabic and Persian, by code point because the shapes look alike: yeh, alef maksura and
#: hamza on yeh; kaf; alef with madda, hamza or wasla; heh with hamza and teh marbuta; waw with hamza.
_ARABIC_VARIANTS: Mapping[int, tuple[int, ...]] = MappingProxyType(
    {
        0x06CC: (0x064A, 0x0649, 0x0626),
        0x06A9: (0x0643,),
        0x0627: (0x0622, 0x0623, 0x0625, 0x0671),
        0x0647: (0x0629, 0x06C0, 0x06C1, 0x06D5),
        0x0648: (0x0624,),
    }
)
_ARABIC_LETTERS: dict[int, int | None] = {
    # Vowel signs, also the Quran's small ones, the dagger alef, tatweel and the non-joiner carry no letter.
    **dict.fromkeys((*range(0x0618, 0x061B), *range(0x064B, 0x0660), 0x0670, 0x0640, 0x200C)),
    **{variant: letter for letter, variants in _ARABIC_VARIANTS.items() for variant in variants},
    **{zero + digit: ord("0") + digit for zero in (0x0660, 0x06F0) for digit in range(10)},
}


def tokens(text: str, punctuation: bool = False) -> list[str]:
    """Return the words of a text: runs of Unicode letters, marks and digits, in their order.

    In scripts without spaces (Han, Kana, Thai, Lao, Khmer, Myanmar) each character, with its marks, is a token.

    Args:
        text: any text.
        punctuation: whether every punctuation mark or symbol is a token too, or only ends a word.
    """
    found: list[str] = (_TOKEN_OR_PUNCTUATION if punctuation else _TOKEN).findall(text)
    return found


def words(text: str) -> list[str]:
    """Return the words as the word error rate counts them: what white space separates, punctuation included.

    In scripts without spaces each character is one word, as is the custom for their error rates.
    """
    found: list[str] = text.split() if text.isascii() else _CHUNK.findall(text)
    return found


def _collapse(text: str) -> str:
    return " ".join(text.split())


#: Profiles by name. Each changes one thing, so that a difference between two figures has one cause.
NORMALIZATION_PROFILES: Mapping[str, Callable[[str], str]] = MappingProxyType(
    {
        # Outer white space alone, as in the headline.
        "none": str.strip,
        # Every run of white space becomes one space: line breaks no longer count.
        "whitespace": _collapse,
        # Words broken at a line's end are joined, then as "whitespace": for texts that do not keep the page's lines.
        "layout": lambda text: _collapse(_LINE_END_HYPHEN.sub(r"\1", text)),
        # Lines are joined within paragraphs, which empty lines part.
        "paragraphs": join_paragraphs,
        # What draws nothing goes, as from labels; then NFC.
        "visible": lambda text: unicodedata.normalize("NFC", remove_invisible(text)[0].strip()),
        # Full Unicode case folding: "Straße" equals "STRASSE".
        "case": lambda text: text.strip().casefold(),
        # Punctuation marks and symbols become spaces, then as "whitespace".
        "punctuation": lambda text: _collapse(_PUNCTUATION.sub(" ", text)),
        # Spellings of the same Arabic or Persian letter, and the digits, become one.
        "arabic": lambda text: unicodedata.normalize("NFC", text.strip()).translate(_ARABIC_LETTERS),
        # Unicode compatibility composition: ligatures, full-width forms, superscripts, presentation forms, long s.
        "nfkc": lambda text: unicodedata.normalize("NFKC", text.strip()),
    }
)


def normalize(text: str, profile: str) -> str:
    """Return the text under a normalization profile.

    Args:
        text: any text.
        profile: a name of ``NORMALIZATION_PROFILES``, or several joined by ``+`` and applied in that order.

    Raises:
        UserError: for an unknown profile.
    """
    for name in profile.split("+"):
        if name not in NORMALIZATION_PROFILES:
            raise UserError(
                f"normalization profile {name!r} is unknown; the profiles are {', '.join(NORMALIZATION_PROFILES)}, "
                "and several are joined by '+'"
            )
        text = NORMALIZATION_PROFILES[name](text)
    return text
