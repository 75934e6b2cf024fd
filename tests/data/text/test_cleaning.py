import pytest

from deepsynth.data.text.cleaning import clean_text, fold_whitespace


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
