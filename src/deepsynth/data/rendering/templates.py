"""Typographic styles: what an article, a report, a receipt or invoice, and a form look like."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple, TypeVar

from deepsynth.data.typesetting.pages import Frame, make_frame
from deepsynth.data.typesetting.paragraphs import Look, TableStyle

Value = TypeVar("Value")
Template = Literal["article", "report", "receipt", "form"]


class Typography(NamedTuple):
    """What a template sets.

    Attributes:
        family: font family, where the user leaves the choice.
        size_px: font size, where the user leaves the choice, pixels.
        frame: the columns.
        line_height: distance of baselines, in units of the font size.
        justify: stretch lines to the width of the column.
        look: how blocks are set.
    """

    family: str
    size_px: float
    frame: Frame
    line_height: float
    justify: bool
    look: Look


def typography(template: Template, draws: Sequence[float], page: tuple[int, int]) -> Typography:
    """Return the typography of a document.

    Args:
        template: name of the template.
        draws: eight numbers from 0 to 1, which vary it.
        page: width and height of a page, pixels.
    """
    return _TEMPLATES[template](draws, page)


def _article(draws: Sequence[float], page: tuple[int, int]) -> Typography:
    width, height = page
    margin = _between(draws[0], 0.06, 0.09) * width
    frame = make_frame(width, height, round(margin), 2, round(_between(draws[1], 0.025, 0.04) * width))
    size = width / _between(draws[2], 62, 74)
    look = Look(
        table_style=_one(draws[3], ("ruled", "ruled", "grid")),
        centered=_one(draws[4], (1, 2)),
        spanning_title=True,
        running_head=draws[5] < 0.5,
        page_number="center",
    )
    return Typography("DejaVu Serif", size, frame, _between(draws[6], 1.15, 1.3), True, look)


def _report(draws: Sequence[float], page: tuple[int, int]) -> Typography:
    width, height = page
    frame = make_frame(width, height, round(_between(draws[0], 0.09, 0.13) * width), 1, 0)
    size = width / _between(draws[1], 50, 60)
    look = Look(
        table_style=_one(draws[2], ("banded", "ruled", "grid")),
        wide_tables=draws[3] < 0.5,
        bars=draws[4] < 0.3,
        running_head=draws[5] >= 0.25,
        running_foot=draws[5] < 0.25,
        page_number=_one(draws[5], ("right", "center")),
    )
    family = _one(draws[6], ("DejaVu Sans", "DejaVu Serif"))
    return Typography(family, size, frame, _between(draws[7], 1.25, 1.5), draws[7] < 0.4, look)


def _receipt(draws: Sequence[float], page: tuple[int, int]) -> Typography:
    """Return a till receipt, narrow and in one width of letters, or an invoice as wide as the page."""
    width, height = page
    style: TableStyle = _one(draws[1], ("banded", "ruled", "grid"))
    if draws[0] < 0.5:
        margin = round(_between(draws[2], 0.08, 0.11) * width)
        frame = make_frame(width, height, margin, 1, 0)
        look = Look(table_style=style, wide_tables=True, bars=draws[4] < 0.3)
        return Typography("DejaVu Sans", width / _between(draws[3], 50, 62), frame, 1.35, False, look)
    side = round(_between(draws[2], 0.2, 0.28) * width)
    top = round(0.05 * height)
    frame = Frame((side,), width - 2 * side, top, height - top)
    look = Look(table_style="borderless", wide_tables=True, centered=6)
    return Typography("DejaVu Sans Mono", width / _between(draws[3], 46, 56), frame, 1.25, False, look)


def _form(draws: Sequence[float], page: tuple[int, int]) -> Typography:
    width, height = page
    frame = make_frame(width, height, round(_between(draws[0], 0.06, 0.1) * width), 1, 0)
    look = Look(
        table_style="grid",
        wide_tables=True,
        centered=_one(draws[1], (0, 1)),
        bars=draws[2] < 0.8,
        running_foot=0.4 <= draws[3] < 0.6,
        page_number=_one(draws[3], ("", "right", "center")),
    )
    return Typography("DejaVu Sans", width / _between(draws[4], 54, 64), frame, 1.4, False, look)


def _between(draw: float, low: float, high: float) -> float:
    return low + (high - low) * draw


def _one(draw: float, values: Sequence[Value]) -> Value:
    return values[min(int(draw * len(values)), len(values) - 1)]


_TEMPLATES: dict[str, Callable[[Sequence[float], tuple[int, int]], Typography]] = {
    "article": _article,
    "report": _report,
    "receipt": _receipt,
    "form": _form,
}
