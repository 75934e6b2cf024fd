"""Places of the cells of a table, as HTML gives them."""

from __future__ import annotations

import pytest

from deepsynth.data.typesetting.paragraphs import BODY, Paragraph
from deepsynth.data.typesetting.tables import Table, place_cells

#: Cells of rows as (columns, rows) that they span, and the (column, columns, rows) that they get.
CASES = {
    "plain": ([[(1, 1), (1, 1)], [(1, 1)]], [[(0, 1, 1), (1, 1, 1)], [(0, 1, 1)]]),
    "a column is taken from above": (
        [[(1, 2), (1, 1)], [(1, 1)], [(1, 1)]],
        [[(0, 1, 2), (1, 1, 1)], [(1, 1, 1)], [(0, 1, 1)]],
    ),
    "a span ends with the table": ([[(1, 9)]], [[(0, 1, 1)]]),
    "a span ends at what is taken": (
        [[(1, 1), (1, 2)], [(3, 1), (1, 1)]],
        [[(0, 1, 1), (1, 1, 2)], [(0, 1, 1), (2, 1, 1)]],
    ),
    "a span in both directions": (
        [[(2, 2), (1, 1)], [(1, 1)], [(1, 1), (1, 1), (1, 1)]],
        [[(0, 2, 2), (2, 1, 1)], [(2, 1, 1)], [(0, 1, 1), (1, 1, 1), (2, 1, 1)]],
    ),
}


@pytest.mark.parametrize(("spans", "places"), CASES.values(), ids=CASES.keys())
def test_each_cell_takes_the_first_columns_that_are_free(
    spans: list[list[tuple[int, int]]], places: list[list[tuple[int, int, int]]]
) -> None:
    text = (Paragraph((("a", BODY),)),)
    rows = place_cells([[(text, columns, rows, False) for columns, rows in row] for row in spans])
    assert [[(cell.column, cell.columns, cell.rows) for cell in row] for row in rows] == places
    assert Table(rows, 0.0).columns == max(column + columns for row in places for column, columns, _ in row)


@pytest.mark.parametrize(
    ("heights", "groups"),
    [
        ([[1], [1], [1]], [(0, 1), (1, 2), (2, 3)]),
        ([[2, 1], [1], [1]], [(0, 2), (2, 3)]),
        ([[2, 1], [2], [1]], [(0, 3)]),
        ([[1], [1, 2], [1]], [(0, 1), (1, 3)]),
        ([], []),
    ],
)
def test_rows_that_a_cell_spans_stay_together(heights: list[list[int]], groups: list[tuple[int, int]]) -> None:
    text = (Paragraph((("a", BODY),)),)
    rows = place_cells([[(text, 1, height, False) for height in row] for row in heights])
    assert list(Table(rows, 0.0).groups()) == groups
