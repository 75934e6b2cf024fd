import pytest

from deepsynth.data.bidi import embedding_levels, has_right_to_left, visual_order
from deepsynth.data.font_library import FontLibrary
from deepsynth.data.layout import Paragraph, Typesetter
from deepsynth.data.linebreak import grapheme_clusters, segments
from deepsynth.data.longwords import Span, break_word
from deepsynth.data.markdown import markdown_blocks
from deepsynth.data.pages import Frame, paginate, row_of
from deepsynth.data.shaping import Shaper, Style
from deepsynth.data.spaces import gap_width

STYLE = Style("DejaVu Sans", 16.0)
SPACE = 5.0


@pytest.fixture(scope="module")
def shaper():
    return Shaper(FontLibrary(system_fonts=False))


@pytest.fixture(scope="module")
def typesetter(shaper):
    return Typesetter(shaper, leading=1.3)


def lines(typesetter, text, width=200):
    return list(typesetter.lines(Paragraph(((text, STYLE),)), width))


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
    parts = [piece.text for piece in break_word(shaper, Span("xyz" * 10_000, STYLE, 0), 300)]
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
    typesetter = Typesetter(shaper, leading=1.3, justify=True)
    text = "the quick brown fox jumps over the lazy dog"
    *wrapped, last = lines(typesetter, text)
    for line in wrapped:
        piece, x = line.places[-1]
        assert x + piece.room == pytest.approx(200)
    ragged = lines(Typesetter(shaper, leading=1.3), text)
    assert last.places == ragged[-1].places
    assert ragged[0].places[-1][1] + ragged[0].places[-1][0].room < 199


def test_words_in_several_styles_are_not_torn_apart(typesetter):
    bold = STYLE._replace(bold=True)
    paragraph = Paragraph((("one two thr", STYLE), ("ee", bold), (" four five six", STYLE)))
    wrapped = list(typesetter.lines(paragraph, 110))
    assert " ".join(line.text for line in wrapped) == "one two three four five six"
    assert any("three" in line.text for line in wrapped)


def test_a_list_marker_hangs_in_the_indent(typesetter):
    paragraph = Paragraph((("first item that wraps over the line", STYLE),), indent_px=40, marker="•")
    first, second, *_ = typesetter.lines(paragraph, 200)
    assert first.text.startswith("• first")
    assert first.places[0][1] < first.places[1][1] == second.places[0][1] == 40


def test_only_right_to_left_text_is_reordered():
    assert not has_right_to_left("abc 123 漢字 हिन्दी")
    assert has_right_to_left("abc שלום")
    assert has_right_to_left("abc \u200f def")


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
    except ImportError as error:
        pytest.skip(str(error))
    assert (list(levels), base) == ([0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 0], 0)
    assert embedding_levels("אב (x)")[1] == 1


def test_pages_take_rows_until_they_are_full(typesetter):
    frame = Frame((10, 120), 100, 5, 70)
    rows = [row_of(line) for text in "abcdefghijk" for line in lines(typesetter, text)]
    sheets, more = paginate(rows, frame)
    assert not more
    assert ["".join(p.line.text for p in sheet.lines) for sheet in sheets] == ["abcdef", "ghijk"]
    assert {placed.x for placed in sheets[0].lines} == {10, 120}
    assert paginate(rows, frame, max_pages=1)[1]


def test_a_blank_line_does_not_begin_a_column(typesetter):
    frame = Frame((0,), 100, 0, 65)
    rows = [row_of(line) for text in ("a", "b", "c", "", "d") for line in lines(typesetter, text)]
    sheets, _ = paginate(rows, frame)
    assert [[p.line.text for p in sheet.lines if p.line.places] for sheet in sheets] == [["a", "b", "c"], ["d"]]
    assert sheets[1].lines[0].line.text == "d"


def test_a_heading_does_not_end_a_column(typesetter):
    frame = Frame((0,), 100, 0, 65)
    rows = [row_of(line) for text in ("a", "b", "heading", "c") for line in lines(typesetter, text)]
    rows[2].keep_with_next = True
    sheets, _ = paginate(rows, frame)
    assert [placed.line.text for placed in sheets[1].lines] == ["heading", "c"]


def test_a_line_higher_than_the_page_is_refused(typesetter):
    rows = [row_of(line) for line in lines(typesetter, "a")]
    with pytest.raises(ValueError, match=r"a line is 21 pixels high, more than the 10 pixels"):
        paginate(rows, Frame((0,), 100, 0, 10))


def test_markdown_becomes_blocks_that_show_no_markup():
    text = "# Title\n\nsome **bold** and *it*\nalic\n\n1. one\n2. two\n\n- x\n\n```\n  code  here\n```\n\n"
    text += "|a|b|\n|-|-|\n|c|d|\n"
    blocks = markdown_blocks(text, STYLE)
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
    assert paragraphs[0].runs[0][1].size_px > 16
    assert paragraphs[0].keep_with_next
    assert [style.bold for text, style in paragraphs[1].runs if text == "bold"] == [True]
    assert paragraphs[-1].runs[0][1].family == "DejaVu Sans Mono"
    table = blocks[-1]
    assert [["".join(t for t, _ in cell.runs) for cell in row] for row in table.rows] == [["a", "b"], ["c", "d"]]
