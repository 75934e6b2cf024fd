"""The size of a page, its colors, and the bounds of numbers."""

from __future__ import annotations

from typing import Literal

from PIL import ImageColor

from deepsynth.errors import UserError
from deepsynth.models.registry import FAMILIES
from deepsynth.models.tokens import Layout

PageShape = Literal["a4", "a5", "letter", "legal"]

#: Width and height in millimeters (ISO 216; ANSI/ASME Y14.1).
_PAGE_SHAPES_MM: dict[str, tuple[float, float]] = {
    "a4": (210.0, 297.0),
    "a5": (148.0, 210.0),
    "letter": (215.9, 279.4),
    "legal": (215.9, 355.6),
}
_MILLIMETERS_PER_INCH = 25.4
_LEAST_CONTRAST = 2.0

Color = tuple[int, int, int]


def check_between(name: str, value: float | tuple[float, float] | None, least: float, most: float) -> None:
    """Refuse a number or a range beyond its bounds; ``None`` is always allowed.

    Raises:
        UserError: with the option's name, what it is and what is allowed.
    """
    if value is None:
        return
    ends = value if isinstance(value, tuple) else (value, value)
    if len(ends) != 2 or not (least <= ends[0] <= ends[1] <= most):  # also refuses NaN
        raise UserError(f"{name} is {value}; it must be from {least} to {most}, or a range [low, high] within that")


def parse_color(name: str) -> Color:
    """Return red, green and blue of a color's CSS name or #rrggbb.

    Raises:
        UserError: when there is no such color.
    """
    try:
        red, green, blue = ImageColor.getrgb(name)[:3]
    except ValueError as error:
        raise UserError(f"{name!r} is not a color; give a CSS name such as 'black', or '#rrggbb'") from error
    return red, green, blue


def check_contrast(text_color: str, background_color: str) -> None:
    """Refuse text that can hardly be told from the page.

    Raises:
        UserError: when the contrast ratio (WCAG 2.1) is below 2, or there is no such color.
    """
    luminances = _luminance(parse_color(text_color)), _luminance(parse_color(background_color))
    ratio = (max(luminances) + 0.05) / (min(luminances) + 0.05)
    if ratio < _LEAST_CONTRAST:
        raise UserError(
            f"text_color {text_color!r} on background_color {background_color!r} has a contrast of {ratio:.2f}; it "
            f"must be at least {_LEAST_CONTRAST:g} for every pair that may be drawn"
        )


def _luminance(color: Color) -> float:
    """Return the relative luminance, 0 to 1, as WCAG 2.1 defines it."""
    linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in (part / 255 for part in color)]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def page_size(
    layout: Layout | None, width_px: int | None, height_px: int | None, shape: PageShape | None, dpi: float
) -> tuple[int, int]:
    """Return width and height of a page in pixels: as given, from a shape of paper, from the mode, else 1024 square.

    Raises:
        UserError: for an unknown shape.
    """
    if shape is not None:
        if shape not in _PAGE_SHAPES_MM:
            raise UserError(f"page_shape is {shape!r}; it must be one of {', '.join(_PAGE_SHAPES_MM)}")
        width, height = _PAGE_SHAPES_MM[shape]
        return round(width / _MILLIMETERS_PER_INCH * dpi), round(height / _MILLIMETERS_PER_INCH * dpi)
    side = layout.page_side if layout else 1024
    return width_px or side, height_px or side


def mode_layout(family: str, mode: str | None) -> Layout | None:
    """Return how a mode's images become tokens, ``None`` without a mode.

    Raises:
        UserError: for a family or mode that does not exist.
    """
    if mode is None:
        return None
    if family not in FAMILIES:
        raise UserError(f"family is {family!r}; known: {', '.join(FAMILIES)}")
    modes = FAMILIES[family].modes
    if mode not in modes:
        raise UserError(f"mode is {mode!r}; {family} has {', '.join(modes) or 'no modes'}")
    return modes[mode]
