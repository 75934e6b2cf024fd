import pytest

from deepsynth.data.typesetting.filling import fill_page
from deepsynth.data.typesetting.pages import Frame, LayoutRow
from tests.data.typesetting.conftest import lines


def rows_of(typesetter, texts):
    return [
        LayoutRow([(line, 0, line.ascent)], line.ascent + line.descent, position=(number, 0))
        for number, text in enumerate(texts)
        for line in lines(typesetter, text)
    ]


def test_a_page_takes_rows_until_it_is_full_and_says_where_the_next_begins(typesetter):
    frame = Frame((10, 120), 100, 5, 70)
    rows = rows_of(typesetter, "abcdefghijk")
    sheet, place = fill_page(rows, frame)
    assert "".join(p.line.text for p in sheet.lines) == "abcdef"
    assert {placed.x for placed in sheet.lines} == {10, 120}
    assert place == (6, 0)
    rest, place = fill_page(rows[6:], frame)
    assert "".join(p.line.text for p in rest.lines) == "ghijk"
    assert place is None


def test_a_blank_line_does_not_begin_a_column(typesetter):
    frame = Frame((0, 100), 100, 0, 65)
    sheet, _ = fill_page(rows_of(typesetter, ("a", "b", "c", "", "d")), frame)
    assert [(p.line.text, p.x) for p in sheet.lines if p.line.places] == [("a", 0), ("b", 0), ("c", 0), ("d", 100)]
    assert fill_page(rows_of(typesetter, ("a", "b", "c", "", "d")), Frame((0,), 100, 0, 65))[1] == (4, 0)


def test_a_heading_does_not_end_a_column(typesetter):
    rows = rows_of(typesetter, ("a", "b", "heading", "c"))
    rows[2].keep_with_next = True
    assert fill_page(rows, Frame((0,), 100, 0, 65))[1] == (2, 0)


def test_a_line_higher_than_the_page_is_refused(typesetter):
    with pytest.raises(ValueError, match=r"a line is 21 pixels high, more than the 10 pixels"):
        fill_page(rows_of(typesetter, "a"), Frame((0,), 100, 0, 10))
