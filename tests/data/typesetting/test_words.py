import pytest

from deepsynth.data.fonts.library import FontLibrary
from deepsynth.data.fonts.shaping import Shaper
from deepsynth.data.text.bidi import embedding_levels
from deepsynth.data.typesetting.words import break_run, shaped_words
from deepsynth.errors import UserError
from tests.data.typesetting.conftest import STYLE


def test_endless_words_are_broken_without_shaping_them_whole(shaper):
    parts = [piece.text for piece in break_run(shaper, "xyz" * 10_000, STYLE, "ltr", 300)]
    assert "".join(parts) == "xyz" * 10_000
    assert min(map(len, parts[:-1])) > 20


@pytest.mark.parametrize("text", ["a word", "x" * 300, "שלום (one) two", "one שתיים, three", "12 שתיים-three 漢字漢字"])
def test_words_are_the_text_with_the_room_that_they_need(text):
    shaper = Shaper(FontLibrary(system_fonts=False), replace_missing=True)
    try:
        levels, _ = embedding_levels(text)
        words = list(shaped_words(shaper, [(text, STYLE)], text, 0, levels))
    except UserError as error:
        if "libfribidi0" not in str(error):
            raise
        pytest.skip(str(error))
    shown = "".join(gap + "".join(run.text for run, _ in runs) for _, gap, _, runs, _ in words)
    assert [a for a, b in zip(shown, text, strict=True) if a not in (b, "\ufffd")] == []
    for start, _, _, runs, room in words:
        assert room == (sum(run.room for run, _ in runs) if len(text) < 300 else float("inf"))
        assert runs[0][1] == levels[start]


def test_each_character_of_a_word_has_its_style(shaper):
    bold = STYLE._replace(bold=True)
    styled = [("pla", STYLE), ("in bo", bold), ("ld.", STYLE)]
    text = "plain bold."
    levels, _ = embedding_levels(text)
    words = list(shaped_words(shaper, styled, text, 0, levels))
    parts = [[(run.text, run.style) for run, _ in runs] for _, _, _, runs, _ in words]
    assert parts == [[("pla", STYLE), ("in", bold)], [("bo", bold), ("ld.", STYLE)]]
    assert [gap for _, gap, _, _, _ in words] == ["", " "]
