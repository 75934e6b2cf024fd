"""Places of cells in HTML and in pipes, and what stands beside them."""

from __future__ import annotations

import pytest

from deepsynth.metrics.structure.table_grid import Cell, Grid, html_grids, markdown_grids

#: a  b  b
#: a  c  d
#: e  e  f
SPANNED = Grid(
    [[Cell("a", rows=2), Cell("b", columns=2)], [Cell("c"), Cell("d")], [Cell("e", columns=2), Cell("f")]]
)  # fmt: skip


def beside(grid: Grid, text: str, direction: str) -> set[str]:
    texts = [cell.text for cell in grid.cells]
    return {texts[i] for i in grid.neighbors(texts.index(text), direction)}


def headings(grid: Grid, text: str, direction: str) -> set[str]:
    texts = [cell.text for cell in grid.cells]
    return {texts[i] for i in grid.headings(texts.index(text), direction)}


def test_cells_have_the_first_place_that_is_free() -> None:
    assert SPANNED.texts() == {(0, 0): "a", (0, 1): "b", (1, 1): "c", (1, 2): "d", (2, 0): "e", (2, 2): "f"}
    assert Grid([]).texts() == {}
    tall = Grid([[Cell("a"), Cell("b", rows=2), Cell("c")], [Cell("d"), Cell("e")]])
    assert tall.texts() == {(0, 0): "a", (0, 1): "b", (0, 2): "c", (1, 0): "d", (1, 2): "e"}


@pytest.mark.parametrize(
    ("text", "up", "down", "left", "right"),
    [
        ("a", "", "e", "", "bc"),
        ("b", "", "cd", "a", ""),
        ("c", "b", "e", "a", "d"),
        ("d", "b", "f", "c", ""),
        ("e", "ac", "", "", "f"),
        ("f", "d", "", "e", ""),
    ],
)
def test_neighbors_share_an_edge(text: str, up: str, down: str, left: str, right: str) -> None:
    for direction, expected in (("up", up), ("down", down), ("left", left), ("right", right)):
        assert beside(SPANNED, text, direction) == set(expected), direction


def test_a_gap_has_no_cell_and_what_is_behind_it_is_the_neighbor() -> None:
    ragged = Grid([[Cell("a"), Cell("b"), Cell("c")], [Cell("d")], [Cell("e"), Cell("f"), Cell("g")]])
    assert beside(ragged, "c", "down") == {"g"}
    assert beside(ragged, "d", "right") == set()


def test_headings_are_the_marked_cells_in_a_direction_or_the_last() -> None:
    plain = Grid([[Cell("a"), Cell("b")], [Cell("c"), Cell("d")], [Cell("e"), Cell("f")]])
    assert headings(plain, "f", "up") == {"b"}
    assert headings(plain, "f", "left") == {"e"}
    assert headings(plain, "b", "up") == set()
    marked = Grid([[Cell("a"), Cell("b")], [Cell("c"), Cell("d", heading=True)], [Cell("e"), Cell("f")]])
    assert headings(marked, "f", "up") == {"d"}
    assert headings(marked, "d", "up") == {"b"}, "itself is none of its own"
    both = Grid([[Cell("a", heading=True)], [Cell("b", heading=True)], [Cell("c")]])
    assert headings(both, "c", "up") == {"a", "b"}
    assert headings(SPANNED, "e", "up") == {"a", "b"}


def grids(text: str) -> list[list[Cell]]:
    return [grid.cells for grid in html_grids(text)]


@pytest.mark.parametrize(
    ("cell", "expected"),
    [
        ("<td> a </td>", Cell("a")),
        ("<th>a</th>", Cell("a", heading=True)),
        ("<td>a<br>b</td>", Cell("a\nb")),
        ("<td>a<b>b</b>c</td>", Cell("abc")),
        ('<td rowspan=2 colspan="3">a</td>', Cell("a", 2, 3)),
        ('<td rowspan="0">a</td>', Cell("a", 3, 1)),
        ('<td colspan="0" rowspan="-1">a</td>', Cell("a")),
        ('<td colspan="1000" rowspan="1001">a</td>', Cell("a", 1, 1000)),
        ('<td colspan=" 2 ">a</td>', Cell("a", 1, 2)),
        ("<td>a\x00\ufffe</td>", Cell("a")),
    ],
)
def test_cells_of_html(cell: str, expected: Cell) -> None:
    rest = "<tr><td>x</td></tr>" * 2
    ((found, *_),) = grids(f"text <TABLE><tr>{cell}</tr>{rest}</TABLE> more")
    assert found == expected


def test_tables_of_html_are_apart_from_those_within_them() -> None:
    inner = "<table><tr><td>in</td></tr></table>"
    found = grids(f"<table><thead><tr><td>h</td></tr></thead><tr><td>{inner}</td></tr></table><table></table>")
    assert found == [[Cell("h", heading=True), Cell("in")], [Cell("in")]]
    assert grids("| a | b |") == []


def pipes(text: str) -> list[dict[tuple[int, int], tuple[str, bool]]]:
    return [
        {place: (text, cell.heading) for (place, text), cell in zip(grid.texts().items(), grid.cells, strict=True)}
        for grid in markdown_grids(text)
    ]


def test_tables_of_pipes_have_headings_above_and_at_the_left() -> None:
    expected = {(0, 0): ("a", True), (0, 1): ("b", True), (1, 0): ("c", True), (1, 1): ("d", False)}
    assert pipes("| a | b |\n|---|:-:|\n| c | d |") == [expected]
    assert pipes("text\n\na | b\nc | d\n\nmore") == [expected], "the outer pipes may be left out"
    assert pipes("| a |") == [], "one line is no table"
    assert pipes("no pipes") == []
    assert pipes("|---|\n| - |") == []
    both = pipes("a|b\nc|d\n\ne|f\ng|h")
    assert [grid[0, 0][0] for grid in both] == ["a", "e"]
    assert pipes("||x|\n|y||")[0] == {(0, 0): ("", True), (0, 1): ("x", True), (1, 0): ("y", True), (1, 1): ("", False)}
