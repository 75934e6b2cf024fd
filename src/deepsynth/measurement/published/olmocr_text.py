"""Text as olmOCR-bench compares it: normalized, searched with a few edits, and checked for what no page ends in."""

from __future__ import annotations

import re
import unicodedata

import numpy as np

#: What is taken off or replaced, in this order: line breaks of HTML, bold, then italics, then runs of white space.
_MARKUP: tuple[tuple[str, str], ...] = (
    (r"<br/?>", " "),
    (r"\*\*(.*?)\*\*", r"\1"),
    (r"__(.*?)__", r"\1"),
    (r"</?[bi]>", ""),
    (r"(\*\*|__|\*|_)(.*?)\1", r"\2"),
    (r"\s+", " "),
)
_TYPOGRAPHY = str.maketrans(
    {**dict.fromkeys("‘’‚", "'"), **dict.fromkeys("“”„", '"'), **dict.fromkeys("–—‑‒−", "-"), "＿": "_", "µ": "μ"}
)
#: Characters that the benchmark's pages do not have: Han, Hiragana, Katakana, and emoji.
_FOREIGN = re.compile("[一-鿿぀-ヿ\U0001f300-\U0001f64f\U0001f680-\U0001f6ff\U0001f1e0-\U0001f1ff]")
_IMAGE = re.compile(r"!\[.*?\]\(.*?\)")


def normalize(text: str) -> str:
    """Return a text without bold and italics, in NFC, with plain quotes and hyphens, and single spaces."""
    for pattern, replacement in _MARKUP:
        text = re.sub(pattern, replacement, text)
    return unicodedata.normalize("NFC", text).translate(_TYPOGRAPHY)


def find_starts(phrase: str, text: str, most_edits: int) -> list[int]:
    """Return where a phrase stands in a text, with at most so many edits: the first character of each place.

    Of places that overlap, the one with the fewest edits counts, and of those the first.
    """
    if most_edits == 0:
        return [match.start() for match in re.finditer(f"(?={re.escape(phrase)})", text)]
    edits = _edits_from(phrase, text)
    near = np.flatnonzero(edits <= most_edits).tolist()
    groups: list[list[int]] = []
    for start in near:
        if groups and start - groups[-1][-1] < len(phrase) - most_edits:
            groups[-1].append(start)
        else:
            groups.append([start])
    return [min(group, key=lambda start: (edits[start], start)) for group in groups]


def _edits_from(phrase: str, text: str) -> np.ndarray:
    """Return the fewest edits between a phrase and any part of the text that begins at each of its characters.

    Sellers' algorithm from the end of both (1980, https://doi.org/10.1016/0196-6774(80)90016-4).
    """
    codes = np.array([ord(character) for character in reversed(text)], dtype=np.int64)
    steps = np.arange(len(codes) + 1)
    row = np.zeros(len(codes) + 1, dtype=np.int64)
    for number, character in enumerate(reversed(phrase), 1):
        change = row + 1
        change[0] = number
        change[1:] = np.minimum(change[1:], row[:-1] + (codes != ord(character)))
        row = np.minimum.accumulate(change - steps) + steps
    return row[:0:-1]


def ends_in_repeats(text: str, most: int) -> bool:
    """Return whether the last one to five characters stand at the end more than ``most`` times."""
    folded = re.sub(r"\s+", " ", text)
    for size in range(1, min(5, len(folded)) + 1):
        unit, count = folded[-size:], 1
        while folded[max(len(folded) - (count + 1) * size, 0) : len(folded) - count * size] == unit:
            count += 1
        if count > most:
            return True
    return False


def foreign_characters(text: str) -> list[str]:
    """Return the characters of a text that no page of the benchmark has."""
    return _FOREIGN.findall(text)


def letters(text: str, *, images: bool = True) -> int:
    """Return the number of letters and digits.

    Args:
        text: any text.
        images: whether the descriptions of Markdown images count.
    """
    return sum(map(str.isalnum, text if images else _IMAGE.sub("", text)))
