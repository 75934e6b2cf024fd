"""Tables in a column: the text of their lines, the places of their cells, and the rules and bands between them."""

from __future__ import annotations

from typing import Any

import pytest

from deepsynth.data.typesetting.lines import Typesetter
from deepsynth.data.typesetting.pages import Frame, LayoutRow
from deepsynth.data.typesetting.paragraphs import BODY, Look, Paragraph
from deepsynth.data.typesetting.table_layout import table_rows
from deepsynth.data.typesetting.tables import Table, place_cells
from deepsynth.errors import UserError
from tests.data.typesetting.conftest import STYLE

#: At 16 pixels: rules of 0.07 em, and 0.35 em between a rule and the text.
RULE, PADDING = 1, 6 + 1
NARROW = Frame((0,), 120, 0, 1000)
WIDE = Frame((0,), 400, 0, 1000)


def table(*rows: list[Any], **options: Any) -> Table:
    """Return a table of cells: a text, or a tuple of a text, the columns and rows that it spans, and ``is_header``."""
    found = []
    for row in rows:
        cells = [cell if isinstance(cell, tuple) else (cell, 1, 1, False) for cell in row]
        found.append([((Paragraph(((text, BODY),)),), *spans) for text, *spans in cells])
    return Table(place_cells(found), **{"space_before_em": 0.0, **options})


def layout(found: Table, shaper: Any, frame: Frame = WIDE, **look: Any) -> list[LayoutRow]:
    return list(table_rows(found, Typesetter(shaper, STYLE, line_height=1.3, look=Look(**look)), frame))


def text_of(rows: list[LayoutRow], kind: str) -> str:
    lines = [line for row in rows for line, _, _ in row.lines]
    return "".join(line.text + getattr(line, kind) for line in lines)


def test_cells_end_with_tabs_and_rows_with_line_ends_however_many_lines_they_have(shaper: Any) -> None:
    found = table(["one two three four five six", "b"], ["c", "seven eight nine ten eleven"])
    rows = layout(found, shaper, NARROW)
    assert [sum(row.cells) for row in rows] == [len(row.lines) for row in rows]
    assert rows[0].cells[0] > 2
    assert rows[1].cells[1] > 2
    text = "one two three four five six\tb\nc\tseven eight nine ten eleven\n"
    assert text_of(rows, "joiner") == text
    assert text_of(rows, "ending") == text


def test_cells_stand_beside_each_other_and_their_lines_below_each_other(shaper: Any) -> None:
    (row,) = layout(table(["one two three four five six", "b"]), shaper, NARROW)
    line = row.lines[0][0].ascent + row.lines[0][0].descent
    first, second = row.lines[: row.cells[0]], row.lines[row.cells[0] :]
    assert [y for _, _, y in first] == [PADDING + line * n + first[0][0].ascent for n in range(len(first))]
    assert second[0][2] == first[0][2], "both begin at the top"
    assert {x for _, x, _ in first} == {PADDING}
    assert second[0][1] > PADDING + max(line.places[-1][1] for line, _, _ in first)
    assert row.height == len(first) * line + 2 * PADDING


@pytest.mark.parametrize("wide", [False, True])
def test_a_table_is_as_wide_as_its_text_or_fills_the_column(wide: bool, shaper: Any) -> None:
    (row,) = layout(table(["a", "bb"]), shaper, wide_tables=wide)
    right = max(box[2] for box in row.rules)
    assert (395 <= right <= 400) if wide else (50 < right < 70)


def test_a_cell_of_several_columns_widens_them_and_one_of_several_rows_makes_the_last_higher(shaper: Any) -> None:
    plain = layout(table(["a", "b"], ["c", "d"]), shaper)
    spanning = layout(table([("a long title of both", 2, 1, False)], ["c", "d"]), shaper)
    assert spanning[1].lines[1][1] > 1.5 * plain[1].lines[1][1], "the columns share what is lacking"
    (row,) = layout(table([("one two three four five six", 1, 2, False), "b"], ["d"]), shaper, NARROW)
    tall, b, d = row.cells
    assert (b, d) == (1, 1)
    line = row.lines[0][0].ascent + row.lines[0][0].descent
    assert row.height == max(tall * line + 2 * PADDING, 2 * (line + 2 * PADDING))
    assert row.lines[-1][2] - row.lines[-2][2] == line + 2 * PADDING, "the first of the rows is no higher than its own"
    assert (row.position, row.end) == ((0, 0), 2)


def test_rows_have_their_places_and_neighbors_share_a_rule(shaper: Any) -> None:
    rows = layout(table(["a"], ["b"], ["c"], space_before_em=1.0), shaper)
    assert [row.position for row in rows] == [(0, 0), (0, 1), (0, 2)]
    assert [row.end for row in rows] == [1, 2, 3]
    assert [row.space_before for row in rows] == [16, -RULE, -RULE]
    assert [row.keep_with_next for row in rows] == [True, False, False], "a head does not end a column"
    assert not any(row.spans for row in rows)


HEAD = [("h", 1, 1, True), ("i", 1, 1, True)]


def test_ruled_tables_have_rules_above_below_and_under_the_head_and_bands_on_every_other_row(shaper: Any) -> None:
    found = table(HEAD, ["a", "b"], ["c", "d"], ["e", "f"])
    for style in ("ruled", "banded"):
        rows = layout(found, shaper, table_style=style)
        height = rows[0].height
        edges = [[(top, bottom) for _, top, _, bottom in row.rules] for row in rows]
        assert edges == [[(0, RULE), (height - RULE, height)], [], [], [(height - RULE, height)]]
        assert all(box[0] == 0 and box[2] == rows[0].rules[0][2] for row in rows for box in row.rules)
        bands = [[(top, bottom) for _, top, _, bottom in row.fills] for row in rows]
        assert bands == ([[], [], [(0, height)], []] if style == "banded" else [[]] * 4)
    assert all(not row.rules and not row.fills for row in layout(found, shaper, table_style="borderless"))


def test_a_grid_has_rules_around_every_cell(shaper: Any) -> None:
    for row in layout(table(["a", "b"], ["c", "d"]), shaper):
        right, height = max(box[2] for box in row.rules), row.height
        across = {(top, bottom) for left, top, x, bottom in row.rules if bottom - top == RULE}
        upright = sorted({(left, x) for left, top, x, bottom in row.rules if x - left == RULE})
        assert across == {(0, RULE), (height - RULE, height)}
        assert [upright[0], upright[-1]] == [(0, RULE), (right - RULE, right)]
        assert len(upright) == 3


def test_a_table_from_right_to_left_has_its_first_column_at_the_right(shaper: Any) -> None:
    (row,) = layout(table(["אב", "גד", "12"]), shaper)
    first, second, number = [x for _, x, _ in row.lines]
    assert first > second > number
    assert max(box[2] for box in row.rules) == WIDE.width


def test_a_table_too_wide_for_its_column_spans_all_or_is_refused(shaper: Any) -> None:
    found = table(["wide"] * 6)
    rows = layout(found, shaper, Frame((0, 220), 200, 0, 1000))
    assert [row.spans for row in rows] == [True]
    assert 290 < max(box[2] for box in rows[0].rules) <= 420
    with pytest.raises(UserError, match="a table of 40 columns does not fit into 400 pixels; use a smaller font"):
        layout(table(["word"] * 40), shaper)
