"""What a text undergoes before it is drawn, and before it becomes a label. ``docs/guides/text.md`` has the rules.

Before it is drawn:

1. Lone surrogates are refused: they are no characters.
2. Line ends become one newline: CR LF, CR, vertical tab, form feed, NEL, U+2028 and U+2029.
3. Byte-order marks (U+FEFF) and the C0 and C1 controls are removed, and counted; newline and tab stay.
4. The text is normalized to NFC.

What guides the layout stays (spaces of every kind, joiners, bidirectional marks, soft hyphens); :class:`TextCleaning`
keeps it out of the label. No option of it changes a pixel.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from deepsynth.errors import UserError
from deepsynth.metrics.visible_text import join_paragraphs, remove_invisible
from deepsynth.types import PAGE_BREAK, Document, Line

LineBreaks = Literal["page", "source", "paragraphs"]

_LINE_ENDS = re.compile("\r\n|[\r\x0b\x0c\x85\u2028\u2029]")
_REMOVED = re.compile("[\x00-\x08\x0e-\x1f\x7f-\x9f\ufeff]")
_SURROGATE = re.compile("[\ud800-\udfff]")
_TRAILING_SPACES = re.compile(r"[^\S\n]+$", re.MULTILINE)
_SPACES = re.compile(r"[^\S\n]+")
_CHOICES: dict[str, tuple[str, ...]] = {
    "line_breaks": ("page", "source", "paragraphs"),
    "normalization": ("NFC", "NFKC", "none"),
    "invisible": ("remove", "keep"),
    "spaces": ("keep", "collapse"),
}


def clean_text(text: str) -> tuple[str, int]:
    """Return the text as it will be drawn, and how many characters were removed.

    Raises:
        UserError: for a lone surrogate, with its place.
    """
    text, removed = _REMOVED.subn("", unify_line_ends(text))
    return unicodedata.normalize("NFC", text), removed


def unify_line_ends(text: str) -> str:
    """Return the text with one newline for every kind of line end.

    Raises:
        UserError: for a lone surrogate, with its place.
    """
    surrogate = _SURROGATE.search(text)
    if surrogate:
        raise UserError(
            f"character {surrogate.start()} of the text is the lone surrogate U+{ord(surrogate.group()):04X}, which is "
            "half a character; decode the source with errors='replace', or fix its \\u escapes"
        )
    return _LINE_ENDS.sub("\n", text)


def fold_whitespace(text: str) -> str:
    """Return the text with every run of white space made one space, and none at the ends."""
    return " ".join(text.split())


@dataclass(frozen=True)
class TextCleaning:
    """How a text becomes a label: the transcription of a page or scan, or a target.

    Line ends, byte-order marks and controls are always cleaned, and white space at the ends of lines and empty lines
    at the ends of the text go.

    Attributes:
        line_breaks: lines of a transcription: as the page shows them, with the hyphens drawn at their ends; as the
            source has them; or joined within paragraphs. The transcription of a scan has the page's lines, unless
            ``paragraphs`` joins them. ``deepsynth/tiny`` was trained with those of the source.
        normalization: Unicode form of the label; "none" leaves that of scans and targets as it is (rendered text is
            drawn in NFC).
        invisible: remove or keep what draws nothing: zero-width and soft characters, bidirectional marks. Joiners that
            shape letters (Persian, Indic) or emoji stay.
        spaces: keep runs of spaces, tabs and no-break spaces, or make each one space.
    """

    line_breaks: LineBreaks = "page"
    normalization: Literal["NFC", "NFKC", "none"] = "NFC"
    invisible: Literal["remove", "keep"] = "remove"
    spaces: Literal["keep", "collapse"] = "keep"

    def __post_init__(self) -> None:
        """Refuse what is no choice.

        Raises:
            UserError: with the option, its value and the choices.
        """
        for name, allowed in _CHOICES.items():
            if getattr(self, name) not in allowed:
                raise UserError(f"data.text.{name} is {getattr(self, name)!r}; it must be one of {', '.join(allowed)}")

    def label(self, text: str, changes: Counter[str] | None = None) -> str:
        """Return a text without a page's lines (a scan's or a target's) as a label.

        Args:
            text: any text.
            changes: counts what was changed, by the kind of change.

        Raises:
            UserError: for a lone surrogate.
        """
        counts: Counter[str] = Counter() if changes is None else changes
        label = unify_line_ends(text)
        counts["line ends"] += len(_LINE_ENDS.findall(text))
        label, found = _REMOVED.subn("", label)
        counts["controls and byte-order marks"] += found
        if self.invisible == "remove":
            label, found = remove_invisible(label)
            counts["invisible characters"] += found
        if self.normalization != "none" and not unicodedata.is_normalized(self.normalization, label):
            counts[f"texts not in {self.normalization}"] += 1
            label = unicodedata.normalize(self.normalization, label)
        if self.spaces == "collapse":
            collapsed = _SPACES.sub(" ", label)
            counts["spaces"] += len(label) - len(collapsed)
            label = collapsed
        trimmed = _TRAILING_SPACES.sub("", label).strip("\n")
        counts["white space at ends of lines or text"] += len(label) - len(trimmed)
        return trimmed

    def scan(self, text: str) -> str:
        """Return the transcription of a scan as a label."""
        label = self.label(text)
        return join_paragraphs(label) if self.line_breaks == "paragraphs" else label

    def page(self, text: str, lines: Sequence[Line], *, markup: bool = False) -> str:
        """Return the text of a rendered page as a label.

        Args:
            text: the page's text with the lines of the source.
            lines: the page's lines; a renderer that gives none leaves the text as it is.
            markup: whether a line of the source is a whole block already, as in Markdown.
        """
        if self.line_breaks == "page" and lines:
            text = "".join([part for line in lines for part in (line.text, line.ending)])
        label = self.label(text)
        return join_paragraphs(label) if self.line_breaks == "paragraphs" and not markup else label

    def count_changes(self, documents: Iterable[Document]) -> str:
        """Return what cleaning changes in the texts and targets of documents, in one line; "" for nothing."""
        changes: Counter[str] = Counter()
        changed = total = 0
        for document in documents:
            total += 1
            before = changes.total()
            self.label(document.text.replace(PAGE_BREAK, "\n") if document.target is None else document.target, changes)
            changed += changes.total() > before
        shown = ", ".join(f"{count} {kind}" for kind, count in changes.items() if count)
        return f"{changed} of {total} texts cleaned for their labels: {shown}" if shown else ""
