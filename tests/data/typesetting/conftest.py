"""What the tests of typesetting share: DejaVu alone, at 16 pixels."""

import pytest

from deepsynth.data.fonts.glyphs import FontStyle
from deepsynth.data.fonts.library import FontLibrary
from deepsynth.data.fonts.shaping import Shaper
from deepsynth.data.typesetting.lines import Typesetter
from deepsynth.data.typesetting.paragraphs import BODY, Paragraph

STYLE = FontStyle("DejaVu Sans", 16.0)


@pytest.fixture(scope="module")
def shaper():
    return Shaper(FontLibrary(system_fonts=False))


@pytest.fixture(scope="module")
def typesetter(shaper):
    return Typesetter(shaper, STYLE, line_height=1.3)


def lines(typesetter, text, width=200):
    return list(typesetter.lines(Paragraph(((text, BODY),)), width))
