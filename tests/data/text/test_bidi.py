import unicodedata

import pytest

from deepsynth.data.text.bidi import embedding_levels, runs_right_to_left, visual_order
from deepsynth.errors import UserError


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
        if "libfribidi0" not in str(error):
            raise
        pytest.skip(str(error))
    assert (list(levels), base) == ([0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 0], 0)
    assert embedding_levels("אב (x)")[1] == 1


def test_a_character_runs_from_the_right_where_unicode_says_so():
    """Unassigned code points of right-to-left blocks count too; no letter that runs from the left does."""
    right = {"R", "AL", "AN", "RLE", "RLO", "RLI"}
    wrong = []
    for code in (*range(0xD800), *range(0xE000, 0x20000)):
        kind, found = unicodedata.bidirectional(chr(code)), runs_right_to_left(chr(code))
        if found if kind == "L" else (kind in right and not found):
            wrong.append(hex(code))
    assert wrong == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [("אבc", True), ("אבcd", False), ("אב 1234 .", True), ("", False), ("abc", False), ("12", False)],
)
def test_a_text_runs_from_the_right_where_most_of_its_letters_do(text, expected):
    assert runs_right_to_left(text) is expected
