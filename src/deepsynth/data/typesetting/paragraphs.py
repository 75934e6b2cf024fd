"""Paragraphs of a document, before a page gives them a font and a size."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

#: Font sizes are multiples of this, so that shaped words repeat between documents.
SIZE_STEP_PX = 0.5


class RunStyle(NamedTuple):
    """Differences of a run from the body text of its page, whose font and size the page chooses.

    Attributes:
        family: font family instead of the body's.
        scale: font size in units of the body's.
        bold: use the bold face.
        italic: use the italic face.
    """

    family: str | None = None
    scale: float = 1.0
    bold: bool = False
    italic: bool = False


BODY = RunStyle()


@dataclass(frozen=True)
class Paragraph:
    """Text without a line end of its own.

    Attributes:
        runs: parts of the text with their styles; at least one.
        indent_em: indent of the whole paragraph, on the side where its lines begin, in units of the body's font size.
        marker: marker of a list item, set in the indent of the first line.
        space_before_em: space above the paragraph, unless it begins a column, in units of the body's font size.
        keep_with_next: whether the paragraph may not end a column.
        align: side that the lines are aligned with; ``None`` is the side where they begin.
    """

    runs: tuple[tuple[str, RunStyle], ...]
    indent_em: float = 0.0
    marker: str = ""
    space_before_em: float = 0.0
    keep_with_next: bool = False
    align: Literal["left", "center", "right"] | None = None

    @property
    def text(self) -> str:
        """The text of all runs."""
        return "".join([text for text, _ in self.runs])


def quantize(size_px: float) -> float:
    """Return the nearest font size that is a multiple of ``SIZE_STEP_PX``."""
    return max(SIZE_STEP_PX, round(size_px / SIZE_STEP_PX) * SIZE_STEP_PX)
