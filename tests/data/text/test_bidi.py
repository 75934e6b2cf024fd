import pytest

from deepsynth.data.text.bidi import embedding_levels, visual_order
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
