"""What varies between pages, drawn for each page on its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from deepsynth.data.rendering.page_geometry import Colour, parse_colour
from deepsynth.data.typesetting.paragraphs import quantise

if TYPE_CHECKING:
    from deepsynth.data.rendering.renderer import TextRenderer

#: Numbers drawn for a page; more than are used, so that a new option does not change the old ones' values.
_DRAWS = 16
_DEFAULT_SIZE_PX = 20.0


@dataclass(frozen=True)
class Look:
    """One page's choices.

    Attributes:
        family: of the font.
        font_size_px: of the body text.
        margin_px: on every side.
        columns: of text.
        leading: distance of baselines, in units of the font size.
        justify: stretch lines to the width of the column.
        hyphenate: divide words at the end of a line.
        ink: colour of the text.
        paper: colour of the page.
        characters_per_token: to aim at, ``None`` when the font size is given.
    """

    family: str
    font_size_px: float
    margin_px: int
    columns: int
    leading: float
    justify: bool
    hyphenate: bool
    ink: Colour
    paper: Colour
    characters_per_token: float | None


def draw_look(options: TextRenderer, seed: int, number: int) -> Look:
    """Return the look of a page, the same whichever pages were drawn before it.

    Args:
        options: fixed values, ranges and lists to draw from.
        seed: of the document.
        number: of the page.
    """
    # Always as many numbers, so that one option's range leaves the values of the others alone.
    draws = np.random.default_rng([seed, number]).random(_DRAWS)
    budget = options.characters_per_token
    size = options.font_size_px if options.font_size_px is not None else _DEFAULT_SIZE_PX
    return Look(
        family=_choose(options.fonts, draws[0]),
        font_size_px=quantise(_between(size, draws[1])),
        margin_px=round(_between(options.margin_px, draws[2])),
        columns=round(_between(options.columns, draws[3])),
        leading=_between(options.leading, draws[4]),
        justify=bool(draws[5] < options.justify),
        ink=parse_colour(_choose(options.ink, draws[6])),
        paper=parse_colour(_choose(options.paper, draws[7])),
        characters_per_token=None if budget is None else _between(budget, draws[8]),
        hyphenate=bool(draws[9] < options.hyphenate),
    )


def _between(value: float | tuple[float, float], draw: float) -> float:
    if isinstance(value, tuple):
        return value[0] + (value[1] - value[0]) * float(draw)
    return value


def _choose(values: tuple[str, ...], draw: float) -> str:
    return values[min(int(draw * len(values)), len(values) - 1)]
