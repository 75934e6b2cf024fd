from collections import Counter

import pytest

from deepsynth.data.text.cleaning import TextCleaning, clean_text, fold_whitespace
from deepsynth.errors import UserError
from deepsynth.types import Document, Line


def test_composes_letters_and_marks():
    assert clean_text("e\u0301") == ("é", 0)


def test_removes_and_counts_controls_and_byte_order_marks():
    assert clean_text("\ufeffa\x00b\x1b\x7f\x9fc") == ("abc", 5)


def test_makes_every_line_end_a_newline():
    assert clean_text("a\r\nb\rc\x0bd\x0ce\x85f\u2028g\u2029h\n") == ("a\nb\nc\nd\ne\nf\ng\nh\n", 0)


def test_keeps_tabs_joiners_marks_of_direction_and_soft_hyphens():
    text = "a\tb\u200c\u200d\u200e\u200f\u00ad\u00a0\u3000"
    assert clean_text(text) == (text, 0)


def test_refuses_a_lone_surrogate_with_its_place():
    with pytest.raises(ValueError, match=r"character 2 of the text is the lone surrogate U\+D83D"):
        clean_text("ab\ud83dc")


def test_folds_white_space_of_every_kind():
    assert fold_whitespace(" a \u3000\n\tb\u00a0c ") == "a b c"


MESSY = "\ufeffe\u0301\u00ad\u200bx  y\u00a0 \r\nﬁ\x00\n\n"


@pytest.mark.parametrize(
    ("options", "label"),
    [
        ({}, "éx  y\nﬁ"),
        ({"normalization": "NFKC"}, "éx  y\nfi"),
        ({"normalization": "none"}, "e\u0301x  y\nﬁ"),
        ({"invisible": "keep"}, "é\u00ad\u200bx  y\nﬁ"),
        ({"spaces": "collapse"}, "éx y\nﬁ"),
        ({"line_breaks": "paragraphs"}, "éx  y ﬁ"),
        ({"line_breaks": "source"}, "éx  y\nﬁ"),
    ],
)
def test_a_scan_s_text_becomes_a_label_by_the_options(options, label):
    assert TextCleaning(**options).scan(MESSY) == label


def test_what_was_changed_is_counted_by_kind():
    changes = Counter()
    TextCleaning(spaces="collapse").label(MESSY, changes)
    assert changes == {
        "line ends": 1,
        "controls and byte-order marks": 2,
        "invisible characters": 2,
        "texts not in NFC": 1,
        "spaces": 2,
        "white space at ends of lines or text": 3,
    }
    documents = [Document("a", "as it is"), Document("b", "so\u00adft"), Document("c", "x", target="t\u200b")]
    assert TextCleaning().count_changes(documents) == "2 of 3 texts cleaned for their labels: 2 invisible characters"
    assert TextCleaning().count_changes(documents[:1]) == ""


def test_a_page_s_label_has_the_lines_of_the_page_or_of_the_source():
    box = (0, 0, 1, 1)
    lines = [
        Line("an exam", box, ending="-\n"),
        Line("ple of", box),
        Line("text", box, ending="\n\n"),
        Line("end", box),
    ]
    text = "an example of text\n\nend"
    assert TextCleaning().page(text, lines) == "an exam-\nple of\ntext\n\nend"
    assert TextCleaning(line_breaks="source").page(text, lines) == text
    assert TextCleaning(line_breaks="source").page("a\nb\n\nc", lines) == "a\nb\n\nc"
    assert TextCleaning(line_breaks="paragraphs").page("a\nb\n\nc", lines) == "a b\n\nc"
    assert TextCleaning(line_breaks="paragraphs").page("- a\n- b", lines, markup=True) == "- a\n- b"
    assert TextCleaning().page("a renderer without lines", ()) == "a renderer without lines"


def test_what_is_no_choice_is_refused():
    with pytest.raises(UserError, match=r"data.text.line_breaks is 'words'; it must be one of page, source"):
        TextCleaning(line_breaks="words")
