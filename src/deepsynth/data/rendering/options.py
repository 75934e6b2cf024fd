"""Options of the text renderer, and which values they may have."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal, get_args

from deepsynth.data.rendering.page_geometry import (
    PageShape,
    check_between,
    check_contrast,
    mode_layout,
    page_size,
)
from deepsynth.data.rendering.templates import Template
from deepsynth.data.typesetting.composition import Markup, Overflow
from deepsynth.data.typesetting.hyphenation import check_hyphenation
from deepsynth.data.typesetting.pages import make_frame
from deepsynth.data.typesetting.paragraphs import TableStyle
from deepsynth.errors import UserError

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
    "line_height": (0.5, 10),
    "justify": (0, 1),
    "hyphenate": (0, 1),
    "max_pages": (1, 1_000_000),
    "min_font_size_px": (1, 1000),
}
_CHOICES: dict[str, tuple[str, ...]] = {
    "markup": ("plain", "markdown"),
    "on_overflow": ("error", "paginate", "shrink", "truncate"),
    "on_missing_glyph": ("error", "replace"),
    "on_bad_formula": ("error", "omit"),
}


@dataclass(frozen=True)
class TextOptions:
    """How text is set on pages; one value of every range and list is drawn for each page.

    The defaults give black DejaVu Sans of 20 pixels on a white page of 1024 x 1024 pixels.

    Attributes:
        family: model family that defines ``mode``.
        mode: mode of the model, such as "base": sets the page's size, and counts vision tokens into ``Page.stats``.
        page_width_px: width of the page instead of the mode's.
        page_height_px: height of the page instead of the mode's.
        page_shape: size of paper, at ``dpi``, instead of pixels.
        dpi: pixels per inch of ``page_shape``.
        margin_px: margin on every side.
        columns: number of text columns.
        column_gap_px: space between columns.
        font_size_px: size of the body text, in steps of half a pixel. The default is 20, or with
            ``characters_per_token`` the bounds 6 to 64.
        characters_per_token: choose the font size so that a full page holds this many characters per vision token of
            ``mode``.
        line_height: distance of baselines, in units of the font size.
        justify: share of pages whose lines are stretched to the width of the column.
        hyphenate: share of pages whose words may be divided at the end of a line, by the patterns of the document's
            language (English when it names none); the hyphen is drawn, and is not in the page's text. Needs pyphen.
            Without a hyphen, Thai is divided between words, which needs budoux, and Lao and Burmese between
            syllables.
        fonts: families or font files (a file of matplotlib's wheel by its name alone, as ``STIXGeneralItalic.ttf``);
            characters that the chosen one lacks come from DejaVu, ``font_dirs`` and the system.
        font_dirs: folders with more fonts.
        system_fonts: also use the fonts that are installed.
        on_missing_glyph: for a character that no font has: stop with an error, or show (in the text too) and count
            U+FFFD.
        text_color: colors of the text (CSS names or #rrggbb).
        background_color: colors of the page.
        markup: "plain" draws the text literally; "markdown" draws headings, emphasis, lists, tables (HTML too), code,
            formulas and footnotes as such.
        table_styles: what tables are set between: "grid" (rules around every cell), "ruled" (rules above, below and
            under the head), "banded" (those, and every other row on a light ground) or "borderless".
        templates: typographic styles, one of which is drawn for each document: "article" (two columns, the title across
            them), "report", "receipt" (or an invoice) and "form". They set margins, columns, line height and tables,
            and font and size unless ``fonts`` or ``font_size_px`` do.
        figure_dir: folder of the images that Markdown names; without one, their descriptions are drawn.
        on_bad_formula: for a formula that mathtext cannot set: stop with an error, or leave it out, in the text too,
            and count it.
        on_overflow: for a text that takes more than ``max_pages``: stop with an error; take more pages (``max_pages``
            is then a hard limit); use a smaller font; or cut the text on the page, never a summary, and count the
            characters that were cut.
        max_pages: the default is no limit with "paginate", else 1.
        min_font_size_px: the smallest font that "shrink" may take.
    """

    family: str = "deepseek_ocr"
    mode: str | None = None
    page_width_px: int | None = None
    page_height_px: int | None = None
    page_shape: PageShape | None = None
    dpi: float = 100.0
    margin_px: int | tuple[int, int] = 48
    columns: int | tuple[int, int] = 1
    column_gap_px: int = 32
    font_size_px: float | tuple[float, float] | None = None
    characters_per_token: float | tuple[float, float] | None = None
    line_height: float | tuple[float, float] = 1.3
    justify: float = 0.0
    hyphenate: float = 0.0
    fonts: tuple[str, ...] = ("DejaVu Sans",)
    font_dirs: tuple[str, ...] = ()
    system_fonts: bool = True
    on_missing_glyph: Literal["error", "replace"] = "error"
    text_color: tuple[str, ...] = ("black",)
    background_color: tuple[str, ...] = ("white",)
    markup: Markup = "plain"
    table_styles: tuple[TableStyle, ...] = ("grid",)
    templates: tuple[Template, ...] = ()
    figure_dir: str | None = None
    on_bad_formula: Literal["error", "omit"] = "error"
    on_overflow: Overflow = "paginate"
    max_pages: int | None = None
    min_font_size_px: float = 6.0

    def __post_init__(self) -> None:
        """Refuse options that contradict each other or cannot be met.

        Raises:
            UserError: with the option's name, its value, and what is allowed.
        """
        for field in fields(self):  # lists, as a YAML file has them
            if isinstance(getattr(self, field.name), list):
                object.__setattr__(self, field.name, tuple(getattr(self, field.name)))
        for name, (least, most) in _BOUNDS.items():
            check_between(name, getattr(self, name), least, most)
        for name, allowed in _CHOICES.items():
            if getattr(self, name) not in allowed:
                raise UserError(f"{name} is {getattr(self, name)!r}; it must be one of {', '.join(allowed)}")
        for name in ("fonts", "text_color", "background_color", "table_styles"):
            if isinstance(getattr(self, name), str) or not getattr(self, name):
                raise UserError(f"{name} is {getattr(self, name)!r}; it must be a list of at least one")
        if self.hyphenate:
            check_hyphenation()
        for name, kind in (("table_styles", TableStyle), ("templates", Template)):
            for value in getattr(self, name):
                if value not in get_args(kind):
                    raise UserError(f"{name} has {value!r}; it must have some of {', '.join(get_args(kind))}")
        if self.figure_dir is not None and not Path(self.figure_dir).expanduser().is_dir():
            raise UserError(f"figure_dir is {self.figure_dir!r}; it must be a folder")
        self._check_page()
        self._check_budget()
        for text_color in self.text_color:
            for background_color in self.background_color:
                check_contrast(text_color, background_color)

    @property
    def page_size_px(self) -> tuple[int, int]:
        """Width and height of a page, pixels."""
        layout = mode_layout(self.family, self.mode)
        return page_size(layout, self.page_width_px, self.page_height_px, self.page_shape, self.dpi)

    @property
    def image_tokens(self) -> int | None:
        """Number of vision tokens of a page in ``mode``, ``None`` without a mode."""
        layout = mode_layout(self.family, self.mode)
        return layout.tokens(*self.page_size_px) if layout else None

    def _check_page(self) -> None:
        if self.page_shape is not None and (self.page_width_px is not None or self.page_height_px is not None):
            raise UserError(
                f"page_shape is {self.page_shape!r}, and page_width_px or page_height_px is given too; give only one "
                "of them"
            )
        size = self.page_size_px  # refuses an unknown mode or shape
        for margin in self.margin_px if isinstance(self.margin_px, tuple) else (self.margin_px,):
            for columns in self.columns if isinstance(self.columns, tuple) else (self.columns,):
                make_frame(*size, margin, columns, self.column_gap_px)

    def _check_budget(self) -> None:
        if self.characters_per_token is None:
            return
        if self.mode is None:
            raise UserError(
                f"characters_per_token is {self.characters_per_token}, and no mode is given, whose vision tokens it "
                "counts; set mode, for example to 'base'"
            )
        if isinstance(self.font_size_px, (int, float)):
            raise UserError(
                f"font_size_px is {self.font_size_px}, and characters_per_token is given too; set font_size_px to a "
                "range of allowed sizes, or leave it out"
            )
