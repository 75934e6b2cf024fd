"""Arabic and Hebrew words as single letters, each in the form that it has between its neighbours.

Every new word would cost a call of HarfBuzz, and words of these scripts repeat slowly; letters do not. In a font whose
rules for them are no more than the forms of joining letters, lam-alef, and marks on a letter (no kerning, no rule
across other letters: DejaVu), a letter between joiners has the very glyph that it has within its word, so that a word
put together from such letters equals the word shaped whole.
"""

from __future__ import annotations

import re
from functools import cache

from deepsynth.data.fonts.files import FontFile, bundled_faces

_ZERO_WIDTH_JOINER = "\u200d"
#: Joining types of the Unicode Character Database: letters that join both sides, and those that join the one before.
_DUAL_JOINING = frozenset("بتثجحخسشصضطظعغفقكلمنهيىئپچکگیٹںھڤڵێـ")
_RIGHT_JOINING = frozenset("اآأإدذرزوؤةژڈڑڕۆە")
_JOINING = _DUAL_JOINING | _RIGHT_JOINING
_KASHIDA = "ـ"
_LETTERS = "".join(sorted(_JOINING - {_KASHIDA})) + "ءאבגדהוזחטיךכלםמןנסעףפץצקרשת"
_MARKS = "\u064b-\u0652\u0670\u05b0-\u05bc\u05c1\u05c2"
#: Marks do not follow these: a kashida and its mark may be one glyph, which a joiner between them would part.
_SIGNS = re.escape(_KASHIDA + "\u200c.,:;!?،؛؟()[]\"'«»-–—…/‹›“”‘’־׳״")
#: A letter with its marks; lam and alef, with theirs, are one.
_CLUSTER = f"ل[{_MARKS}]*[اآأإ][{_MARKS}]*|[{_LETTERS}][{_MARKS}]*|[{_SIGNS}]"
_CLUSTERS = re.compile(_CLUSTER)
_WORD = re.compile(f"(?:{_CLUSTER})+")


@cache
def _paths() -> frozenset[str]:
    return frozenset(face.path for face in bundled_faces())


def has_single_letters(text: str, face: FontFile) -> bool:
    """Return whether a right-to-left word in a font is no more than its letters, one beside the other."""
    return _WORD.fullmatch(text) is not None and face.path in _paths()


def single_letters(text: str) -> list[str]:
    """Return the letters of a word with their marks, lam-alef as one, and a joiner on the sides where they join.

    Args:
        text: for which :func:`has_single_letters`.
    """
    letters: list[str] = []
    last = ""
    for letter in _CLUSTERS.findall(text):
        if last in _DUAL_JOINING and letter[0] in _JOINING:
            letters[-1] += _ZERO_WIDTH_JOINER
            letters.append(_ZERO_WIDTH_JOINER + letter)
        else:
            letters.append(letter)
        last = letter if len(letter) == 1 else _last_letter(letter)
    return letters


@cache
def _last_letter(letter: str) -> str:
    """Return the last letter of a cluster, which its marks follow."""
    return re.sub(f"[{_MARKS}]", "", letter)[-1]
