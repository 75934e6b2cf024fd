import pickle
import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw, ImageFont, features

from deepsynth.data.fonts.files import bundled_folder
from deepsynth.data.fonts.library import FontLibrary
from deepsynth.data.rendering.page_geometry import check_contrast, page_size
from deepsynth.data.rendering.renderer import TextRenderer, forget_drawn_text
from deepsynth.data.text.cleaning import clean_text, fold_whitespace
from deepsynth.data.typesetting.pages import join_pages
from deepsynth.errors import UserError
from deepsynth.models.tokens import MODES
from deepsynth.types import Document

PROSE = (
    "It was the best of times, it was the worst of times, it was the age of wisdom, it was the age of foolishness.\n\n"
    "    It was the epoch of belief, it was the epoch of incredulity — it was the season of Light:\tspring of hope.\n"
)
SMALL = {"page_width_px": 256, "page_height_px": 256, "margin_px": 10, "font_size_px": 11.0, "system_fonts": False}


def render(text, seed=0, **options):
    return TextRenderer(**{**SMALL, **options})(Document("d", text), np.random.default_rng(seed))


def assert_shows_text(pages, text):
    assert fold_whitespace(join_pages(pages)) == fold_whitespace(clean_text(text)[0])


def assert_shows(pages, text):
    """Check text, boxes and pixels of pages against each other and against the source."""
    assert_shows_text(pages, text)
    for number, page in enumerate(pages):
        assert page.number == number
        assert page.image.mode == "RGB"
        shown = fold_whitespace(" ".join(line.text for line in page.lines))
        assert shown.replace(" ", "") == fold_whitespace(page.text).replace(" ", "")
        pixels = np.asarray(page.image).copy()
        for line in page.lines:
            for word in line.words:
                left, top, right, bottom = map(int, word.box)
                assert 0 <= left <= right <= page.image.width
                assert 0 <= top <= bottom <= page.image.height
                if word.text.isalnum() and word.text.isascii():
                    assert pixels[top:bottom, left:right].min() < 255, f"no ink in the box of {word.text!r}"
        for line in page.lines:
            for word in line.words:
                left, top, right, bottom = map(int, word.box)
                pixels[top:bottom, left:right] = 255
        assert pixels.min() == 255, "ink outside the words' boxes"


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"columns": 2, "column_gap_px": 8},
        {"justify": 1.0},
        {"font_size_px": 30.0},
        {"margin_px": 0},
        {"fonts": ("DejaVu Serif",)},
        {"line_height": 0.8},
        {"page_width_px": 384, "page_height_px": 100},
    ],
)
def test_pages_show_the_whole_text_and_nothing_else(options):
    assert_shows(render(PROSE * 4, **options), PROSE * 4)


def test_the_text_is_kept_literally_with_its_line_ends_and_spaces():
    text = "a  b\n    c\td\n\n\ne"
    assert render(text)[0].text == text


def test_glyphs_are_those_of_pillows_own_layout():
    (page,) = render("Hamburgefonstiv, quick! AVATAR", page_width_px=400, font_size_px=20.0)
    font = ImageFont.truetype(str(bundled_folder() / "DejaVuSans.ttf"), 20, layout_engine=ImageFont.Layout.BASIC)
    for word in page.lines[0].words:
        expected = Image.new("RGB", page.image.size, "white")
        left, top, right, bottom = (int(side) for side in word.box)
        offset = font.getbbox(word.text, anchor="ls")
        ImageDraw.Draw(expected).text((left - offset[0], top - offset[1]), word.text, "black", font, anchor="ls")
        area = (left, top, right, bottom)
        assert page.image.crop(area).tobytes() == expected.crop(area).tobytes()


def test_a_long_text_takes_pages_in_order():
    pages = render(PROSE * 20)
    assert len(pages) > 3
    assert [page.number for page in pages] == list(range(len(pages)))
    assert_shows(pages, PROSE * 20)


