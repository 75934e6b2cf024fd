import pytest

from deepsynth.data.fonts.glyphs import FontStyle
from deepsynth.data.fonts.library import FontLibrary
from deepsynth.data.fonts.shaping import Shaper
from deepsynth.data.text.bidi import embedding_levels, visual_order
from deepsynth.data.text.linebreak import gap_width, grapheme_clusters, segments
from deepsynth.data.typesetting.bidi_lines import in_visual_order
from deepsynth.data.typesetting.hyphenation import hyphenation_for
from deepsynth.data.typesetting.lines import Typesetter
from deepsynth.data.typesetting.markdown import markdown_blocks
from deepsynth.data.typesetting.pages import Frame, LayoutRow, fill_page
from deepsynth.data.typesetting.paragraphs import BODY, Paragraph, RunStyle
from deepsynth.data.typesetting.words import break_run, shaped_words
from deepsynth.errors import UserError

STYLE = FontStyle("DejaVu Sans", 16.0)
SPACE = 5.0


@pytest.fixture(scope="module")
def shaper():
    return Shaper(FontLibrary(system_fonts=False))


@pytest.fixture(scope="module")
def typesetter(shaper):
    return Typesetter(shaper, STYLE, line_height=1.3)


def lines(typesetter, text, width=200):
    return list(typesetter.lines(Paragraph(((text, BODY),)), width))


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("word", ["word"]),
        ("well-known", ["well-", "known"]),
        ("--option", ["--option"]),
        ("-5", ["-5"]),
        ("10–20", ["10–20"]),
        ("then—until", ["then—", "until"]),
        ("http://a.b/c", ["http://", "a.b/", "c"]),
        ("no\u00a0break-here", ["no\u00a0break-", "here"]),
        ("soft\u00adhyphen", ["soft\u00ad", "hyphen"]),
        ("zero\u200bwidth", ["zero\u200b", "width"]),
        ("“Don’t!”", ["“Don’t!”"]),
        ("他说：“你好。”（走）了", ["他", "说：", "“你", "好。”", "（走）", "了"]),
        ("シュー、テスト", ["シュー、", "テ", "ス", "ト"]),
        ("中文English中", ["中", "文", "English", "中"]),
        ("한국어는", ["한국어는"]),
        ("क्षत्रिय", ["क्षत्रिय"]),
    ],
)
def test_lines_may_end_where_the_script_allows(text, parts):
    assert segments(text) == parts


@pytest.mark.parametrize(
    ("text", "clusters"),
    [
        ("e\u0301a", ["e\u0301", "a"]),
        ("क्षत्रि", ["क्ष", "त्रि"]),
        ("👨\u200d👩\u200d👧a", ["👨\u200d👩\u200d👧", "a"]),
        ("🇩🇪🇫🇷", ["🇩🇪", "🇫🇷"]),
        ("\u1112\u1161\u11ab\u1100", ["\u1112\u1161\u11ab", "\u1100"]),
        ("\u0301\u0302", ["\u0301\u0302"]),
    ],
)
def test_clusters_are_what_a_reader_takes_for_one_character(text, clusters):
    assert grapheme_clusters(text) == clusters


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
    assert c % (4 * space) == pytest.approx(0, abs=1e-6) or c > b + piece.advance


def test_an_indentation_never_pushes_a_word_out(typesetter):
    (line,) = lines(typesetter, " " * 500 + "word")
    assert line.text.strip() == "word"
    piece, x = line.places[0]
    assert x + piece.right <= 200


@pytest.mark.parametrize(("gap", "width"), [(" ", 5), ("   ", 15), ("\t", 20), ("\u3000", 16), (" \t", 20)])
def test_white_space_has_its_width(gap, width):
    assert gap_width(gap, 0.0, SPACE, 16.0) == width


def test_tabs_go_to_the_next_stop():
    assert gap_width("\t", 12.0, SPACE, 16.0) == 8
    assert gap_width("\t", 20.0, SPACE, 16.0) == 20


def test_a_word_wider_than_the_column_is_broken_and_whole(typesetter):
    word = "x" * 150
    wrapped = lines(typesetter, f"a {word} b")
    assert [line.joiner for line in wrapped] == [" ", *[""] * (len(wrapped) - 2), "\n"]
    assert "".join(line.text + line.joiner for line in wrapped) == f"a {word} b\n"
    assert all(x + piece.right <= 200 for line in wrapped for piece, x in line.places)


