"""What a renderer's options may be."""

from __future__ import annotations

from typing import TYPE_CHECKING

from deepsynth.data.rendering.page_geometry import check_between, check_contrast, make_frame, parse_colour
from deepsynth.data.typesetting.hyphenation import check_hyphenation

if TYPE_CHECKING:
    from deepsynth.data.rendering.renderer import TextRenderer

#: Smallest and largest value of every number, or of both ends of its range.
_BOUNDS: dict[str, tuple[float, float]] = {
    "page_width_px": (16, 20_000),
    "page_height_px": (16, 20_000),
    "dpi": (10, 2400),
    "margin_px": (0, 10_000),
    "columns": (1, 8),
    "column_gap_px": (0, 10_000),
    "font_size_px": (1, 1000),
    "characters_per_token": (0.01, 1000),
    "leading": (0.5, 10),
    "justify": (0, 1),
    "hyphenate": (0, 1),
    "max_pages": (1, 1_000_000),
    "min_font_size_px": (1, 1000),
}
_CHOICES: dict[str, tuple[str, ...]] = {
    "markup": ("plain", "markdown"),
    "on_overflow": ("error", "paginate", "shrink", "truncate"),
    "on_missing_glyph": ("error", "replace"),
}


def check_options(options: TextRenderer) -> None:
    """Refuse options that contradict each other or cannot be met.

    Raises:
        ValueError: with the option's name, what it is, and what is allowed.
        ImportError: when an option needs a library that is not installed.
    """
    for name, (least, most) in _BOUNDS.items():
        check_between(name, getattr(options, name), least, most)
    for name, allowed in _CHOICES.items():
        if getattr(options, name) not in allowed:
            raise ValueError(f"{name} is {getattr(options, name)!r}; it must be one of {', '.join(allowed)}")
    for name in ("fonts", "ink", "paper"):
        if isinstance(getattr(options, name), str) or not getattr(options, name):
            raise ValueError(f"{name} is {getattr(options, name)!r}; it must be a list of at least one")
    if options.hyphenate:
        check_hyphenation()
    _check_page(options)
    _check_budget(options)
    for ink in options.ink:
        for paper in options.paper:
            check_contrast(parse_colour(ink), parse_colour(paper), ink, paper)


def _check_page(options: TextRenderer) -> None:
    if options.page_shape is not None and (options.page_width_px is not None or options.page_height_px is not None):
        raise ValueError(
            f"page_shape is {options.page_shape!r} and page_width_px or page_height_px is given too; give one of them"
        )
    size = options.page_size_px  # refuses an unknown mode or shape
    for margin in options.margin_px if isinstance(options.margin_px, tuple) else (options.margin_px,):
        for columns in options.columns if isinstance(options.columns, tuple) else (options.columns,):
            make_frame(*size, margin, columns, options.column_gap_px)


def _check_budget(options: TextRenderer) -> None:
    if options.characters_per_token is None:
        return
    if options.mode is None:
        raise ValueError("characters_per_token needs a mode, whose vision tokens it counts; give mode, as in 'base'")
    if isinstance(options.font_size_px, (int, float)):
        raise ValueError(
            f"font_size_px is {options.font_size_px} and characters_per_token is given too; give font_size_px as a "
            "range of allowed sizes, or leave it out"
        )
