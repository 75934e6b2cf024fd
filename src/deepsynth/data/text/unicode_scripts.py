"""Which script a character belongs to, which fonts are made for it, and which package has them."""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

#: First word of a character's Unicode name, where a font's name has another word for the script.
_FONT_WORDS = {
    "CJK": "cjk",
    "KANGXI": "cjk",
    "IDEOGRAPHIC": "cjk",
    "HIRAGANA": "cjk",
    "KATAKANA": "cjk",
    "KATAKANA-HIRAGANA": "cjk",
    "BOPOMOFO": "cjk",
    "FULLWIDTH": "cjk",
    "HALFWIDTH": "cjk",
    "HANGUL": "cjk",
    "ARABIC": "naskh arabic",
    "MUSICAL": "music",
    "MATHEMATICAL": "math",
    "NKO": "nko",
}
#: Brackets, marks and symbols whose names do not say that they are in the fonts of Chinese and Japanese.
_CJK_SIGNS = re.compile("[\u3000-\u303f\u3190-\u319f\u31c0-\u31ef\u3200-\u33ff\ufe30-\ufe4f\uff00-\uffef]")
_KANA = re.compile("[\u3040-\u30ff]")
_HANGUL = re.compile("[\u1100-\u11ff\uac00-\ud7a3]")
_REGION_BY_LANGUAGE = {"ja": "JP", "ko": "KR", "zh-tw": "TC", "zh-hant": "TC", "zh-hk": "HK", "zh": "SC"}


def region_of(text: str, language: str | None = None) -> str:
    """Return whose forms of Chinese characters a text wants: SC, TC, HK, JP or KR.

    Args:
        text: kana make it Japanese and Hangul Korean, when the language does not say.
        language: BCP-47 code.
    """
    if language:
        code = language.lower().replace("_", "-")
        region = _REGION_BY_LANGUAGE.get(code) or _REGION_BY_LANGUAGE.get(code.split("-")[0])
        if region:
            return region
    if text.isascii():
        return "SC"
    if _KANA.search(text):
        return "JP"
    return "KR" if _HANGUL.search(text) else "SC"


@lru_cache(maxsize=16_384)
def script_of(character: str) -> str:
    """Return a lower-case word for the script of a letter or of a mark on letters; "" for all other characters.

    Chinese, Japanese and Korean are one script, as their fonts have them together.
    """
    if unicodedata.category(character)[0] not in "LM":
        return ""
    name = unicodedata.name(character, "").partition(" ")[0]
    return "" if name in ("COMBINING", "MODIFIER", "VARIATION") else _FONT_WORDS.get(name, name.lower())


def script_words(character: str, region: str) -> tuple[str, ...]:
    """Return lower-case words that the name of a font made for the character has, best first."""
    names = unicodedata.name(character, "").split()
    if not names:
        return ()
    word = _FONT_WORDS.get(names[0], names[0].lower())
    if word == "cjk":
        return (f"cjk {region.lower()}", "cjk")
    words = [word, *word.split()[-1:]]
    if names[1:2] and names[1] not in ("LETTER", "SIGN", "VOWEL", "DIGIT", "SYMBOL"):
        words.insert(0, f"{names[0]} {names[1]}".lower())
    return (*dict.fromkeys(words), "noto sans symbols", "noto sans math")


def font_package(character: str) -> str:
    """Return where to get a font that has the character, in words for an error message."""
    code = ord(character)
    category = unicodedata.category(character)
    if category == "Co":
        return "it is for private use, and only the font that its author meant has it"
    if category == "Cn":
        return "it is no character of the Unicode version that this Python knows"
    if 0x1F000 <= code <= 0x1FAFF or 0x2600 <= code <= 0x27BF:
        return "install a font with plain emoji (Debian: apt install fonts-symbola)"
    word = script_words(character, "SC")[:1]
    if _CJK_SIGNS.match(character) or (word and word[0].startswith("cjk")):
        return "install Noto CJK (Debian: apt install fonts-noto-cjk; the rarest: fonts-hanazono)"
    return "install Noto (Debian: apt install fonts-noto-core; historic scripts: fonts-noto-extra, fonts-symbola)"