def test_endless_words_are_broken_without_shaping_them_whole(shaper):
    parts = [piece.text for piece in break_run(shaper, "xyz" * 10_000, STYLE, "ltr", 300)]
    assert "".join(parts) == "xyz" * 10_000
    assert min(map(len, parts[:-1])) > 20


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


def test_only_right_to_left_text_has_levels():
    text = "abc 123 漢字 हिन्दी"
    assert embedding_levels(text) == (bytes(len(text)), 0)


def test_runs_are_put_in_visual_order():
    assert visual_order([0, 0, 0]) == [0, 1, 2]
    assert visual_order([1, 1, 1]) == [2, 1, 0]
    assert visual_order([0, 1, 1, 2, 0]) == [0, 3, 2, 1, 4]
    assert visual_order([1, 2, 2, 1]) == [3, 1, 2, 0]
    assert visual_order([]) == []


def test_levels_follow_the_bidirectional_algorithm():
    pytest.importorskip("PIL.features")
    try:
        levels, base = embedding_levels("abc אבג 12!")
    except UserError as error:
        pytest.skip(str(error))
    assert (list(levels), base) == ([0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 0], 0)
    assert embedding_levels("אב (x)")[1] == 1


def rows_of(typesetter, texts):
    return [
        LayoutRow([(line, 0, line.ascent)], line.ascent + line.descent, position=(number, 0))
        for number, text in enumerate(texts)
        for line in lines(typesetter, text)
    ]


def test_a_page_takes_rows_until_it_is_full_and_says_where_the_next_begins(typesetter):
    frame = Frame((10, 120), 100, 5, 70)
    rows = rows_of(typesetter, "abcdefghijk")
    sheet, place = fill_page(rows, frame)
    assert "".join(p.line.text for p in sheet.lines) == "abcdef"
    assert {placed.x for placed in sheet.lines} == {10, 120}
    assert place == (6, 0)
    rest, place = fill_page(rows[6:], frame)
    assert "".join(p.line.text for p in rest.lines) == "ghijk"
    assert place is None


def test_a_blank_line_does_not_begin_a_column(typesetter):
    frame = Frame((0, 100), 100, 0, 65)
    sheet, _ = fill_page(rows_of(typesetter, ("a", "b", "c", "", "d")), frame)
    assert [(p.line.text, p.x) for p in sheet.lines if p.line.places] == [("a", 0), ("b", 0), ("c", 0), ("d", 100)]
    assert fill_page(rows_of(typesetter, ("a", "b", "c", "", "d")), Frame((0,), 100, 0, 65))[1] == (4, 0)


def test_a_heading_does_not_end_a_column(typesetter):
    rows = rows_of(typesetter, ("a", "b", "heading", "c"))
    rows[2].keep_with_next = True
    assert fill_page(rows, Frame((0,), 100, 0, 65))[1] == (2, 0)


def test_a_line_higher_than_the_page_is_refused(typesetter):
    with pytest.raises(ValueError, match=r"a line is 21 pixels high, more than the 10 pixels"):
        fill_page(rows_of(typesetter, "a"), Frame((0,), 100, 0, 10))


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
    widths = [typesetter.natural_width(Paragraph(((text, BODY),))) for text in ("two words", "שתי מילים")]
    assert all(40 < width < 100 for width in widths)


# Hyphenation


@pytest.mark.parametrize(
    ("language", "word", "shown"),
    [
        ("en", "hyphenation", "hy-phen-a-tion"),
        (None, "(“hyphenation”).", "(“hy-phen-a-tion”)."),
        ("de-DE", "Silbentrennung", "Sil-ben-tren-nung"),
        ("fr", "l’association", "l’as-so-cia-tion"),
        ("ru", "переносами", "пе-ре-но-сами"),
        ("hu", "asszonnyal", "asszonnyal"),
        ("en", "http://hyphenation.org", "http://hyphenation.org"),
        ("en", "word", "word"),
        ("en", "x86hyphenation", "x86hyphenation"),
    ],
)
def test_words_are_divided_by_the_patterns_of_their_language(language, word, shown):
    pytest.importorskip("pyphen")
    cuts = hyphenation_for(language).cuts(word)
    assert "-".join(word[a:b] for a, b in zip([0, *cuts], [*cuts, len(word)], strict=True)) == shown


def test_a_language_without_a_dictionary_is_not_hyphenated():
    pytest.importorskip("pyphen")
    assert hyphenation_for("zh") is None
    assert hyphenation_for("ar") is None


