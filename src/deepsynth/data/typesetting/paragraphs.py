"""Paragraphs as a document has them, before a page gives them a font and a size."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

#: Font sizes are multiples of this, so that shaped words repeat between documents.
SIZE_STEP_PX = 0.5


class RunStyle(NamedTuple):
    """How a run differs from the body of its page, whose font and size are the page's own choice.

    Attributes:
        family: instead of the body's.
        scale: of the font size, in units of the body's.
        bold: wanted.
        italic: wanted.
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
        runs: text and its style; at least one.
        indent_em: of the whole paragraph, from the side where its lines begin, in units of the body's font size.
        marker: of a list item, set in the indent of the first line.
        space_before_em: above the paragraph, unless it begins a column.
        keep_with_next: do not end a column with it.
        align: the side that its lines keep to; ``None`` is the side where they begin.
    """

    runs: tuple[tuple[str, RunStyle], ...]
    indent_em: float = 0.0
    marker: str = ""
    space_before_em: float = 0.0
    keep_with_next: bool = False
    align: Literal["left", "center", "right"] | None = None

    @property
    def text(self) -> str:
        """Of all runs."""
        return "".join([text for text, _ in self.runs])


def quantize(size_px: float) -> float:
    """Return the nearest font size of those that are used."""
    return max(SIZE_STEP_PX, round(size_px / SIZE_STEP_PX) * SIZE_STEP_PX)
