"""Right-to-left words put together from single letters: the glyphs and places of the word shaped whole."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw, ImageFont, features

from deepsynth.data.fonts.arabic_joining import has_single_letters, single_letters
from deepsynth.data.fonts.files import bundled_faces, coverage
from deepsynth.data.fonts.glyphs import Blit, Style
from deepsynth.data.fonts.library import FontLibrary
from deepsynth.data.fonts.shaping import Shaper
from deepsynth.data.rendering.renderer import TextRenderer
from deepsynth.types import Document

pytestmark = pytest.mark.skipif(not features.check("raqm"), reason="needs raqm: apt install libfribidi0")

ARABIC = "بتثجحخسشصضطظعغفقكلمنهيىئپچکگیٹںھڤڵێـ" + "اآأإدذرزوؤةژڈڑڕۆەء"
HEBREW = "אבגדהוזחטיךכלםמןנסעףפץצקרשת"
SIGNS = "\u200c.,:;!?،؛؟()[]\"'«»-–—…/‹›“”‘’־׳״"
MARKS = "\u064b\u064c\u064d\u064e\u064f\u0650\u0651\u0652\u0670"
POINTS = "\u05b0\u05b4\u05b8\u05b9\u05bc\u05c1\u05c2"
STYLES = [
    Style("DejaVu Sans", 20.0),
    Style("DejaVu Sans", 13.5, bold=True),
    Style("DejaVu Sans Mono", 17.0),
    Style("DejaVu Sans Mono", 31.0, bold=True),
]
WEIGHT = {False: ("Book", "Regular"), True: ("Bold",)}


@pytest.fixture(scope="module")
def shaper():
    return Shaper(FontLibrary(system_fonts=False))


def pixels(blits, width):
    """Return the blits painted one over the other, with room on all sides."""
    image = Image.new("L", (width + 80, 160))
    pen = ImageDraw.Draw(image)
    for mask, dx, dy in blits:
        pen.draw.draw_bitmap((40 + dx, 80 + dy), mask, 255)
    return np.asarray(image)


def both(shaper, word, style):
    """Return a word made of its letters, and shaped whole by Pillow: pixels and advance of each."""
    piece = shaper.shape(word, style, "rtl")
    ((_, face),) = shaper.library.runs(word, style.family, style.bold, style.italic, style.region)
    assert has_single_letters(word, face)
    font = ImageFont.truetype(face.path, style.size_px, index=face.index, layout_engine=ImageFont.Layout.RAQM)
    mask, (dx, dy) = font.getmask2(word, "L", anchor="ls", direction="rtl")
    whole = (Blit(mask, dx, dy),) if mask.size[0] and mask.size[1] else ()
    width = max(mask.size[0] + dx for mask, dx, _ in (*piece.blits, *whole, Blit(mask, 0, 0)))
    return pixels(piece.blits, width), piece.advance, pixels(whole, width), font.getlength(word, direction="rtl")


def covered(alphabet, style):
    """Return the letters that a style's own font has."""
    (face,) = [face for face in bundled_faces() if face.family == style.family and face.style in WEIGHT[style.bold]]
    return "".join(letter for letter in alphabet if ord(letter) in coverage(face.path, face.index))


@pytest.mark.parametrize("style", STYLES, ids=lambda style: f"{style.family} {'bold' if style.bold else 'book'}")
def test_every_pair_of_letters_equals_the_word_shaped_whole(shaper, style):
    pairs = []
    for alphabet in (ARABIC, HEBREW):
        letters = covered(alphabet, style) and covered(alphabet + SIGNS, style)
        pairs += ["".join([a + b for b in letters]) for a in letters]
    for word in [*pairs, "بلا", "إلا", "الله", "للآن", "می\u200cخواهم", "(שלום)", "«قال»"]:
        letters, advance, whole, length = both(shaper, word, style)
        assert advance == length, word
        assert np.array_equal(letters, whole), word


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.one_of(st.text(ARABIC + SIGNS, min_size=1, max_size=12), st.text(HEBREW + SIGNS, min_size=1, max_size=12)))
def test_any_word_equals_the_word_shaped_whole(shaper, word):
    letters, advance, whole, length = both(shaper, word, STYLES[0])
    assert advance == length
    assert np.array_equal(letters, whole)


@pytest.mark.parametrize("style", STYLES[:2], ids=["book", "bold"])
@pytest.mark.parametrize(("alphabet", "marks"), [(ARABIC, MARKS), (HEBREW, POINTS)], ids=["arabic", "hebrew"])
def test_marks_stand_within_a_pixel_of_their_place_in_the_word_shaped_whole(shaper, style, alphabet, marks):
    """A mark keeps one place on its letter, where shaping the word rounds it together with the letters before it."""
    for number, mark in enumerate(marks):
        for letter in alphabet.replace("ـ", ""):
            word = "".join([letter, mark, alphabet[number], mark, letter, alphabet[1], letter, mark])
            letters, advance, whole, length = both(shaper, word, style)
            assert advance == length, word
            letters, whole = letters.astype(int), whole.astype(int)
            near = np.max([np.roll(whole, (x, y), (1, 0)) for x in (-1, 0, 1) for y in (-1, 0, 1)], axis=0)
            assert (letters - near).max() < 80, word
            assert abs(letters.sum() - whole.sum()) < 0.02 * whole.sum(), word


def test_letters_have_the_form_that_they_have_in_the_word():
    assert single_letters("بيت") == ["ب\u200d", "\u200dي\u200d", "\u200dت"]
    assert single_letters("دار") == ["د", "ا", "ر"]
    assert single_letters("سلام") == ["س\u200d", "\u200dلا", "م"]
    assert single_letters("بَّت") == ["بَّ\u200d", "\u200dت"]
    assert single_letters("می\u200cرود.") == ["م\u200d", "\u200dی", "\u200c", "ر", "و", "د", "."]


@pytest.mark.parametrize(
    "word", ["ب\u200d", "ݐ", "\u064bب", "ب1", "ab", "\u200c\u0651", "", "ܐܒ", "ب\u0654", "بـ\u064b"]
)
def test_whatever_is_not_known_to_be_made_of_letters_is_shaped_whole(word):
    assert not has_single_letters(word, bundled_faces()[0])


def test_fonts_that_are_not_known_shape_words_whole(tmp_path):
    copy = tmp_path / "Other.ttf"
    face = bundled_faces()[0]
    copy.write_bytes(Path(face.path).read_bytes())
    shaper = Shaper(FontLibrary(system_fonts=False))
    assert len(shaper.shape("بيت", Style(str(copy), 20.0), "rtl").blits) == 1
    assert len(shaper.shape("بيت", Style("DejaVu Sans", 20.0), "rtl").blits) == 3


def test_pixels_do_not_depend_on_the_words_before():
    text = "في البدء كان الكلمة، وكان الكلام طويلا جدّا. (قال) می\u200cخواهم שלום"
    renderer = TextRenderer(page_width_px=400, page_height_px=200, margin_px=16, system_fonts=False)
    rng = np.random.default_rng
    first = renderer(Document("a", text), rng(0))[0].image.tobytes()
    renderer(Document("b", " ".join(reversed(text.split()))), rng(0))
    assert renderer(Document("a", text), rng(0))[0].image.tobytes() == first
