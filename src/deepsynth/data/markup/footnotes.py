"""Footnotes of a Markdown document: their numbers, their texts, and which reference carries them."""

from __future__ import annotations

from collections.abc import Sequence

from deepsynth.data.typesetting.paragraphs import Paragraph, RunStyle

NOTE = RunStyle(scale=0.8)
_INDENT = 1.0
_SUPERSCRIPTS = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")
_DIGITS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹", "0123456789")


def note_number(marker: str) -> int:
    """Return the number of a footnote by its sign."""
    return int(marker.translate(_DIGITS))


class Footnotes:
    """The footnotes of one document.

    Args:
        labels: labels of the texts, in their order; a label that is a number gives the number.
    """

    def __init__(self, labels: Sequence[str]) -> None:
        own = {label: int(label) for label in labels if label.isdecimal() and label.isascii() and int(label)}
        free = (number for number in range(1, len(labels) + len(own) + 1) if number not in own.values())
        self._numbers = {label: own.get(label) or next(free) for label in dict.fromkeys(labels)}
        self._referred: set[int] = set()
        self._texts: dict[int, Paragraph] = {}

    def add(self, label: str, runs: Sequence[tuple[str, RunStyle]]) -> None:
        """Add the text of a label; a second one is not used, as in GitHub's Markdown."""
        number = self._numbers[label]
        marker = str(number).translate(_SUPERSCRIPTS)
        self._texts.setdefault(number, Paragraph(tuple(runs) or (("", NOTE),), _INDENT, marker, label="footnote"))

    def reference(self, label: str, *, carries: bool) -> tuple[str, int] | None:
        """Return the sign of a reference, and the number of the footnote that stands at its foot.

        The number is 0 for all references but the first, and where none can be carried; ``None`` without a text.
        """
        number = self._numbers.get(label)
        if number is None:
            return None
        sign = str(number).translate(_SUPERSCRIPTS)
        if number in self._referred or not carries:
            return sign, 0
        self._referred.add(number)
        return sign, number

    def attach(self, paragraph: Paragraph) -> Paragraph:
        """Return a paragraph with the footnotes that it refers to."""
        notes: list[tuple[int, Paragraph]] = []
        end = 0
        for text, style in paragraph.runs:
            end += len(text)
            if style.note:
                notes.append((end, self._texts[style.note]))
        return paragraph._replace(notes=tuple(notes)) if notes else paragraph

    def rest(self) -> list[Paragraph]:
        """Return the footnotes that no reference carries; they stand where the document ends."""
        return [note for number, note in self._texts.items() if number not in self._referred]
