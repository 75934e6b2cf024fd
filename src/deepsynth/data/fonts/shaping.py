"""From a word to the pixels of its glyphs, once: the cache that makes a page fast.

A word is shaped whole, so that kerning, ligatures and joins are right within it. Words that need no shaping (Latin,
Greek, Cyrillic, Chinese, Japanese, Korean …) are always set by Pillow's own layout, on every machine, so that their
pixels never depend on which libraries are installed. All others need HarfBuzz, through Pillow's raqm.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from typing import NamedTuple

from PIL import ImageFont, features

from deepsynth.data.fonts.files import FontFile, damaged, is_ignorable
from deepsynth.data.fonts.formulas import shape_formula
from deepsynth.data.fonts.glyphs import Direction, FontStyle, GlyphBitmap, ShapedRun
from deepsynth.data.fonts.library import FontLibrary
from deepsynth.data.text.unicode_scripts import font_package, script_of
from deepsynth.errors import UserError

#: What is kept in memory; about 1 kB a run and half of it a glyph at 20 pixels.
_CACHED_RUNS = 40_000
_CACHED_GLYPHS = 40_000
_CACHED_FONTS = 256
_REPLACEMENT = "\ufffd"

#: What Pillow's basic layout cannot set: combining marks, right-to-left scripts, Indic and South-East Asian scripts,
#: Hangul letters, Mongolian, variation sequences, emoji sequences, and scripts like them beyond the basic plane.
_NEEDS_SHAPING = re.compile(
    "[\u0300-\u036f\u0483-\u0489\u0590-\u109f\u1100-\u11ff\u135d-\u135f\u1700-\u18af\u1900-\u1cff\u1ab0-\u1aff"
    "\u1dc0-\u1dff\u20d0-\u20ff\u2cef-\u2cf1\u2d7f\u2de0-\u2dff\u302a-\u302f\u3099\u309a\ua66f-\ua67d\ua69e\ua69f"
    "\ua6f0\ua6f1\ua800-\uabff\ud7b0-\ud7ff\ufb1d-\ufdff\ufe20-\ufe2f\ufe70-\ufefe\U00010800-\U00011fff"
    "\U00016a00-\U00016fff\U0001bc00-\U0001bcff\U0001d165-\U0001d1ad\U0001d242-\U0001d244\U0001da00-\U0001daff"
    "\U0001e000-\U0001efff\U0001f1e6-\U0001f1ff\U0001f3fb-\U0001f3ff\U000e0000-\U000e0fff]"
)
#: Letters and digits that run against a direction; the text has them only where it overrides their own.
_AGAINST: dict[Direction, frozenset[str]] = {"rtl": frozenset({"L", "EN", "AN"}), "ltr": frozenset({"R", "AL"})}
#: Right-to-left and left-to-right override, and its end.
_OVERRIDE: dict[Direction, str] = {"rtl": "\u202e", "ltr": "\u202d"}
_POP = "\u202c"


class _Glyph(NamedTuple):
    """A character that needs no shaping; the bitmap is ``None`` for one that shows nothing."""

    bitmap: GlyphBitmap | None
    advance: float


class Shaper:
    """Shapes words and remembers them.

    Args:
        library: finds the fonts.
        replace_missing: draw U+FFFD, in the text too, for a character that no font has, instead of raising.
    """

    def __init__(self, library: FontLibrary, replace_missing: bool = False) -> None:
        """Start with empty caches."""
        self.library = library
        self.replace_missing = replace_missing
        self._fonts: dict[tuple[str, int, float, bool], ImageFont.FreeTypeFont] = {}
        self._glyphs: dict[tuple[FontFile, float], dict[str, _Glyph]] = {}
        self._remembered: dict[tuple[FontStyle, Direction], dict[str, ShapedRun]] = {}
        #: Characters that do not run against a direction, as far as they were met.
        self._along: dict[Direction, set[str]] = {"ltr": set(), "rtl": set()}
        self._run_count = 0
        self._glyph_count = 0

    def for_text(self, text: Iterable[str], style: FontStyle) -> FontStyle:
        """Return a style that sets each script of a text, or of its characters, in one font if there is one for it."""
        scripts = () if style.formula else self.library.scripts(text, style)
        return style._replace(scripts=scripts) if scripts else style

    def remembered(self, style: FontStyle, direction: Direction) -> dict[str, ShapedRun]:
        """Return the runs that are remembered, for a quick look; :meth:`shape_once` adds to them."""
        if self._run_count > _CACHED_RUNS:
            self._remembered.clear()
            self._run_count = 0
        return self._remembered.setdefault((style, direction), {})

    def shape_once(self, text: str, style: FontStyle, direction: Direction = "ltr") -> ShapedRun:
        """Return a shaped run, from memory if it was shaped before.

        Args:
            text: without white space; all of it runs in one direction.
            style: font and size.
            direction: "rtl" lays it out from the right.

        Raises:
            UserError: when no font has a character, or the run needs shaping and raqm or fribidi is missing.
        """
        remembered = self.remembered(style, direction)
        run = remembered.get(text)
        if run is None:
            run = remembered[text] = self.shape(text, style, direction)
            self._run_count += 1
        return run

    def shape(self, text: str, style: FontStyle, direction: Direction = "ltr") -> ShapedRun:
        """Return a shaped run without remembering it; see :meth:`shape_once`."""
        if style.formula:
            return shape_formula(text, style)
        runs, replaced = self._runs(text, style)
        bitmaps: list[GlyphBitmap] = []
        pen = 0.0
        # The glyphs of a right-to-left word start at its end.
        for run, face in runs if direction == "ltr" else runs[::-1]:
            try:
                if direction == "ltr" and not _NEEDS_SHAPING.search(run):
                    pen = self._set_glyphs(run, face, style.size_px, pen, bitmaps)
                else:
                    pen += self._add_shaped(run, face, style, direction, pen, bitmaps)
            except OSError as error:
                raise damaged(face.path, error) from error
        shown = text if not replaced else "".join([run for run, _ in runs])
        fonts = tuple(dict.fromkeys([face.name for _, face in runs]))
        return ShapedRun(shown, style, pen, tuple(bitmaps), fonts, replaced=replaced)

    def _add_shaped(
        self, run: str, face: FontFile, style: FontStyle, direction: Direction, pen: float, bitmaps: list[GlyphBitmap]
    ) -> float:
        """Add the glyphs of a run that needs shaping, and return its advance."""
        font, drawn = self._shaped(run, face, style, direction)
        mask, (dx, dy) = font.getmask2(drawn, "L", anchor="ls", direction=direction)
        width, height = mask.size
        if width and height:
            bitmaps.append(GlyphBitmap(mask, round(pen) + dx, dy))
        # The mask ends where the ink does or the advance. An empty last column says that it is the advance, and shaping
        # a second time, only to measure, would take half as long again.
        ink = mask.getbbox()
        return dx + width if ink and ink[2] < width else float(font.getlength(drawn, direction=direction))

    def _set_glyphs(self, run: str, face: FontFile, size_px: float, pen: float, bitmaps: list[GlyphBitmap]) -> float:
        """Add the glyphs of a run that needs no shaping, and return where the pen is then.

        Pillow's own layout gives hinted glyphs whole pixels and no visible kerning, so its result is put together from
        single characters, each rasterized once.
        """
        key = (face, size_px)
        if self._glyph_count > _CACHED_GLYPHS:
            self._glyphs.clear()
            self._glyph_count = 0
        glyphs = self._glyphs.setdefault(key, {})
        for character in run:
            glyph = glyphs.get(character)
            if glyph is None:
                glyph = glyphs[character] = self._glyph(character, face, size_px)
                self._glyph_count += 1
            if glyph.bitmap:
                mask, dx, dy = glyph.bitmap
                bitmaps.append(GlyphBitmap(mask, round(pen) + dx, dy))
            pen += glyph.advance
        return pen

    def _glyph(self, character: str, face: FontFile, size_px: float) -> _Glyph:
        if is_ignorable(character):
            return _Glyph(None, 0.0)
        font = self.font(face, size_px, shaped=False)
        mask, (dx, dy) = font.getmask2(character, "L", anchor="ls")
        return _Glyph(GlyphBitmap(mask, dx, dy) if mask.size[0] and mask.size[1] else None, font.getlength(character))

    def measure(self, text: str, style: FontStyle, direction: Direction = "ltr") -> float:
        """Return the advance of a word, pixels, without drawing or remembering it."""
        total = 0.0
        for run, face in self._runs(text, style)[0]:
            try:
                if direction == "ltr" and not _NEEDS_SHAPING.search(run):
                    total = self._set_glyphs(run, face, style.size_px, total, [])
                else:
                    font, drawn = self._shaped(run, face, style, direction)
                    total += font.getlength(drawn, direction=direction)
            except OSError as error:
                raise damaged(face.path, error) from error
        return total

    def _runs(self, text: str, style: FontStyle) -> tuple[list[tuple[str, FontFile]], int]:
        runs: list[tuple[str, FontFile]] = []
        replaced = 0
        if style.scripts:
            script = next((found for character in text if (found := script_of(character))), "")
            style = style._replace(family=dict(style.scripts).get(script, style.family))
        for run, face in self.library.runs(text, style.family, style.bold, style.italic, style.region):
            if face is None:
                if not self.replace_missing:
                    raise UserError(self._missing(run, style))
                run, replaced = _REPLACEMENT * len(run), replaced + len(run)
                face = self.library.runs(run, style.family, style.bold, style.italic, style.region)[0][1]
                if face is None:
                    raise UserError(f"no font has {_REPLACEMENT} (U+FFFD), which replaces characters without a font")
            runs.append((run, face))
        return runs, replaced

    def _missing(self, run: str, style: FontStyle) -> str:
        character = next(
            (
                c
                for c in run
                if self.library.runs(c, style.family, style.bold, style.italic, style.region)[0][1] is None
            ),
            run[0],
        )
        return (
            f"no font has {describe(character)}: {font_package(character)}, name a folder with such a font in "
            "font_dirs, or set on_missing_glyph to 'replace'"
        )

    def _shaped(
        self, run: str, face: FontFile, style: FontStyle, direction: Direction
    ) -> tuple[ImageFont.FreeTypeFont, str]:
        """Return the font for HarfBuzz, and the text to hand to it."""
        along = self._along[direction]
        if not along.issuperset(run):
            if any(unicodedata.bidirectional(character) in _AGAINST[direction] for character in run):
                run = _OVERRIDE[direction] + run + _POP
            else:
                along.update(run)
        return self.font(face, style.size_px, shaped=True), run

    def font(self, face: FontFile, size_px: float, shaped: bool) -> ImageFont.FreeTypeFont:
        """Return a face at a size, for HarfBuzz when it is shaped and for Pillow's own layout otherwise.

        Raises:
            UserError: when it is to be shaped, and raqm or fribidi is missing.
        """
        key = (face.path, face.index, size_px, shaped)
        if key not in self._fonts:
            if shaped and not features.check("raqm"):
                raise UserError(
                    f"the text needs shaping (in {face.name}), and Pillow finds no raqm with fribidi: apt install "
                    "libfribidi0 (Debian, Ubuntu), dnf install fribidi (Fedora), brew install fribidi (macOS), with "
                    "Pillow from its wheel"
                )
            if len(self._fonts) >= _CACHED_FONTS:
                self._fonts.clear()
            engine = ImageFont.Layout.RAQM if shaped else ImageFont.Layout.BASIC
            self._fonts[key] = ImageFont.truetype(face.path, size_px, index=face.index, layout_engine=engine)
        return self._fonts[key]


def describe(character: str) -> str:
    """Return a character with its code point and name, for a message."""
    return f"{character!r} (U+{ord(character):04X} {unicodedata.name(character, 'without a name')})"
