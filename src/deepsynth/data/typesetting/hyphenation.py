"""Where a word may be divided at the end of a line, by the patterns that LibreOffice and TeX use (pyphen has them).

The hyphen is drawn and is no part of the page's text: the word continues in the next line, and the text has it whole.
Thai, Lao and Burmese have no spaces between words and no hyphen. Phrases of Thai are divided between words, which a
small model finds (BudouX), those of Lao and Burmese between syllables, which their letters show.
"""

from __future__ import annotations

import re
from functools import lru_cache
from itertools import accumulate
from typing import Any

import regex

from deepsynth.data.fonts.glyphs import ShapedRun
from deepsynth.data.fonts.shaping import Shaper
from deepsynth.data.text.linebreak import HYPHEN, breakable_parts
from deepsynth.errors import UserError
from deepsynth.lazy_imports import install_command

#: The language of a document that names none.
DEFAULT_LANGUAGE = "en"
_SHORTEST_WORD = 5
#: Letters that stay before and after a division.
_LEAST_BEFORE, _LEAST_AFTER = 2, 3
#: One word of letters, with what may stand around it in print: quotes, brackets, "l'", "'s". No addresses, no codes.
_WORD = re.compile(rf"[\W_]*(?:\w{{1,5}}['’])?([^\W\d_]{{{_SHORTEST_WORD},}})(?:['’]\w{{1,2}})?[\W_]*")
#: Two characters of Thai on each side: the model takes a single consonant for a word more often than Thai has one.
_WITHIN_THAI = regex.compile(r"(?<=\p{Thai}{2})(?=\p{Thai}{2})")
_WITHIN_SYLLABIC = regex.compile(r"(?<=\p{Lao})(?=\p{Lao})|(?<=\p{Myanmar})(?=\p{Myanmar})")


class Hyphenation:
    """Divides the words of a language.

    Args:
        language: a code that pyphen has a dictionary for, such as ``de_DE``.
    """

    #: What is drawn where a word is divided.
    hyphen = HYPHEN

    def __init__(self, language: str) -> None:
        self._dictionary = _pyphen().Pyphen(lang=language, left=_LEAST_BEFORE, right=_LEAST_AFTER)

    def cuts(self, word: str) -> list[int]:
        """Return after how many characters a word may be divided, in rising order."""
        letters = _WORD.fullmatch(word)
        if letters is None:
            return []
        # A place that changes the spelling ("asszony", "asz-szony" in Hungarian) would show what is not in the text.
        return [
            letters.start(1) + place
            for place in self._dictionary.positions(letters.group(1))
            if getattr(place, "data", None) is None
        ]

    def divide(self, shaper: Shaper, word: ShapedRun, room_px: float) -> tuple[ShapedRun, ShapedRun] | None:
        """Return as much of a word as fits with its hyphen, whose ``text`` lacks the hyphen, and the rest.

        Args:
            shaper: shapes the parts.
            word: left-to-right; one with replaced characters is not divided.
            room_px: what is left of the line, pixels.
        """
        if word.replaced:
            return None
        for cut in reversed(self.cuts(word.text)):
            text = word.text[:cut]
            part = shaper.shape(text + self.hyphen, word.style)
            if part.room <= room_px and not part.replaced:
                if self.hyphen:
                    part = ShapedRun(text, word.style, part.advance, part.bitmaps, part.fonts, hyphenated=True)
                return part, shaper.shape_once(word.text[cut:], word.style)
        return None


class ThaiWords(Hyphenation):
    """Divides Thai phrases between words, without a hyphen."""

    hyphen = ""

    def __init__(self) -> None:
        self._parser = _budoux().load_default_thai_parser()

    def cuts(self, word: str) -> list[int]:
        """Return after how many characters a phrase may be divided, in rising order."""
        words = set(accumulate(map(len, self._parser.parse(word))))
        places = words.intersection(accumulate(map(len, breakable_parts(word))))
        return [match.start() for match in _WITHIN_THAI.finditer(word) if match.start() in places]


class Syllables(Hyphenation):
    """Divides phrases of Lao and Burmese between syllables, without a hyphen."""

    hyphen = ""

    def __init__(self) -> None:
        pass  # No dictionary: where a syllable begins is seen from its letters.

    def cuts(self, word: str) -> list[int]:
        """Return after how many characters a phrase may be divided, in rising order."""
        places = set(accumulate(map(len, breakable_parts(word))))
        return [match.start() for match in _WITHIN_SYLLABIC.finditer(word) if match.start() in places]


@lru_cache(maxsize=64)
def hyphenation_for(language: str | None) -> Hyphenation | None:
    """Return what divides words of a language, ``None`` for one that has no dictionary, as Chinese and Arabic.

    Args:
        language: BCP-47 code; ``None`` is English.

    Raises:
        UserError: when pyphen, or for Thai BudouX, is not installed.
    """
    primary = (language or DEFAULT_LANGUAGE).replace("_", "-").split("-")[0].lower()
    if primary == "th":
        return ThaiWords()
    if primary in ("lo", "my"):
        return Syllables()
    code = _pyphen().language_fallback((language or DEFAULT_LANGUAGE).replace("-", "_"))
    return None if code is None else Hyphenation(code)


def check_hyphenation() -> None:
    """Refuse hyphenation without its library.

    Raises:
        UserError: when pyphen is not installed.
    """
    _pyphen()


def _budoux() -> Any:
    try:
        import budoux
    except ImportError as error:
        raise UserError(
            f"hyphenate needs the package budoux for Thai, which finds its words: {install_command('hyphenation')}"
        ) from error
    return budoux


def _pyphen() -> Any:
    try:
        import pyphen
    except ImportError as error:
        raise UserError(
            f"hyphenate needs the package pyphen, which has the dictionaries: {install_command('hyphenation')}"
        ) from error
    return pyphen
