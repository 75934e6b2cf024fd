"""What of a text a reader of its page can see: no characters that draw nothing, no lines where only paragraphs count.

The labels of training and the metrics use the same rules; see ``docs/guides/text.md``.
"""

from __future__ import annotations

from itertools import pairwise

import regex  # the standard library's re knows neither scripts nor marks

#: What draws nothing wherever it stands: soft hyphen, zero-width space, word joiner, byte-order mark, grapheme joiner,
#: bidirectional marks and controls, invisible operators, interlinear annotation.
_INVISIBLE = regex.compile(
    "[\u00ad\u034f\u061c\u180e\u200b\u200e\u200f\u202a-\u202e\u2060-\u2064\u2066-\u206f\ufeff\ufff9-\ufffb]"
)
#: Scripts whose letters change their shape beside a joiner: cursive ones, and those that are written in syllables.
_JOINING = (
    r"[\p{Arabic}\p{Syriac}\p{Mandaic}\p{Nko}\p{Mongolian}\p{Phags_Pa}\p{Hanifi_Rohingya}\p{Adlam}\p{Sogdian}"
    r"\p{Devanagari}\p{Bengali}\p{Gurmukhi}\p{Gujarati}\p{Oriya}\p{Tamil}\p{Telugu}\p{Kannada}\p{Malayalam}\p{Sinhala}"
    r"\p{Tibetan}\p{Myanmar}\p{Khmer}\p{Balinese}\p{Javanese}\p{Grantha}\p{Tirhuta}\p{Modi}\p{Chakma}\p{Newa}]"
)
#: A letter of such a script with the marks on it; vowel signs of Arabic belong to several scripts.
_LETTER = rf"[{_JOINING}&&[\p{{L}}\p{{M}}]]\p{{M}}*"
#: An emoji with its variation selector or skin tone.
_EMOJI = "[\\p{Extended_Pictographic}][\ufe0f\U0001f3fb-\U0001f3ff]*"
_REPEATED_JOINER = regex.compile("([\u200c\u200d])[\u200c\u200d]+")
#: A non-joiner parts two letters; a joiner shapes the letter on either side, or makes one emoji of two.
_IDLE_JOINER = regex.compile(
    rf"\u200c(?:(?<!{_LETTER}\u200c)|(?!{_LETTER}))"
    rf"|(?<!{_LETTER})(?<!{_EMOJI})\u200d(?!{_LETTER})"
    rf"|(?<={_EMOJI})\u200d(?!{_EMOJI})",
    regex.V1,
)
#: The characters of tags spell the flag that they follow, and draw nothing elsewhere.
_IDLE_TAG = regex.compile("(?<!\U0001f3f4[\U000e0020-\U000e007f]*)[\U000e0001-\U000e007f]")
#: Without one of these there is nothing to look for.
_SUSPECT = regex.compile(
    "[\u00ad\u034f\u061c\u180e\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\U000e0001-\U000e007f]"
)

_BLANK_LINES = regex.compile(r"\n(?:[^\S\n]*\n)+")
#: A hyphen at the end of a line before a letter that is no capital: the word continues.
_DIVIDED = regex.compile("(?<=\\p{L}\\p{M}*)[-\u00ad\u2010\u00ac\u2e17]$", regex.V1)
_GOES_ON = regex.compile(r"\p{Ll}|\p{Lo}")
#: Scripts that put no spaces between words.
_SPACELESS = regex.compile(
    r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}\u3000-\u303f\uff00-\uff60]", regex.V1
)


def remove_invisible(text: str) -> tuple[str, int]:
    """Return a text without the characters that draw nothing, and how many were removed.

    The zero-width joiner and non-joiner stay beside letters of the scripts that need them (Arabic and Persian, Indic
    and others), and joiners within emoji stay. Variation selectors stay: they choose a shape.
    """
    if _SUSPECT.search(text) is None:
        return text, 0
    seen = _INVISIBLE.sub("", text)
    seen = _REPEATED_JOINER.sub(r"\1", seen)
    seen = _IDLE_TAG.sub("", _IDLE_JOINER.sub("", seen))
    return seen, len(text) - len(seen)


def join_paragraphs(text: str) -> str:
    r"""Return a text with one line for each paragraph and an empty line between two.

    Paragraphs are what empty lines part. Lines are joined by a space; by nothing between two characters of scripts
    without spaces, and where a word was divided by a hyphen (which goes) before a letter that is no capital.
    """
    return "\n\n".join(_one_line(paragraph) for paragraph in _BLANK_LINES.split(text.strip("\n")))


def _one_line(paragraph: str) -> str:
    lines = [line for line in map(str.strip, paragraph.split("\n")) if line]
    joined = lines[:1]
    for before, line in pairwise(lines):
        if _GOES_ON.match(line) and _DIVIDED.search(before):
            joined[-1] = joined[-1][:-1]
        elif not (_SPACELESS.match(before[-1]) and _SPACELESS.match(line)):
            joined.append(" ")
        joined.append(line)
    return "".join(joined)
