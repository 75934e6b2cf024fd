from pathlib import Path

import numpy as np
import pytest
from fontTools.subset import Subsetter
from fontTools.ttLib import TTFont

from deepsynth.data.fonts.files import (
    bundled_faces,
    bundled_folder,
    coverage,
    folder_faces,
    is_ignorable,
    read_faces,
    system_folders,
)
from deepsynth.data.fonts.glyphs import FontStyle
from deepsynth.data.fonts.library import FontLibrary
from deepsynth.data.rendering.renderer import TextRenderer
from deepsynth.errors import UserError
from deepsynth.types import Document

SANS = str(bundled_folder() / "DejaVuSans.ttf")


def runs(library, text, family="DejaVu Sans", bold=False, italic=False, region="SC"):
    return [(run, face and face.name) for run, face in library.runs(text, family, bold, italic, region)]


@pytest.fixture
def bundled():
    return FontLibrary(system_fonts=False)


def test_dejavu_comes_with_matplotlib():
    assert {"DejaVu Sans", "DejaVu Serif", "DejaVu Sans Mono"} <= {face.family for face in bundled_faces()}


def test_coverage_is_of_the_file():
    covered = coverage(SANS, 0)
    assert covered.has_all(map(ord, "aßжع"))
    assert ord("漢") not in covered
    assert 0x10FFFF not in covered
    assert not covered.has_all(map(ord, "a漢"))


def test_style_comes_from_the_family_or_its_upright_face(bundled):
    assert runs(bundled, "ab", bold=True) == [("ab", "DejaVu Sans Bold")]
    assert runs(bundled, "ab", family="DejaVu Serif", bold=True, italic=True) == [("ab", "DejaVu Serif Bold Italic")]
    assert runs(bundled, "ab", family=SANS, bold=True) == [("ab", "DejaVu Sans")]


def test_falls_back_to_another_face_for_the_characters_it_has(bundled):
    assert runs(bundled, "aع", family="DejaVu Serif") == [("aع", "DejaVu Sans")]  # the whole word, so that it joins


def test_a_character_without_a_font_has_no_face(bundled):
    assert runs(bundled, "a漢") == [("a", "DejaVu Sans"), ("漢", None)]


def test_joiners_need_no_glyph(bundled):
    assert runs(bundled, "a\u200d\u2060") == [("a\u200d\u2060", "DejaVu Sans")]
    assert is_ignorable("\u00ad")
    assert not is_ignorable("a")


def test_marks_keep_their_invisible_neighbors(bundled):
    split = runs(bundled, "a\u0915\u200d\u093f")
    assert "".join(run for run, _ in split) == "a\u0915\u200d\u093f"


def test_a_family_may_be_a_file_or_a_name_in_any_case(bundled):
    assert bundled.family(SANS)[False, False].family == "DejaVu Sans"
    assert bundled.family("dejavu serif")[False, False].family == "DejaVu Serif"


def test_a_folder_of_fonts_is_searched_below(tmp_path, bundled):
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "a.ttf").write_bytes(Path(SANS).read_bytes())
    library = FontLibrary([str(tmp_path)], system_fonts=False)
    assert runs(library, "a") == [("a", "DejaVu Sans")]


def test_fonts_behind_linked_folders_are_found_once(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "a.ttf").write_bytes(Path(SANS).read_bytes())
    (tmp_path / "fonts").mkdir()
    (tmp_path / "fonts" / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "fonts" / "again").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "circle").symlink_to(tmp_path / "fonts")
    assert len(folder_faces(tmp_path / "fonts")) == 1


def partial_font(path, name, letters):
    """Write a font that has only some letters, under a name of its own."""
    font = TTFont(SANS)
    subsetter = Subsetter()
    subsetter.populate(text=letters)
    subsetter.subset(font)
    for record in font["name"].names:
        if record.nameID in (1, 4, 16):
            record.string = name
    font.save(path)


def test_a_script_is_set_in_one_font_that_has_all_letters_of_the_paragraph(tmp_path):
    partial_font(tmp_path / "some.ttf", "Some", "abcdefgh .ж")
    library = FontLibrary([str(tmp_path)], system_fonts=False)
    style = FontStyle("Some", 16.0)
    assert library.scripts("abc def.", style) == ()
    assert library.scripts("abc xyz — ж", style) == (("latin", "DejaVu Sans"),)
    assert library.scripts("abc жз", style._replace(bold=True)) == (("cyrillic", "DejaVu Sans"),)
    assert library.scripts("abc \u2ff0", style) == ()
    renderer = TextRenderer(fonts=("Some",), font_dirs=(str(tmp_path),), system_fonts=False)
    (page,) = renderer(Document("d", "abc xyz\nabc ж\nabc (z) ж"), np.random.default_rng(0))
    assert [line.font for line in page.lines] == ["DejaVu Sans", "Some", "DejaVu Sans, Some"]


def test_display_faces_come_behind_those_for_plain_text(tmp_path):
    for name in ("Looped Devanagari", "Rashi Devanagari", "Zero Devanagari"):
        partial_font(tmp_path / "font.ttf", name, "a")
        with TTFont(tmp_path / "font.ttf") as font:
            for table in font["cmap"].tables:
                table.cmap = {0x915: "a"}  # a letter that DejaVu lacks
            font.save(tmp_path / f"{name}.ttf")
    (tmp_path / "font.ttf").unlink()
    library = FontLibrary([str(tmp_path)], system_fonts=False)
    assert runs(library, "\u0915") == [("\u0915", "Zero Devanagari")]


def test_fonts_of_the_user_are_the_systems(tmp_path, monkeypatch):
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    (tmp_path / ".local/share/fonts/deep").mkdir(parents=True)
    (tmp_path / ".local/share/fonts/deep/Mine.ttf").write_bytes(Path(SANS).read_bytes())
    (tmp_path / ".fonts").touch()
    own = [folder for folder in system_folders() if folder.is_relative_to(tmp_path)]
    assert own == [tmp_path / ".local/share/fonts"]
    assert "Mine.ttf" in {Path(face.path).name for face in FontLibrary().system_faces}
    assert FontLibrary(system_fonts=False).system_faces == ()


def test_an_unknown_family_is_refused_with_what_there_is(bundled):
    with pytest.raises(UserError, match=r"fonts names the family 'Nowhere Sans'.*DejaVu Sans"):
        bundled.family("Nowhere Sans")


def test_a_missing_font_file_is_refused(bundled):
    with pytest.raises(UserError, match=r"'nowhere\.ttf', which does not exist"):
        bundled.family("nowhere.ttf")


def test_a_file_that_is_no_font_is_refused(tmp_path):
    path = tmp_path / "not-a-font.ttf"
    path.write_text("hello")
    with pytest.raises(UserError, match=r"not-a-font\.ttf is not a usable font"):
        read_faces(path)


def test_a_folder_without_fonts_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"font_dirs names .* not a folder with"):
        FontLibrary([str(tmp_path)])


def test_a_file_of_matplotlibs_wheel_is_found_by_its_name(bundled):
    assert Path(bundled.family("STIXGeneralItalic.ttf")[False, False].path).name == "STIXGeneralItalic.ttf"
    with pytest.raises(UserError, match=r"STIXNone\.ttf', which does not exist"):
        bundled.family("STIXNone.ttf")
