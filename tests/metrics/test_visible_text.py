"""What stays of a text when only what a page shows may stay."""

import pytest

from deepsynth.metrics import normalize
from deepsynth.metrics.visible_text import join_paragraphs, remove_invisible


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        ("zero\u200bwidth", "zerowidth"),
        ("soft\u00adhyphen", "softhyphen"),
        ("\ufeffword\u2060joiner", "wordjoiner"),
        ("\u200fleft\u200e \u202bright\u202c \u2067x\u2069", "left right x"),
        ("f\u2062x\u034f", "fx"),
        ("latin\u200cjoiner\u200dhere\u200d", "latinjoinerhere"),
        ("\u200c\u200d", ""),
    ],
)
def test_what_draws_nothing_goes_and_is_counted(text, seen):
    assert remove_invisible(text) == (seen, len(text) - len(seen))


@pytest.mark.parametrize(
    "text",
    [
        "می\u200cخواهم",  # Persian: the parts of a verb
        "کتاب\u200cها",
        "ه\u200d",  # the letter as it stands at the start of a word
        "क्\u200dष",  # Devanagari: half a letter
        "क्\u200cष",  # Devanagari: a visible virama
        "ක්\u200dර",  # Sinhala
        "ন্\u200d",  # Bengali: khanda ta as it was written before it had a code point
        "👩\u200d🔬",
        "👩🏽\u200d❤️\u200d👨🏿",
        "🏴\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f",  # the flag of England
        "☀\ufe0f",
        "plain text, عربي, 中文",
    ],
)
def test_what_shapes_letters_or_emoji_stays(text):
    assert remove_invisible(text) == (text, 0)


def test_joiners_that_shape_nothing_go_even_beside_letters_that_need_them():
    assert remove_invisible("می\u200c خواهم")[0] == "می خواهم"  # before a space
    assert remove_invisible("می\u200c\u200cخواهم")[0] == "می\u200cخواهم"  # twice
    assert remove_invisible("👩\u200d!")[0] == "👩!"
    assert remove_invisible("a\U000e0067")[0] == "a"


def test_lines_are_joined_within_paragraphs():
    assert join_paragraphs("\na b\nc\n \nd\n\n\n e\nf \n") == "a b c\n\nd\n\ne f"
    assert join_paragraphs("exam-\nple and West-\nEast") == "example and West- East"
    assert join_paragraphs("日本\n語") == "日本語"
    assert join_paragraphs("") == ""


def test_profiles_ignore_the_same():
    assert normalize("e\u0301\u200b ", "visible") == normalize("é", "visible") == "é"
    assert normalize("a\nb\n\nc", "paragraphs") == "a b\n\nc"
