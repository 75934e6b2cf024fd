"""How a page looks: its size, its columns, its colours, and the size of its type."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

from PIL import ImageColor

from deepsynth.data.typesetting.pages import Frame, Place, Sheet
from deepsynth.data.typesetting.paragraphs import quantise
from deepsynth.models.tokens import MODES, Family, ImageLayout

PageShape = Literal["a4", "a5", "letter", "legal"]

#: Width and height in millimetres (ISO 216; ANSI/ASME Y14.1).
_PAGE_SHAPES_MM: dict[str, tuple[float, float]] = {
    "a4": (210.0, 297.0),
    "a5": (148.0, 210.0),
    "letter": (215.9, 279.4),
    "legal": (215.9, 355.6),
}
_MILLIMETRES_PER_INCH = 25.4
_LEAST_CONTRAST = 2.0
#: A first guess at the width of a letter, in units of the font size; corrected from what is measured.
_LETTER_WIDTH = 0.55
_LINE_HEIGHT = 1.3


Colour = tuple[int, int, int]


def check_between(name: str, value: float | tuple[float, float] | None, least: float, most: float) -> None:
    """Refuse a number or a range beyond its bounds; ``None`` is always allowed.

    Raises:
        ValueError: with the option's name, what it is and what is allowed.
    """
    if value is None:
        return
    ends = value if isinstance(value, tuple) else (value, value)
    if len(ends) != 2 or not (least <= ends[0] <= ends[1] <= most):  # also refuses NaN
        raise ValueError(f"{name} is {value}; it must be from {least} to {most}, or a range [low, high] within that")


def parse_colour(name: str) -> Colour:
    """Return red, green and blue of a colour's CSS name or #rrggbb.

    Raises:
        ValueError: when there is no such colour.
    """
    try:
        red, green, blue = ImageColor.getrgb(name)[:3]
    except ValueError as error:
        raise ValueError(f"{name!r} is no colour; give a CSS name such as 'black', or '#rrggbb'") from error
    return red, green, blue


def check_contrast(ink: Colour, paper: Colour, ink_name: str, paper_name: str) -> None:
    """Refuse text that can hardly be told from the page.

    Raises:
        ValueError: when the contrast ratio (WCAG 2.1) is below 2.
    """
    bright, dark = sorted((_luminance(ink), _luminance(paper)), reverse=True)
    ratio = (bright + 0.05) / (dark + 0.05)
    if ratio < _LEAST_CONTRAST:
        raise ValueError(
            f"ink {ink_name!r} on paper {paper_name!r} has a contrast of {ratio:.2f}; it must be at least "
            f"{_LEAST_CONTRAST:g} for every pair that may be drawn"
        )


def _luminance(colour: Colour) -> float:
    """Return the relative luminance, 0 to 1, as WCAG 2.1 defines it."""
    linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in (part / 255 for part in colour)]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def page_size(
    layout: ImageLayout | None, width_px: int | None, height_px: int | None, shape: PageShape | None, dpi: float
) -> tuple[int, int]:
    """Return width and height of a page in pixels: as given, from a shape of paper, from the mode, else 1024 square.

    Raises:
        ValueError: for an unknown shape.
    """
    if shape is not None:
        if shape not in _PAGE_SHAPES_MM:
            raise ValueError(f"page_shape is {shape!r}; it must be one of {', '.join(_PAGE_SHAPES_MM)}")
        width, height = _PAGE_SHAPES_MM[shape]
        return round(width / _MILLIMETRES_PER_INCH * dpi), round(height / _MILLIMETRES_PER_INCH * dpi)
    side = layout.base_size if layout else 1024
    return width_px or side, height_px or side


def mode_layout(family: Family, mode: str | None) -> ImageLayout | None:
    """Return how a mode's images become tokens, ``None`` without a mode.

    Raises:
        ValueError: for a family or mode that does not exist.
    """
    if mode is None:
        return None
    if family not in MODES:
        raise ValueError(f"family is {family!r}; known: {', '.join(MODES)}")
    if mode not in MODES[family]:
        raise ValueError(f"mode is {mode!r}; {family} has {', '.join(MODES[family])}")
    return MODES[family][mode]


def make_frame(width_px: int, height_px: int, margin_px: int, columns: int, gap_px: int) -> Frame:
    """Return the columns of a page.

    Raises:
        ValueError: when the margins leave no room.
    """
    width = (width_px - 2 * margin_px - (columns - 1) * gap_px) // columns
    height = height_px - 2 * margin_px
    if width < 1 or height < 1:
        raise ValueError(
            f"a page of {width_px} x {height_px} pixels has no room for {columns} column(s) between margins of "
            f"{margin_px} pixels; take a larger page or a smaller margin_px"
        )
    lefts = tuple(margin_px + number * (width + gap_px) for number in range(columns))
    return Frame(lefts, width, margin_px, margin_px + height)


def size_for_budget(
    lay_out: Callable[[float], tuple[Sheet, Place | None]], frame: Frame, characters: float, bounds: tuple[float, float]
) -> float:
    """Return the font size at which a full page holds a number of characters.

    A page's capacity goes with the inverse square of the size, so two corrections from the page itself are enough.

    Args:
        lay_out: returns the page at a font size, and where the next one begins.
        frame: the columns of a page.
        characters: that a full page shall hold.
        bounds: of the font size, pixels.
    """
    area = frame.width * frame.height * len(frame.lefts)
    wanted = math.sqrt(area / characters / _LETTER_WIDTH / _LINE_HEIGHT)
    size = quantise(min(max(wanted, bounds[0]), bounds[1]))
    for _ in range(2):
        wanted = size * math.sqrt(_capacity(*lay_out(size), frame) / characters)
        better = quantise(min(max(wanted, bounds[0]), bounds[1]))
        if better == size:
            break
        size = better
    return size


def _capacity(sheet: Sheet, rest: Place | None, frame: Frame) -> float:
    """Return how many characters a full page holds, extrapolated from a part of one."""
    characters = max(1, sum(len(placed.line.text) + 1 for placed in sheet.lines))
    if rest is not None:
        return characters
    last = sheet.lines[-1] if sheet.lines else None
    columns_before = sum(1 for left in frame.lefts if last and left <= last.x) - 1
    used = max(columns_before, 0) * frame.height + (last.baseline - frame.top if last else frame.height)
    return characters * frame.height * len(frame.lefts) / max(used, 1)
