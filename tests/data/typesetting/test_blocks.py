"""What each block becomes: the rows of a page, with their places, gaps and decoration in pixels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from deepsynth.data.fonts.glyphs import ShapedRun
from deepsynth.data.text.bidi import embedding_levels
from deepsynth.data.typesetting.blocks import Figure, HorizontalRule, block_rows, block_text, visible_characters
from deepsynth.data.typesetting.lines import Typesetter
from deepsynth.data.typesetting.pages import Frame
from deepsynth.data.typesetting.paragraphs import BODY, Look, Paragraph, quantize
from deepsynth.data.typesetting.words import one_line, shaped_words
from deepsynth.errors import UserError
from tests.data.typesetting.conftest import STYLE

#: At 16 pixels and a line height of 1.3.
LINE = 21
FRAME = Frame((10,), 200, 0, 300)
LONG = "words of a text that takes several lines of its column"


def heading(level: int, text: str = "head", **options: Any) -> Paragraph:
    return Paragraph(((text, BODY),), heading=level, keep_with_next=True, **options)


def test_blocks_have_their_gaps_and_places_and_may_begin_anywhere(typesetter: Typesetter) -> None:
    blocks = ["plain", heading(1, space_before_em=1.0), HorizontalRule(0.5), Paragraph(((LONG, BODY),), 0, "", 2.0)]
    rows = list(block_rows(blocks, typesetter, FRAME))
    assert [(row.position, row.space_before, row.keep_with_next, row.height) for row in rows[:4]] == [
        ((0, 0), 0, False, LINE),
        ((1, 0), 16, True, LINE),
        ((2, 0), 8, False, 16),
        ((3, 0), 32, False, LINE),
    ]
    assert [row.rules for row in rows[:4]] == [(), (), ((0, 8, 200, 9),), ()]
    assert len(rows) > 5
    assert {row.space_before for row in rows[4:]} == {0}, "between the lines of a paragraph"
    ends = [row.lines[0][0].end for row in rows[3:]]
    assert [row.position for row in rows[4:]] == [(3, end) for end in ends[:-1]]
    for number in range(len(rows)):
        rest = list(block_rows(blocks, typesetter, FRAME, rows[number].position))
        assert [row.position for row in rest] == [row.position for row in rows[number:]]


def test_a_page_centers_headings_and_sets_them_on_bars_as_it_looks(shaper: Any) -> None:
    levels = [heading(level) for level in (1, 2, 3)]
    rows = list(block_rows(levels, Typesetter(shaper, STYLE, 1.3, look=Look(centered=2, bars=True)), FRAME))
    lefts = [row.lines[0][0].places[0][1] for row in rows]
    assert lefts[0] == lefts[1] > 70
    assert lefts[2] == 0
    assert [row.fills for row in rows] == [(), ((0, 0, 200, LINE),), ((0, 0, 200, LINE),)]


def test_a_title_that_begins_a_document_may_span_the_columns(shaper: Any) -> None:
    columns = Frame((10, 120), 90, 0, 300)
    spanning = Typesetter(shaper, STYLE, 1.3, look=Look(spanning_title=True))
    title = heading(1, LONG)
    rows = list(block_rows([title, title], spanning, columns))
    first = [row for row in rows if row.position[0] == 0]
    assert {row.spans for row in first} == {True}
    assert {row.spans for row in rows if row.position[0] == 1} == {False}
    assert 2 * len(first) <= len(rows) - len(first) + 1, "in the width of both columns"
    assert not next(block_rows([heading(2)], spanning, columns)).spans
    assert not next(block_rows(["text"], spanning, columns)).spans


def test_a_footnote_stands_below_the_line_of_its_reference(typesetter: Typesetter) -> None:
    first, second, *_ = typesetter.lines(Paragraph(((LONG, BODY),)), 200)
    notes = [Paragraph(((f"note {number}", BODY),), label="footnote") for number in range(3)]
    places = (first.end, first.end + 1, second.end)
    paragraph = Paragraph(((LONG, BODY),), notes=tuple(zip(places, notes, strict=True)))
    rows = list(block_rows([paragraph], typesetter, FRAME))
    shown = [[note.lines[0][0].text for note in row.notes] for row in rows]
    assert shown[:2] == [["note 0"], ["note 1", "note 2"]]
    assert not any(shown[2:])
    own = rows[0].notes[0]
    assert (own.position, own.height, own.block) == ((-1, 0), LINE, notes[0])


@pytest.mark.parametrize(
    ("size", "drawn", "left"), [((40, 20), (40, 20), 80), ((900, 300), (200, 67), 0), ((50, 400), (19, 150), 90)]
)
def test_a_figure_fits_the_column_and_half_of_its_height(
    size: tuple[int, int], drawn: tuple[int, int], left: int, typesetter: Typesetter, tmp_path: Path
) -> None:
    Image.new("RGB", size, "blue").save(tmp_path / "a.png")
    (row,) = block_rows([Figure(tmp_path / "a.png", 0.5)], typesetter, FRAME)
    ((image, x, y),) = row.pictures
    assert (image.size, x, y) == (drawn, left, 0)
    assert (row.height, row.space_before, row.keep_with_next) == (drawn[1], 8, True)
    assert not row.is_blank


def test_texts_of_blocks_and_their_visible_characters() -> None:
    assert block_text("plain") == "plain"
    assert block_text(HorizontalRule(0.0)) == block_text(Figure(Path("a.png"), 0.0)) == ""
    assert block_text(Paragraph((("a ", BODY), ("b", BODY)), marker="1.")) == "1. a b"
    assert visible_characters(["a b\tc\n", "", " d"]) == 4


def test_font_sizes_are_multiples_of_half_a_pixel() -> None:
    assert [quantize(size) for size in (0.1, 10.2, 10.3, 10.7, 10.8)] == [0.5, 10.0, 10.5, 10.5, 11.0]


def test_a_word_of_more_than_200_letters_is_not_shaped_whole(shaper: Any) -> None:
    for count, is_whole in ((200, True), (201, False)):
        text = "x" * count
        ((_, _, _, runs, room),) = shaped_words(shaper, [(text, STYLE)], text, 0, embedding_levels(text)[0])
        assert [run.text for run, _ in runs] == [text]
        assert (room < float("inf")) == is_whole


def test_a_short_text_of_known_words_is_one_line_where_it_fits(shaper: Any) -> None:
    for word in ("ab", "cd", "é", "ab" * 20):
        shaper.shape_once(word, STYLE)
    room = [shaper.shape_once(word, STYLE) for word in ("ab", "cd")]
    width = room[0].advance + 5 + room[1].room
    found = one_line(shaper, "ab cd", STYLE, width, 5.0)
    assert found is not None
    assert [(run.text, level, gap, gap_level, gap_px) for run, level, gap, gap_level, gap_px in found] == [
        ("ab", 0, "", 0, 0.0),
        ("cd", 0, " ", 0, 5.0),
    ]
    assert one_line(shaper, "ab cd", STYLE, width - 0.5, 5.0) is None
    for text in ("ab unknown", "ab é", " ".join(["ab"] * 28)):
        assert one_line(shaper, text, STYLE, 10_000, 5.0) is None
    assert one_line(shaper, " ".join(["ab"] * 27), STYLE, 10_000, 5.0) is not None, "80 characters"
    assert one_line(shaper, "ab", STYLE._replace(formula=True), 10_000, 5.0) is None


def test_a_figure_that_is_no_image_is_named(typesetter: Typesetter, tmp_path: Path) -> None:
    (tmp_path / "b.png").write_bytes(b"no image")
    with pytest.raises(UserError, match=r"b\.png"):
        list(block_rows([Figure(tmp_path / "b.png", 0.0)], typesetter, FRAME))


def test_a_run_without_glyphs_takes_no_place_but_what_the_pen_moves() -> None:
    run = ShapedRun("\u200b", STYLE, 3.5, (), ())
    assert (run.left, run.right, run.top, run.bottom, run.room) == (0, 0, 0, 0, 3.5)
    assert (run.replaced, run.hyphenated) == (0, False)