def test_single_pages_equal_those_of_the_document():
    renderer = TextRenderer(**{**SMALL, "font_size_px": (9.0, 14.0), "margin_px": (5, 20)})
    document = Document("d", PROSE * 10 + "x" * 3000 + PROSE)
    pages = renderer(document, np.random.default_rng(3))
    assert renderer.count_pages(document, np.random.default_rng(3)) == len(pages)
    assert any(page.stats["continues_word"] for page in pages)
    for number in (len(pages) - 1, 0, len(pages) // 2):
        page = renderer.page(document, np.random.default_rng(3), number)
        assert (page.text, page.lines, page.number, page.stats) == (
            pages[number].text,
            pages[number].lines,
            number,
            pages[number].stats,
        )
        assert page.image.tobytes() == pages[number].image.tobytes()
    with pytest.raises(IndexError, match="no page 99"):
        renderer.page(document, np.random.default_rng(3), 99)


def test_one_seed_gives_one_look_and_another_gives_another():
    images = [render(PROSE, seed, **VARIED)[0].image.tobytes() for seed in (1, 1, 2, 3)]
    assert images[0] == images[1]
    assert len(set(images)) == 3


VARIED = {
    "font_size_px": (9.0, 20.0),
    "margin_px": (5, 30),
    "fonts": ("DejaVu Sans", "DejaVu Serif", "DejaVu Sans Mono"),
    "text_color": ("black", "#203060", "#402010"),
    "background_color": ("white", "#f5eedd", "#e8f0e8"),
    "columns": (1, 2),
    "column_gap_px": 8,
    "line_height": (1.1, 1.6),
    "justify": 0.5,
}


def test_every_page_has_a_look_of_its_own_and_the_text_goes_on():
    text = PROSE * 30 + "\n" + "endless" * 300 + "\n" + " ".join([PROSE.replace("\n", " ")] * 20)
    pages = render(text, 4, **VARIED)
    assert_shows_text(pages, text)
    assert len(pages) > 8
    assert len({page.stats["font_size_px"] for page in pages}) > 4
    assert {page.lines[0].font for page in pages} == {"DejaVu Sans", "DejaVu Serif", "DejaVu Sans Mono"}
    assert len({page.image.getpixel((0, 0)) for page in pages}) == 3
    assert len({page.lines[0].box[0] for page in pages}) > 4


def test_a_page_has_its_look_whatever_the_pages_before_it_hold():
    renderer = TextRenderer(**{**SMALL, **VARIED})
    looks = []
    for text in (PROSE * 30, PROSE[::-1] * 30):
        pages = renderer(Document("d", text), np.random.default_rng(4))[:6]
        looks.append([(page.stats["font_size_px"], page.lines[0].font, page.image.getpixel((0, 0))) for page in pages])
    assert looks[0] == looks[1]


@pytest.mark.parametrize("markup", ["plain", "markdown"])
def test_single_pages_of_many_looks_equal_those_of_the_document(markup):
    pytest.importorskip("pyphen")
    text = PROSE * 10 + "\n\n| a | b |\n|---|--:|\n" + "| some words | 1 |\n" * 30 + "\n- item\n\n" + PROSE * 10
    renderer = TextRenderer(**{**SMALL, **VARIED, "hyphenate": 0.5, "markup": markup})
    pages = renderer(Document("d", text), np.random.default_rng(3))
    renderer = replace(renderer, dpi=101)  # no part in a page given in pixels; where pages begin is not known yet
    for number in (len(pages) - 1, 0, len(pages) // 2):
        page = renderer.page(Document("d", text), np.random.default_rng(3), number)
        assert (page.text, page.lines, page.stats) == (pages[number].text, pages[number].lines, pages[number].stats)
        assert page.image.tobytes() == pages[number].image.tobytes()


def test_words_may_be_hyphenated_and_the_text_stays_whole():
    pytest.importorskip("pyphen")
    text = "Considerable international responsibility fundamentally characterizes communication. " * 12
    pages = render(text, hyphenate=1.0, page_width_px=170)
    assert_shows_text(pages, text)
    whole = render(text, page_width_px=170)
    assert sum(len(page.lines) for page in pages) < sum(len(page.lines) for page in whole)


def test_no_page_ends_with_a_hyphen():
    pytest.importorskip("pyphen")
    text = "Considerable international responsibility fundamentally characterizes communication. " * 40
    for height in (60, 75, 90, 105):
        pages = render(text, hyphenate=1.0, page_width_px=200, page_height_px=height)
        assert_shows_text(pages, text)
        assert len(pages) > 5
        assert not any(page.stats["continues_word"] for page in pages)


def test_hyphenation_without_its_library_names_the_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "pyphen", None)
    with pytest.raises(UserError, match=r"hyphenate needs the package pyphen.*'deepsynth-ocr\[hyphenation\]"):
        TextRenderer(**SMALL, hyphenate=0.5)


def test_pixels_do_not_depend_on_what_was_drawn_before(other_fonts):
    options = {"font_size_px": (9.0, 14.0), "justify": 0.5}
    fresh = render(PROSE, 7, **options)[0].image.tobytes()
    for seed in range(5):
        render(PROSE[::-1], seed, **options)
    assert render(PROSE, 7, **options)[0].image.tobytes() == fresh
    assert render(PROSE, 7, **options, **other_fonts)[0].image.tobytes() == fresh


@pytest.mark.slow
def test_pixels_are_the_same_in_another_process():
    program = (
        "import hashlib, numpy as np\n"
        "from deepsynth.data.rendering.renderer import TextRenderer\n"
        "from deepsynth.types import Document\n"
        "r = TextRenderer(page_width_px=256, page_height_px=256, font_size_px=(9, 14), system_fonts=False)\n"
        "p = r(Document('d', 'Some words, some more words. ' * 9), np.random.default_rng(7))\n"
        "print(hashlib.sha256(p[0].image.tobytes()).hexdigest())"
    )
    runs = [
        subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
        for _ in range(2)
    ]
    assert runs[0] == runs[1] != ""


def test_colors_are_drawn():
    (page,) = render("ink", text_color=("#800000",), background_color=("#ffffee",))
    colors = {color for _, color in page.image.getcolors(1_000_000)}
    assert {(0x80, 0, 0), (0xFF, 0xFF, 0xEE)} <= colors


def test_it_travels_to_workers_without_its_caches():
    renderer = TextRenderer(**SMALL)
    renderer(Document("d", PROSE), np.random.default_rng(0))
    assert len(pickle.dumps(renderer)) < 2000
    assert pickle.loads(pickle.dumps(renderer)) == renderer


def test_an_empty_text_is_one_blank_page():
    for text in ("", " \n\t ", "\ufeff\x00"):
        (page,) = render(text)
        assert (page.text.strip(), page.lines) == ("", ())
        assert np.asarray(page.image).min() == 255


def test_removed_characters_are_counted():
    (page,) = render("a\x00b\ufeffc")
    assert page.text == "abc"
    assert page.stats["characters_removed"] == 2


# Overflow


def test_overflow_may_be_an_error():
    with pytest.raises(UserError, match=r"document 'd': its \d+ characters take more than 1 page.*on_overflow"):
        render(PROSE * 20, on_overflow="error")
    assert len(render(PROSE, on_overflow="error")) == 1


def test_pages_may_be_limited():
    with pytest.raises(UserError, match=r"more than 2 page\(s\)"):
        render(PROSE * 20, max_pages=2)


def test_overflow_may_shrink_the_font_as_little_as_possible():
    text = PROSE * 3
    (page,) = render(text, on_overflow="shrink", font_size_px=20.0)
    assert_shows([page], text)
    size = page.stats["font_size_px"]
    assert 6 <= size < 20
    assert len(render(text, font_size_px=size)) == 1
    assert len(render(text, font_size_px=size + 0.5)) == 2


def test_shrinking_stops_at_the_smallest_font():
    with pytest.raises(UserError, match="at a font size of 10 pixels"):
        render(PROSE * 20, on_overflow="shrink", font_size_px=20.0, min_font_size_px=10.0)


def test_truncation_is_counted_and_the_text_is_what_is_on_the_page():
    text = PROSE * 20
    (page,) = render(text, on_overflow="truncate")
    assert fold_whitespace(text).startswith(fold_whitespace(page.text))
    kept = len("".join(page.text.split()))
    assert page.stats["characters_cut"] == len("".join(text.split())) - kept > 0


def test_truncation_leaves_a_summary_alone():
    document = Document("d", PROSE * 20, target="A summary.")
    TextRenderer(**SMALL, on_overflow="truncate")(document, np.random.default_rng(0))
    assert document.target == "A summary."


def test_the_documented_defaults():
    """Black type of 20 pixels on white pages of 1024 x 1024, margins of 48, 26 pixels from baseline to baseline."""
    text = "words of it " * 400
    first, second, *_ = TextRenderer(system_fonts=False)(Document("d", text), np.random.default_rng(0))
    assert (first.image.size, first.stats["font_size_px"]) == ((1024, 1024), 20)
    assert len(first.lines) == (1024 - 2 * 48) // 26
    assert {line.box[0] for line in first.lines} <= {48.0, 49.0}
    assert max(line.box[2] for line in first.lines) < 1024 - 2 * 48, "not stretched to the margin"
    assert first.image.getpixel((0, 0)) == (255, 255, 255)
    assert first.image.getextrema() == ((0, 255),) * 3
    assert not second.stats["continues_word"]
    page = TextRenderer(system_fonts=False, columns=2)(Document("d", text * 3), np.random.default_rng(0))[0]
    assert {int(line.box[0]) for line in page.lines} <= {48, 49, 528, 529}, "two columns of 448 and a gap of 32"
    assert TextRenderer(system_fonts=False, page_shape="letter").page_size_px == (850, 1100), "100 pixels per inch"
    with pytest.raises(UserError, match=r"more than 1 page.* at a font size of 6 pixels"):
        render(text * 4, on_overflow="shrink", font_size_px=8.0)


@pytest.mark.parametrize(
    ("text", "page", "ratio"),
    [
        ("yellow", "white", "1.07"),
        ("#f00", "#0f0", "2.91"),
        ("#c0c0c0", "white", "1.82"),
        ("white", "#c0c0c0", "1.82"),
        ("black", "black", "1.00"),
        ("#080808", "black", "1.05"),
        ("#0000ff", "black", "2.44"),
    ],
)
def test_contrast_is_that_of_the_web_guidelines(text: str, page: str, ratio: str):
    """The ratios were looked up for these pairs; those below 2 are refused."""
    if float(ratio) < 2:
        with pytest.raises(UserError, match=f"has a contrast of {ratio}; it must be at least 2"):
            check_contrast(text, page)
    else:
        check_contrast(text, page)


@pytest.mark.parametrize(
    ("shape", "inches"), [("a4", (8.268, 11.693)), ("a5", (5.827, 8.268)), ("letter", (8.5, 11)), ("legal", (8.5, 14))]
)
def test_paper_has_its_size_in_inches(shape, inches):
    assert page_size(None, None, None, shape, 1000.0) == pytest.approx([1000 * side for side in inches], abs=0.5)


# Page sizes and token budget


def test_the_page_has_the_side_of_the_mode():
    for family, modes in MODES.items():
        for mode, layout in modes.items():
            renderer = TextRenderer(family=family, mode=mode, system_fonts=False)
            assert renderer.page_size_px == (layout.base_size, layout.base_size)
            assert renderer.image_tokens == layout.tokens(layout.base_size, layout.base_size)


def test_a_shape_of_paper_has_its_size():
    assert TextRenderer(page_shape="a4", dpi=100, system_fonts=False).page_size_px == (827, 1169)


@pytest.mark.parametrize("density", [3.0, 8.0])
@pytest.mark.parametrize("mode", ["tiny", "base"])
def test_the_type_is_set_to_the_token_budget(mode, density):
    text = PROSE.replace("\n", " ") * 120
    pages = render(
        text, mode=mode, characters_per_token=density, page_width_px=None, page_height_px=None, font_size_px=None
    )
    tokens = MODES["deepseek_ocr"][mode].base_size
    assert pages[0].stats["image_tokens"] == MODES["deepseek_ocr"][mode].tokens(tokens, tokens)
    assert pages[0].stats["characters_per_image_token"] == pytest.approx(density, rel=0.12)
    assert pages[0].stats["characters_per_image_token"] * pages[0].stats["image_tokens"] == pytest.approx(
        len(fold_whitespace(pages[0].text))
    )


def test_a_short_text_is_set_as_densely_as_a_long_one():
    options = {"mode": "base", "characters_per_token": 5.0, "font_size_px": None}
    options |= {"page_width_px": None, "page_height_px": None}
    sizes = [render(PROSE * n, **options)[0].stats["font_size_px"] for n in (2, 40)]
    assert sizes[0] == pytest.approx(sizes[1], rel=0.15)


# Markdown


def test_markdown_is_drawn_as_such():
    text = "# Title\n\nSome **bold** text.\n\n- item\n\n| a | b |\n|---|---|\n| c | d |\n\n---\n\nend"
    (page,) = render(text, markup="markdown")
    assert page.text == "Title\nSome bold text.\n• item\na\tb\nc\td\nend"
    by_text = {line.text: line for line in page.lines}
    assert by_text["Title"].font_size_px > 11
    assert "DejaVu Sans Bold" in by_text["Some bold text."].font
    assert render(text)[0].text == text


def test_a_table_goes_over_pages_row_by_row():
    text = "| n | text |\n|---|---|\n" + "".join(f"| {n} | words of row {n} |\n" for n in range(40))
    pages = render(text, markup="markdown")
    assert len(pages) > 1
    rows = [row for page in pages for row in page.text.split("\n")]
    assert rows == ["n\ttext", *[f"{n}\twords of row {n}" for n in range(40)]]


# Bad input


def test_a_lone_surrogate_is_refused():
    with pytest.raises(UserError, match="document 'd': character 1 of the text is the lone surrogate"):
        render("a\ud800")


def test_a_character_without_a_font_is_named_with_its_package():
    with pytest.raises(UserError, match=r"document 'd': no font has '漢' \(U\+6F22 CJK .*fonts-noto-cjk.*font_dirs"):
        render("a漢b")


def test_a_character_without_a_font_may_be_replaced_and_is_counted():
    (page,) = render("a漢b字", on_missing_glyph="replace")
    assert page.text == "a\ufffdb\ufffd"
    assert page.stats["characters_replaced"] == 2


def test_what_is_replaced_in_a_word_wider_than_the_column_is_counted():
    (page,) = render("00000ÐÐÐÐ\ue000 and", columns=2, font_size_px=24.0, page_width_px=400, on_missing_glyph="replace")
    assert [line.text for line in page.lines] == ["00000ÐÐÐÐ", "\ufffd and"]
    assert page.stats["characters_replaced"] == 1


def test_a_hundred_kilobytes_without_a_space_are_broken():
    text = "abcdefghij" * 10_000
    assert_shows(render(text, page_width_px=600, page_height_px=600), text)


def test_a_line_of_combining_marks_alone_is_drawn_or_refused():
    text = "\u0301\u0302\u0303"
    if features.check("raqm"):
        assert_shows(render(text), text)
        assert_shows(render(f"{text} x{text}", margin_px=0), f"{text} x{text}")
    else:
        with pytest.raises(UserError, match="libfribidi0"):
            render(text)


def test_a_page_too_small_for_a_character_is_refused():
    with pytest.raises(UserError, match=r"document 'd': a line is .* pixels high"):
        render("a", page_height_px=32, page_width_px=64, margin_px=4, font_size_px=40.0)
    with pytest.raises(UserError, match="document 'd': 'W' at 40 pixels is wider than the column"):
        render("W", page_height_px=200, page_width_px=40, margin_px=4, font_size_px=40.0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"font_size_px": -1.0}, "font_size_px is -1.0"),
        ({"font_size_px": (12.0, 8.0)}, "font_size_px is"),
        ({"font_size_px": float("nan")}, "font_size_px is nan"),
        ({"justify": 1.5}, "justify is 1.5; it must be from 0 to 1"),
        ({"margin_px": 200}, "no room for 1 column"),
        ({"columns": 0}, "columns is 0"),
        ({"mode": "huge"}, "mode is 'huge'; deepseek_ocr has tiny"),
        ({"characters_per_token": 10.0}, "characters_per_token is 10.0, and no mode is given"),
        ({"characters_per_token": 10.0, "mode": "tiny"}, "font_size_px is 11.0, and characters_per_token"),
        ({"on_overflow": "wrap"}, "on_overflow is 'wrap'; it must be one of error"),
        ({"page_shape": "a9", "page_width_px": None, "page_height_px": None}, "page_shape is 'a9'; it must be one of"),
        ({"page_shape": "a4"}, "page_shape is 'a4', and page_width_px"),
        ({"text_color": ("blurple",)}, "'blurple' is not a color"),
        ({"text_color": ("#eeeeee",)}, "text_color '#eeeeee' on background_color 'white' has a contrast of"),
        ({"fonts": ()}, "fonts is"),
        ({"fonts": "DejaVu Sans"}, "fonts is 'DejaVu Sans'; it must be a list"),
        ({"fonts": ("Nowhere Sans",)}, "'Nowhere Sans', which is not installed"),
        ({"font_dirs": ("/nowhere",)}, "font_dirs names '/nowhere'"),
    ],
)
def test_options_beyond_what_is_possible_are_refused(options, message):
    with pytest.raises(UserError, match=message.replace("(", r"\(")):
        TextRenderer(**{**SMALL, **options})


