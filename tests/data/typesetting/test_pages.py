import pytest

from deepsynth.data.typesetting.filling import fill_page
from deepsynth.data.typesetting.pages import Frame, LayoutRow, make_frame
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


def test_columns_above_a_row_that_spans_them_are_equally_high_and_go_on_below_it(typesetter):
    """Lines are 21 pixels high; the band begins under the higher column, and half its height is left below it."""
    rows = rows_of(typesetter, "abcXdefg")
    rows[3].spans = True
    rows[3].space_before = 9
    sheet, place = fill_page(rows, Frame((10, 120), 100, 30, 230))
    assert place is None
    tops = [(p.line.text, p.x, p.baseline - p.line.ascent) for p in sheet.lines]
    assert tops == [
        ("a", 10, 30), ("b", 10, 51), ("c", 120, 30),
        ("X", 10, 81),
        ("d", 10, 112), ("e", 10, 133), ("f", 10, 154), ("g", 10, 175),
    ]  # fmt: skip


def test_a_spanning_row_begins_at_the_top_of_a_page_or_on_the_next_when_there_is_no_room(typesetter):
    rows = rows_of(typesetter, "Xab")
    rows[0].spans = True
    rows[0].space_before = 9
    sheet, _ = fill_page(rows, Frame((10, 120), 100, 30, 82))
    assert [(p.line.text, p.x, p.baseline - p.line.ascent) for p in sheet.lines] == [
        ("X", 10, 30), ("a", 10, 61), ("b", 120, 61)
    ]  # fmt: skip
    rows = rows_of(typesetter, "abX")
    rows[2].spans = True
    assert fill_page(rows, Frame((10, 120), 100, 0, 41))[1] == (2, 0)
    assert fill_page(rows, Frame((10, 120), 100, 0, 42))[1] is None


def test_footnotes_stand_at_the_foot_of_their_column_below_a_rule(typesetter):
    rows = rows_of(typesetter, "abc")
    rows[0].notes = rows_of(typesetter, "n")
    sheet, place = fill_page(rows, Frame((10, 120), 100, 0, 94))
    assert place is None
    assert [(p.line.text, p.x, p.baseline - p.line.ascent) for p in sheet.lines] == [
        ("a", 10, 0), ("b", 10, 21), ("c", 10, 42), ("n", 10, 73)
    ]  # fmt: skip
    [(left, top, right, bottom)] = [rule for placed in sheet.rows for rule in placed.rules]
    assert left == 10
    assert right < 110
    assert 63 <= top < bottom <= 73
    assert bottom - top == 1
    sheet, _ = fill_page(rows, Frame((10, 120), 100, 0, 93))
    assert [(p.line.text, p.x) for p in sheet.lines] == [("a", 10), ("b", 10), ("n", 10), ("c", 120)]
    mirrored, _ = fill_page(rows, Frame((120, 10), 100, 0, 94, right_to_left=True))
    assert [rule for placed in mirrored.rows for rule in placed.rules] == [(330 - right - 100, top, 220, bottom)]


@pytest.mark.parametrize(
    ("spans", "bottom", "first_page"),
    [
        (False, 188, "abcde"),  # four lines of 21 pixels, 4 above the row of 100
        (False, 187, "ab"),
        (False, 124, "abcd"),  # no page has room for the caption and the row
        (True, 198, "abcde"),  # half a line more below what spans the columns
        (True, 197, "ab"),
    ],
)
def test_a_heading_stays_with_a_caption_and_the_whole_row_below_it(typesetter, spans, bottom, first_page):
    rows = rows_of(typesetter, "abcde")
    rows[2].keep_with_next = rows[3].keep_with_next = True
    rows[2].spans = spans
    rows[4].height, rows[4].space_before = 100, 4
    sheet, place = fill_page(rows, Frame((0,), 100, 0, bottom))
    assert "".join(p.line.text for p in sheet.lines) == first_page
    assert place == (None if first_page == "abcde" else (len(first_page), 0))


def test_a_line_that_a_hyphen_ends_goes_to_the_next_page_with_its_footnotes(typesetter):
    rows = [
        LayoutRow([(line, 0, line.ascent)], line.ascent + line.descent, position=(0, number))
        for number, line in enumerate(lines(typesetter, "one com\u00adprehensible two three", 90))
    ]
    assert [row.is_divided for row in rows[:2]] == [True, False]
    rows = [*rows_of(typesetter, "ab"), *rows]
    for notes in ([], rows_of(typesetter, "n")):
        rows[0].notes, rows[2].notes = rows_of(typesetter, "m")[: len(notes)], notes
        height = 3 * 21 + (2 * 21 + 10 if notes else 0)
        sheet, place = fill_page(rows, Frame((0,), 90, 0, height))
        shown = [placed.row.lines[0][0].text for placed in sheet.rows]
        assert shown == [p.line.text for p in sheet.lines] == ["a", "b", *("m" for _ in notes)]
        assert place == (0, 0)


def test_columns_have_what_the_margins_and_gaps_leave():
    frame = make_frame(300, 200, 20, 3, 7)
    assert (frame.lefts, frame.width, frame.top, frame.bottom) == ((20, 109, 198), 82, 20, 180)
    assert (frame.full_width, frame.height) == (260, 160)
    assert make_frame(41, 41, 20, 1, 5) == Frame((20,), 1, 20, 21)
    for size in ((40, 41), (41, 40)):
        with pytest.raises(ValueError, match=r"no room for 1 column\(s\) between margins of 20 pixels"):
            make_frame(*size, 20, 1, 5)
