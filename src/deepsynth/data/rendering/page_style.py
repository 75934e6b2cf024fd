"""The style of each page, sampled from the renderer's options."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np

from deepsynth.data.fonts.glyphs import FontStyle
from deepsynth.data.rendering.options import TextOptions
from deepsynth.data.rendering.page_geometry import Color, parse_color
from deepsynth.data.rendering.templates import typography
from deepsynth.data.typesetting.composition import PageDesign
from deepsynth.data.typesetting.hyphenation import hyphenation_for
from deepsynth.data.typesetting.pages import make_frame
from deepsynth.data.typesetting.paragraphs import Look, quantize

Value = TypeVar("Value", bound=str)

#: Numbers drawn for a page; more than are used, so that a new option does not change the old ones' values.
_DRAWS = 16
_DEFAULT_SIZE_PX = 20.0
#: Behind every number of a page.
_TEMPLATE_STREAM = 2**32 - 1


@dataclass(frozen=True)
class PageStyle(PageDesign):
    """The design of one page and its colors.

    Attributes:
        text_color: color of the text.
        background_color: color of the page.
    """

    text_color: Color
    background_color: Color


def sample_style(options: TextOptions, seed: int, region: str, language: str | None, number: int) -> PageStyle:
    """Return the style of a page, the same whichever pages were sampled before it.

    Args:
        options: fixed values, ranges and lists to choose from.
        seed: seed of the document.
        region: region whose forms of Chinese characters are used.
        language: BCP-47 code of the document, for hyphenation.
        number: number of the page in its document.
    """
    # Always as many numbers, so that one option's range leaves the values of the others alone.
    draws = np.random.default_rng([seed, number]).random(_DRAWS)
    size = options.font_size_px if options.font_size_px is not None else _DEFAULT_SIZE_PX
    density = options.characters_per_token
    family = _choose(options.fonts, draws[0])
    margin, columns = round(_between(options.margin_px, draws[2])), round(_between(options.columns, draws[3]))
    style = PageStyle(
        font=FontStyle(family, quantize(_between(size, draws[1])), region=region),
        frame=make_frame(*options.page_size_px, margin, columns, options.column_gap_px),
        line_height=_between(options.line_height, draws[4]),
        justify=bool(draws[5] < options.justify),
        hyphenation=hyphenation_for(language) if draws[9] < options.hyphenate else None,
        look=Look(table_style=_choose(options.table_styles, draws[10])),
        characters=None if density is None else _between(density, draws[8]) * (options.image_tokens or 0),
        text_color=parse_color(_choose(options.text_color, draws[6])),
        background_color=parse_color(_choose(options.background_color, draws[7])),
    )
    return _in_template(style, options, seed) if options.templates else style


def _in_template(style: PageStyle, options: TextOptions, seed: int) -> PageStyle:
    """Return a page's style in the template of its document, which is the same for all of its pages."""
    chosen, *draws = np.random.default_rng([seed, _TEMPLATE_STREAM]).random(9).tolist()
    found = typography(_choose(options.templates, chosen), draws, options.page_size_px)
    font = style.font
    if options.fonts == TextOptions.fonts:
        font = font._replace(family=found.family)
    if options.font_size_px is None:
        font = font._replace(size_px=quantize(found.size_px))
    return replace(
        style, font=font, frame=found.frame, line_height=found.line_height, justify=found.justify, look=found.look
    )


def _between(value: float | tuple[float, float], draw: float) -> float:
    if isinstance(value, tuple):
        return value[0] + (value[1] - value[0]) * float(draw)
    return value


def _choose(values: tuple[Value, ...], draw: float) -> Value:
    return values[min(int(draw * len(values)), len(values) - 1)]