def test_a_file_that_is_no_font_is_refused(tmp_path):
    path = tmp_path / "broken.ttf"
    path.write_bytes(b"\x00\x01\x00\x00 not a font")
    with pytest.raises(UserError, match=r"broken\.ttf is not a usable font"):
        TextRenderer(**{**SMALL, "fonts": (str(path),)})


@pytest.fixture
def other_fonts(tmp_path):
    """Return options with another font folder, so that nothing is drawn from memory."""
    shutil.copy(bundled_folder() / "cmb10.ttf", tmp_path)
    return {"font_dirs": (str(tmp_path),)}


def test_without_raqm_latin_looks_the_same_and_arabic_names_the_package(monkeypatch, other_fonts):
    text = "Latin, Ελληνικά, кириллица"
    before = render(text)[0].image.tobytes()
    monkeypatch.setattr(features, "check", lambda feature: False)
    assert render(text, **other_fonts)[0].image.tobytes() == before
    with pytest.raises(UserError, match=r"document 'd': .*libfribidi0"):
        render("السلام عليكم", **other_fonts)
    with pytest.raises(UserError, match="libfribidi0"):
        render("x\u0304", **other_fonts)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.text(max_size=80))
def test_any_text_is_drawn_whole_or_refused(text):
    try:
        pages = render(text)
    except UserError:
        return
    assert_shows(pages, text)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.text(st.characters(codec="utf-8", categories=["L", "M", "N", "P", "S", "Z", "Cc", "Cf"]), max_size=200),
    st.sampled_from([8.0, 13.5, 24.0]),
    st.integers(1, 2),
    st.booleans(),
)
def test_any_text_is_drawn_whole_when_missing_characters_are_replaced(text, size, columns, justify):
    options = {"font_size_px": size, "columns": columns, "justify": float(justify), "on_missing_glyph": "replace"}
    try:
        pages = render(text, page_width_px=400, page_height_px=400, **options)
    except UserError:
        return
    shown = fold_whitespace(join_pages(pages))
    source = fold_whitespace(clean_text(text)[0])
    assert len(shown) == len(source)
    assert all(a == b or a == "\ufffd" for a, b in zip(shown, source, strict=True))
    replaced = sum(a != b for a, b in zip(shown, source, strict=True))
    assert sum(page.stats["characters_replaced"] for page in pages) == replaced


def test_what_was_drawn_is_kept_until_it_is_to_be_forgotten(monkeypatch):
    made = []

    class Counted(FontLibrary):
        def __init__(self, *args):
            made.append(args)
            super().__init__(*args)

    monkeypatch.setattr("deepsynth.data.rendering.renderer.FontLibrary", Counted)
    forget_drawn_text()
    first = [page.image.tobytes() for page in render("some words")]
    for libraries in (1, 2):
        assert [page.image.tobytes() for page in render("some words")] == first
        assert len(made) == libraries
        forget_drawn_text()
        render("some words")
    forget_drawn_text()  # no other test goes on with this library
