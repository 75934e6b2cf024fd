"""From positioned lines to pixels: a line that hangs over an end of the page is moved onto it."""

import numpy as np
import pytest

from deepsynth.data.fonts.library import FontLibrary
from deepsynth.data.fonts.shaping import Shaper
from deepsynth.data.rendering.drawing import draw_page
from deepsynth.data.typesetting.lines import Typesetter
from deepsynth.data.typesetting.pages import PageLayout, PositionedLine
from deepsynth.errors import UserError
from tests.data.typesetting.conftest import STYLE, lines

WHITE, BLACK = (255, 255, 255), (0, 0, 0)


def drawn(x: int, baseline: int = 30):
    (line,) = lines(Typesetter(Shaper(FontLibrary(system_fonts=False)), STYLE, line_height=1.3), "word")
    image, (record,) = draw_page(PageLayout([PositionedLine(line, x, baseline)]), (100, 50), BLACK, WHITE)
    columns = np.flatnonzero((np.asarray(image.convert("L")) < 255).any(axis=0))
    assert record.box[0] <= columns[0] < columns[-1] < record.box[2]
    return record.box


def test_a_line_stays_where_it_fits_and_moves_onto_the_page_where_it_does_not():
    left, _, right, _ = drawn(20)
    width = right - left
    assert 20 <= left <= 22
    assert 30 < width < 60
    assert drawn(25)[0] == left + 5
    assert drawn(-5)[:3:2] == (0, width)
    assert drawn(80)[:3:2] == (100 - width, 100)


@pytest.mark.parametrize("baseline", [5, 55])
def test_a_line_that_is_too_high_or_too_low_is_refused(baseline: int):
    with pytest.raises(UserError, match=r"the line 'word' would reach .* on a page of 100 x 50 pixels; use a larger"):
        drawn(20, baseline)
