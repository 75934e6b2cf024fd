from itertools import pairwise

import pytest

from deepsynth.data.fonts.library import FontLibrary
from deepsynth.data.fonts.shaping import Shaper
from deepsynth.data.typesetting.lines import Typesetter
from deepsynth.data.typesetting.paragraphs import BODY, Paragraph, RunStyle
from deepsynth.errors import UserError
from tests.data.typesetting.conftest import STYLE, lines


def test_wraps_at_white_space_and_remembers_it(typesetter):
    wrapped = lines(typesetter, "the quick brown fox jumps over the lazy dog")
    assert len(wrapped) > 1
    assert [line.joiner for line in wrapped] == [" "] * (len(wrapped) - 1) + ["\n"]
    assert " ".join(line.text for line in wrapped) == "the quick brown fox jumps over the lazy dog"
    assert all(x + piece.right <= 200 for line in wrapped for piece, x in line.places)


def test_a_greedy_line_is_as_full_as_it_can_be(typesetter):
    first, second, *_ = lines(typesetter, "the quick brown fox jumps over the lazy dog")
    word = second.places[0][0]
    last, x = first.places[-1]
    assert x + last.advance + typesetter.metrics(STYLE)[2] + word.room > 200


def test_indentation_and_inner_spaces_are_kept(typesetter):
    (line,) = lines(typesetter, "    a   b\tc")
    space = typesetter.metrics(STYLE)[2]
    assert line.text == "    a   b\tc"
    (_, a), (piece, b), (_, c) = line.places
    assert a == pytest.approx(4 * space, abs=1)
    assert b - a > 3 * space
    stop = 4 * space
    assert c == pytest.approx(((b + piece.advance) // stop + 1) * stop)


def test_an_indentation_never_pushes_a_word_out(typesetter):
    (line,) = lines(typesetter, " " * 500 + "word")
    assert line.text.strip() == "word"
    piece, x = line.places[0]
    assert x + piece.right <= 200


def test_a_word_wider_than_the_column_is_broken_and_whole(typesetter):
    word = "x" * 150
    wrapped = lines(typesetter, f"a {word} b")
    assert [line.joiner for line in wrapped] == [" ", *[""] * (len(wrapped) - 2), "\n"]
    assert "".join(line.text + line.joiner for line in wrapped) == f"a {word} b\n"
    assert all(x + piece.right <= 200 for line in wrapped for piece, x in line.places)


def test_a_character_wider_than_the_column_is_refused(typesetter):
    with pytest.raises(ValueError, match=r"'W' at 16 pixels is wider than the column of 5 pixels"):
        lines(typesetter, "W", width=5)


def test_an_empty_paragraph_has_one_line(typesetter):
    (line,) = lines(typesetter, "")
    assert (line.text, line.joiner, line.places) == ("", "\n", [])
    assert line.ascent + line.descent == round(16 * 1.3)


def test_justified_lines_end_at_the_margin_but_the_last(shaper):
    typesetter = Typesetter(shaper, STYLE, line_height=1.3, justify=True)
    text = "the quick brown fox jumps over the lazy dog"
    *wrapped, last = lines(typesetter, text)
    for line in wrapped:
        piece, x = line.places[-1]
        assert x + piece.room == pytest.approx(200)
    ragged = lines(Typesetter(shaper, STYLE, line_height=1.3), text)
    assert last.places == ragged[-1].places
    assert ragged[0].places[-1][1] + ragged[0].places[-1][0].room < 199


def test_words_in_several_styles_are_not_torn_apart(typesetter):
    paragraph = Paragraph((("one two thr", BODY), ("ee", RunStyle(bold=True)), (" four five six", BODY)))
    wrapped = list(typesetter.lines(paragraph, 110))
    assert " ".join(line.text for line in wrapped) == "one two three four five six"
    assert any("three" in line.text for line in wrapped)


def test_a_list_marker_hangs_in_the_indent(typesetter):
    paragraph = Paragraph((("first item that wraps over the line", BODY),), indent_em=2.5, marker="•")
    first, second, *_ = typesetter.lines(paragraph, 200)
    assert first.text.startswith("• first")
    assert first.places[0][1] < first.places[1][1] == second.places[0][1] == 40


@pytest.mark.parametrize(
    "text",
    [
        "the quick brown fox, well-known, jumps  over the lazy dog " * 3,
        "x" * 300 + " and more words after it",
        "人人生而自由，在尊严和权利上一律平等。他们赋有理性和良心。" * 2,
        "one (אבג דהו 1). two שלום עולם three four five שנים" * 2,
    ],
)
@pytest.mark.parametrize("styles", [1, 2])
def test_a_paragraph_goes_on_from_the_end_of_any_line(shaper, text, styles):
    shaper = Shaper(FontLibrary(), replace_missing=True)
    typesetter = Typesetter(shaper, STYLE, 1.3, hyphenation=None)
    runs = ((text, BODY),) if styles == 1 else ((text[:20], BODY), (text[20:], RunStyle(bold=True)))
    try:
        whole = list(typesetter.lines(Paragraph(runs), 150))
    except UserError as error:
        if "libfribidi0" not in str(error):
            raise
        pytest.skip(str(error))
    assert len(whole) > 2
    for number, line in enumerate(whole[:-1]):
        rest = list(typesetter.lines(Paragraph(runs), 150, line.end))
        for one, expected in zip(rest, whole[number + 1 :], strict=True):
            assert (one.text, one.joiner, one.end) == (expected.text, expected.joiner, expected.end)
            assert [x for _, x in one.places] == [x for _, x in expected.places]


def test_lines_keep_to_the_side_that_a_cell_names(typesetter):
    ends = {}
    for side in ("left", "center", "right"):
        (line,) = typesetter.lines(Paragraph((("words", BODY),), align=side), 200)
        ((piece, x),) = line.places
        ends[side] = (x, 200 - x - piece.room)
    assert ends["left"][0] == ends["right"][1] == 0
    assert ends["center"][0] == pytest.approx(ends["center"][1]) != 0


def test_a_table_is_as_wide_as_its_text_in_either_direction(typesetter):
    widths = [typesetter.unbroken(Paragraph(((text, BODY),)))[1] for text in ("two words", "שתי מילים")]
    assert all(40 < width < 100 for width in widths)


def test_a_line_begins_at_its_pen_unless_its_first_glyph_would_leave_the_column(typesetter: Typesetter) -> None:
    ((overhanging, x),) = lines(typesetter, "jug")[0].places
    assert x == -overhanging.left > 0
    ((indented, x),) = lines(typesetter, "\u00a0word")[0].places
    assert indented.left > 0, "after the no-break space"
    assert x == 0


def test_an_overhanging_last_glyph_stays_within_a_justified_column(shaper: Shaper) -> None:
    typesetter = Typesetter(shaper, STYLE, line_height=1.3, justify=True)
    paragraph = Paragraph((("half a loaf of half a leaf " * 4, RunStyle(italic=True)),))
    *wrapped, _ = typesetter.lines(paragraph, 150)
    ends = [line.places[-1] for line in wrapped]
    assert any(piece.right > piece.advance for piece, _ in ends)
    assert [x + piece.room for piece, x in ends] == pytest.approx([150] * len(ends))


def test_a_line_that_ends_at_a_soft_hyphen_draws_the_hyphen_within_the_column(typesetter, shaper):
    text = "a com\u00adpre\u00adhen\u00adsi\u00adble re\u00adspon\u00adsi\u00adbil\u00adi\u00adty of " * 6
    text = text.strip()
    hyphens = set()
    for width in range(90, 240, 7):
        wrapped = lines(typesetter, text, width)
        assert "".join(line.text + line.joiner for line in wrapped) == text + "\n"
        for line, following in pairwise(wrapped):
            run, x = line.places[-1]
            inside = line.joiner == ""
            assert line.ending == ("-\n" if inside else "\n")
            hyphens.add(inside)
            if inside:
                letters = shaper.shape(run.text.replace("\u00ad", ""), STYLE)
                assert run.text.endswith("\u00ad")
                assert run.advance > letters.advance + 2
            assert x + run.room <= width + 1e-6
            assert following.places
        assert wrapped[3].end == len("".join(line.text + line.joiner for line in wrapped[:4]))
        again = list(typesetter.lines(Paragraph(((text, BODY),)), width, wrapped[3].end))
        assert [line.text for line in again] == [line.text for line in wrapped[4:]]
    assert hyphens == {True, False}


def test_a_hyphen_that_does_not_fit_moves_its_syllable_to_the_next_line(typesetter, shaper):
    first, second = "mmm", "nn\u00ad"
    width = int(shaper.shape(first, STYLE).room + shaper.shape(" nn", STYLE).room) + 1
    wrapped = lines(typesetter, f"{first} {second}oo", width)
    assert [(line.text, line.joiner, line.ending) for line in wrapped] == [
        (first, " ", "\n"),
        (f"{second}oo", "\n", "\n"),
    ]


@pytest.mark.parametrize("text", ["one and two", "two  and", " one", "two-one and", "a " * 50 + "two", "one\tand", ""])
@pytest.mark.parametrize("width", [60, 90, 400])
def test_words_that_were_shaped_before_are_set_as_the_first_time(text, width):
    def is_set(typesetter):
        found = typesetter.lines(Paragraph(((text, BODY),)), width)
        return [(line.text, line.joiner, line.end, [x for _, x in line.places]) for line in found]

    def fresh():
        return Typesetter(Shaper(FontLibrary((), system_fonts=False)), STYLE, 1.3)

    warm = fresh()
    list(warm.lines(Paragraph(((f"{text} one two and", BODY),)), 4000))
    first = is_set(fresh())
    assert is_set(warm) == first
    assert all(x + 5 < width for _, _, _, places in first for x in places)
