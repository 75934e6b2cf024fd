import pytest

from deepsynth.data.typesetting.bidi_lines import in_visual_order
from tests.data.typesetting.conftest import STYLE


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


@pytest.mark.parametrize("base", [0, 1])
def test_a_justified_line_fills_the_column_with_equal_gaps(shaper, base):
    words = [("", "one"), (" ", "two"), ("", "three"), (" ", "four")]
    direction = "rtl" if base else "ltr"
    items = [(shaper.shape_once(word, STYLE, direction), base, gap, base, 4.0 * len(gap)) for gap, word in words]
    places = in_visual_order(items, True, base, 400, 7)
    if base:
        places = [(run, 414 - x - run.advance) for run, x in places]  # mirrored
    ends = [x + run.advance for run, x in places]
    gaps = [x - end for (_, x), end in zip(places[1:], ends, strict=False)]
    assert places[0][1] == pytest.approx(7)
    assert ends[-1] == pytest.approx(407)
    assert gaps == pytest.approx([gaps[0], 0, gaps[0]])
    assert gaps[0] > 4