@pytest.mark.parametrize("styles", [1, 2])
@pytest.mark.parametrize("justify", [False, True])
def test_a_hyphen_is_drawn_and_is_not_in_the_text(shaper, styles, justify):
    pytest.importorskip("pyphen")
    text = "considerable international hyphenation responsibility fundamentally characterises communication"
    runs = ((text, BODY),) if styles == 1 else ((text[:20], BODY), (text[20:], RunStyle(bold=True)))
    typesetter = Typesetter(shaper, STYLE, 1.3, justify, hyphenation_for("en"))
    wrapped = list(typesetter.lines(Paragraph(runs), 160))
    divided = [line for line in wrapped if line.joiner == ""]
    assert divided
    assert "".join(line.text + line.joiner for line in wrapped).rstrip() == text
    hyphen = shaper.shape("-", STYLE)
    for line in divided:
        piece, x = line.places[-1]
        letters = shaper.shape(piece.text, STYLE if styles == 1 else STYLE._replace(bold=True))
        assert piece.advance - letters.advance >= hyphen.advance - 1
        assert not piece.text.endswith("-")
        assert x + piece.room <= 160 + 1e-6
        if justify and len(line.places) > 1:
            assert x + piece.room == pytest.approx(160, abs=1)
    whole = list(Typesetter(shaper, STYLE, 1.3, justify).lines(Paragraph(runs), 160))
    assert all(line.joiner != "" for line in whole)


def test_markdown_becomes_blocks_that_show_no_markup():
    text = "# Title\n\nsome **bold** and *it*\nalic\n\n1. one\n2. two\n\n- x\n\n```\n  code  here\n```\n\n"
    text += "|a|b|\n|-|-|\n|c|d|\n"
    blocks = markdown_blocks(text)
    paragraphs = [block for block in blocks if isinstance(block, Paragraph)]
    shown = [("".join(text for text, _ in block.runs), block.marker) for block in paragraphs]
    assert shown == [
        ("Title", ""),
        ("some bold and it alic", ""),
        ("one", "1."),
        ("two", "2."),
        ("x", "•"),
        ("  code  here", ""),
    ]
    assert paragraphs[0].runs[0][1].scale > 1
    assert paragraphs[0].keep_with_next
    assert [style.bold for text, style in paragraphs[1].runs if text == "bold"] == [True]
    assert paragraphs[-1].runs[0][1].family == "DejaVu Sans Mono"
    table = blocks[-1]
    assert [["".join(t for t, _ in cell.runs) for cell in row] for row in table.rows] == [["a", "b"], ["c", "d"]]


def test_cells_of_a_markdown_table_keep_to_the_side_that_its_colons_name():
    (table,) = markdown_blocks("|a|b|c|d|\n|-|:-|:-:|-:|\n|1|2|3|4|\n")
    for row in table.rows:
        assert [cell.align for cell in row] == [None, "left", "center", "right"]


@pytest.mark.parametrize("base", [0, 1])
@pytest.mark.parametrize("justified", [False, True])
@pytest.mark.parametrize("first", [" ", ""])
def test_a_line_in_one_direction_is_placed_like_a_line_in_two(shaper, base, justified, first):
    words = [(first, "zero"), ("", "one"), ("   ", "two"), ("", "three"), (" ", "four"), ("\t", "five")]
    items = [
        (shaper.shape_once(word, STYLE, "rtl" if base else "ltr"), base, gap, base, 4.25 * len(gap))
        for gap, word in words
    ]
    empty = (shaper.shape_once("\u200b", STYLE), 1 - base, "", base, 0.0)  # shows nothing, in the other direction
    one = in_visual_order(items, justified, base, 400, 7)
    two = in_visual_order([*items, empty], justified, base, 400, 7)[:-1]
    assert [run for run, _ in one] == [run for run, _ in two]
    assert [x for _, x in one] == pytest.approx([x for _, x in two])


@pytest.mark.parametrize("text", ["a word", "x" * 300, "שלום (one) two", "one שתיים, three", "12 שתיים-three 漢字漢字"])
def test_words_are_the_text_with_the_room_that_they_need(text):
    shaper = Shaper(FontLibrary(system_fonts=False), replace_missing=True)
    try:
        levels, _ = embedding_levels(text)
        words = list(shaped_words(shaper, [(text, STYLE)], text, 0, levels))
    except UserError as error:
        pytest.skip(str(error))
    shown = "".join(gap + "".join(run.text for run, _ in runs) for _, gap, _, runs, _ in words)
    assert [a for a, b in zip(shown, text, strict=True) if a not in (b, "\ufffd")] == []
    for start, _, _, runs, room in words:
        assert room == (sum(run.room for run, _ in runs) if len(text) < 300 else float("inf"))
        assert runs[0][1] == levels[start]
