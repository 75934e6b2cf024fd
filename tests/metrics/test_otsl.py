"""OTSL says what HTML does of a table, both ways; what is no grid is filled up and named."""

from __future__ import annotations

import random

import pytest

from deepsynth.errors import UserError
from deepsynth.metrics.otsl import OTSL_TOKENS, html_to_otsl, otsl_faults, otsl_to_html
from deepsynth.metrics.structure import structure_scores, tables_of
from deepsynth.metrics.structure.table_grid import html_grids

#: Tables that are whole, in both forms.
PAIRS = [
    (
        "<table><tr><td>Item</td><td>Price</td></tr><tr><td></td><td>2.50</td></tr></table>",
        "<fcel>Item<fcel>Price<nl><ecel><fcel>2.50<nl>",
    ),
    (
        '<table><tr><td colspan="2" rowspan="2">a &lt; b<br>c &amp; "d"</td><td>x</td></tr>'
        '<tr><td></td></tr><tr><td>1</td><td rowspan="2">2</td><td>3</td></tr><tr><td>4</td><td>5</td></tr></table>',
        '<fcel>a < b\nc & "d"<lcel><fcel>x<nl><ucel><xcel><ecel><nl><fcel>1<fcel>2<fcel>3<nl><fcel>4<ucel><fcel>5<nl>',
    ),
    (
        '<table><tr><th colspan="3">Head</th></tr><tr><td>1</td><td colspan="2"></td></tr></table>',
        "<ched>Head<lcel><lcel><nl><fcel>1<ecel><lcel><nl>",
    ),
]


@pytest.mark.parametrize(("html", "otsl"), PAIRS, ids=["plain", "spans", "headings"])
def test_a_table_is_the_same_in_both_forms(html: str, otsl: str) -> None:
    assert html_to_otsl(html) == otsl
    assert otsl_to_html(otsl) == html
    assert otsl_to_html(f"<otsl>{otsl}</otsl>") == html
    assert otsl_to_html(otsl.replace("<nl><", "<nl>\n<")) == html
    assert otsl_faults(otsl) == []
    both = f"Before 1 < 2.\n\n{{}}\n\n{{}}\n\nAfter <nl>{OTSL_TOKENS[0][:-1]}."
    assert otsl_to_html(both.format(otsl, otsl)) == both.format(html, html)
    assert html_to_otsl(both.format(html, html)) == both.format(otsl, otsl)


def test_any_table_of_spans_comes_back() -> None:
    draw = random.Random(0)
    for _ in range(50):
        rows, columns = draw.randint(1, 5), draw.randint(1, 5)
        free, lines = {(r, c) for r in range(rows) for c in range(columns)}, [""] * rows
        for row, column in sorted(free):
            if (row, column) in free:
                down, right = draw.randint(1, rows - row), draw.randint(1, columns - column)
                own = {(row + r, column + c) for r in range(down) for c in range(right)}
                if not own <= free:
                    down, right, own = 1, 1, {(row, column)}
                free -= own
                spans = f' colspan="{right}"' * (right > 1) + f' rowspan="{down}"' * (down > 1)
                lines[row] += f"<td{spans}>{draw.choice(['', 'a', 'b c'])}</td>"
        html = f"<table>{''.join(f'<tr>{line}</tr>' for line in lines)}</table>"
        assert otsl_to_html(html_to_otsl(html)) == html
        assert otsl_faults(html_to_otsl(html)) == []


@pytest.mark.parametrize(
    ("otsl", "rows", "whole"),
    [
        ("<fcel>a<fcel>b<nl><fcel>c", ["<td>a</td><td>b</td>", "<td>c</td><td></td>"], False),  # cut, and too short
        ("<fcel>a<nl><fcel>cut", ["<td>a</td>", "<td>cut</td>"], True),
        ("<lcel><fcel>a<nl>", ["<td></td><td>a</td>"], False),  # joined to nothing
        ("<fcel>a<nl><fcel>b<lcel><nl>", ["<td>a</td><td></td>", '<td colspan="2">b</td>'], False),
        ("<rhed>r<fcel>1<nl><srow>s<lcel><nl>", ["<th>r</th><td>1</td>", '<th colspan="2">s</th>'], True),
        ("<fcel>a<xcel><nl><xcel><xcel><nl>", ['<td colspan="2" rowspan="2">a</td>', ""], True),  # as FinTabNet has it
    ],
)
def test_what_is_no_grid_is_filled_up_and_named(otsl: str, rows: list[str], whole: bool) -> None:
    assert otsl_to_html(otsl) == f"<table>{''.join(f'<tr>{row}</tr>' for row in rows)}</table>"
    assert otsl_faults(f"text\n\n{otsl}") == ([] if whole else [otsl])


def test_html_as_others_write_it_is_read() -> None:
    html = (
        "<TABLE border=1><thead><tr><th scope=col> A <b>bold</b> </th></thead><tbody><tr><td rowspan=9>1<td colspan=0>2"
        "</tr></tbody>between</TABLE> after"
    )
    assert html_to_otsl(html) == "<ched>A bold<ecel><nl><fcel>1<fcel>2<nl> after"


@pytest.mark.parametrize("token", [*OTSL_TOKENS, "<ched>"])
def test_a_cell_that_holds_a_token_is_refused(token: str) -> None:
    text = token.replace("<", "&lt;")
    with pytest.raises(UserError, match=rf"a cell of a table holds '{token}', .* choose another data\.target"):
        html_to_otsl(f"<table><tr><td>write {text} here</td></tr></table>")


def test_metrics_read_it_back() -> None:
    html, otsl = PAIRS[1]
    assert tables_of(f"a\n\n{otsl}") == [html]
    assert [grid.texts() for grid in html_grids(otsl)] == [grid.texts() for grid in html_grids(html)]
    scores = structure_scores(f"a\n\n{otsl}", f"a\n\n{html}")
    assert scores == structure_scores(f"a\n\n{html}", f"a\n\n{html}")
    assert scores["teds"] == scores["valid_markup"] == 1.0
    assert structure_scores(otsl, otsl) == structure_scores(html, html)
    broken = structure_scores(otsl.replace("<ucel>", ""), html)
    assert broken["valid_markup"] == 0.0
    assert 0.5 < broken["teds"] < 1.0
