"""Words whose letters are of several fonts, and the faces that the names of styles stand for."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import pytest
from fontTools.subset import Subsetter
from fontTools.ttLib import TTFont
from PIL import features

from deepsynth.data.fonts.files import bundled_folder
from deepsynth.data.fonts.formulas import shape_formula
from deepsynth.data.fonts.glyphs import FontStyle
from deepsynth.data.fonts.library import FontLibrary
from deepsynth.data.fonts.shaping import Shaper

STYLE = FontStyle("DejaVu Sans", 40.0)
#: A character that only the font of :func:`save_font` has; it looks like a W there.
OWN = "\ue000"


def save_font(folder: Path, style: str = "Book") -> FontLibrary:
    font = TTFont(bundled_folder() / "DejaVuSans.ttf")
    subsetter = Subsetter()
    subsetter.populate(text="W")
    subsetter.subset(font)
    for table in font["cmap"].tables:
        table.cmap = {ord(OWN): "W"}
    for record in font["name"].names:
        if record.nameID in (1, 16):
            record.string = "Own"
        if record.nameID in (2, 17):
            record.string = style
    font.save(folder / "own.ttf")
    return FontLibrary([str(folder)], system_fonts=False)


@pytest.mark.parametrize(
    "direction",
    ["ltr", pytest.param("rtl", marks=pytest.mark.skipif(not features.check("raqm"), reason="needs raqm"))],
)
def test_letters_of_two_fonts_follow_one_another_in_the_direction_of_the_word(
    direction: Literal["ltr", "rtl"], tmp_path: Path
) -> None:
    shaper = Shaper(save_font(tmp_path))
    run = shaper.shape(f"il{OWN}", STYLE, direction)
    assert run.fonts == ("DejaVu Sans", "Own")
    widest = max(run.bitmaps, key=lambda bitmap: bitmap.mask.size[0])
    others = [bitmap for bitmap in run.bitmaps if bitmap is not widest]
    assert widest.mask.size[0] > 30, "the W"
    if direction == "ltr":
        assert widest.dx >= max(bitmap.dx + bitmap.mask.size[0] for bitmap in others) - 1
    else:
        assert widest.dx + widest.mask.size[0] <= min(bitmap.dx for bitmap in others) + 1
    parts = [shaper.shape(part, STYLE, direction).advance for part in ("il", OWN)]
    assert run.advance == pytest.approx(sum(parts), abs=1)
    assert shaper.measure(f"il{OWN}", STYLE, direction) == pytest.approx(run.advance, abs=1)


def test_a_run_is_remembered_by_its_text_style_and_direction(tmp_path: Path) -> None:
    shaper = Shaper(save_font(tmp_path))
    run = shaper.shape_once("il", STYLE)
    assert shaper.shape_once("il", STYLE) is run
    others: list[Any] = [
        shaper.shape_once("li", STYLE),
        shaper.shape_once("il", STYLE._replace(size_px=20.0)),
        shaper.shape_once("il", STYLE._replace(bold=True)),
    ]
    assert len({id(one) for one in (run, *others)}) == 4
    assert others[1].advance == pytest.approx(run.advance / 2, abs=1)
    assert others[2].fonts == ("DejaVu Sans Bold",)


@pytest.mark.parametrize(
    ("style", "bold", "italic"),
    [
        ("Regular", False, False),
        ("Book", False, False),
        ("Roman", False, False),
        ("Normal", False, False),
        ("Bold", True, False),
        ("Italic", False, True),
        ("Oblique", False, True),
        ("Bold Italic", True, True),
        ("BOLD OBLIQUE", True, True),
    ],
)
def test_the_name_of_a_style_says_whether_a_face_is_bold_and_italic(
    style: str, bold: bool, italic: bool, tmp_path: Path
) -> None:
    faces = save_font(tmp_path, style).family("Own")
    assert set(faces) == {(False, False), (bold, italic)}, "the only one stands for the upright one"
    assert {face.style for face in faces.values()} == {style}
    assert faces[bold, italic].name == ("Own" if style in ("Regular", "Book") else f"Own {style}")


def test_a_displayed_fraction_is_higher_than_one_within_a_line():
    def height(text: str) -> int:
        (bitmap,) = shape_formula(text, FontStyle("DejaVu Sans", 20.0, formula=True)).bitmaps
        return bitmap.mask.size[1]

    assert height(r"$$\frac{a}{b}$$") > 1.3 * height(r"$\frac{a}{b}$")
    assert height(r"$$\dfrac{a}{b}$$") == height(r"$\dfrac{a}{b}$") == height(r"$$\frac{a}{b}$$")
