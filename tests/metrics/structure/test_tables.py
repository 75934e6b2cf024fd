"""TEDS against an independent implementation, and what people's tables look like."""

from __future__ import annotations

import random
from typing import Any
from xml.etree import ElementTree

import pytest
from apted import APTED, Config
from rapidfuzz.distance import Levenshtein

from deepsynth.metrics.structure.tables import parse_table, table_scores, tables_of, teds


class Tree:
    """A node as the published definition has it: a cell is its tag, spans and tokens; other nodes are their tags."""

    def __init__(self, element: ElementTree.Element, structure_only: bool) -> None:
        self.name: tuple[Any, ...] = (element.tag,)
        self.tokens: list[str] = []
        self.children: list[Tree] = []
        if element.tag == "td":
            self.name = ("td", int(element.get("colspan", "1")), int(element.get("rowspan", "1")))
            self.tokens = [] if structure_only else tokens(element)[1:-1]
        else:
            self.children = [Tree(child, structure_only) for child in element]


def tokens(element: ElementTree.Element) -> list[str]:
    found = [f"<{element.tag}>", *(element.text or "")]
    for child in element:
        found += [*tokens(child), *(child.tail or "")]
    return [*found, f"</{element.tag}>"]


class Costs(Config):
    def rename(self, node1: Tree, node2: Tree) -> float:
        if node1.name != node2.name:
            return 1.0
        longest = max(len(node1.tokens), len(node2.tokens))
        return Levenshtein.distance(node1.tokens, node2.tokens) / longest if longest else 0.0


def published_teds(prediction: str, target: str, structure_only: bool) -> float:
    one, other = ElementTree.fromstring(prediction), ElementTree.fromstring(target)
    nodes = max(len(list(one.iter())), len(list(other.iter()))) - 1
    distance = APTED(Tree(one, structure_only), Tree(other, structure_only), Costs()).compute_edit_distance()
    return 1.0 - distance / nodes


def random_table(draw: random.Random) -> str:
    def cell() -> str:
        tag = "th" if draw.random() < 0.1 else "td"
        spans = "".join(f' {name}="{draw.randint(2, 3)}"' for name in ("colspan", "rowspan") if draw.random() < 0.15)
        text = "".join(draw.choice("abc 12é") for _ in range(draw.randint(0, 5))).strip()
        text = f"<b>{text}</b>" if draw.random() < 0.2 else text
        return f"<{tag}{spans}>{text}</{tag}>"

    rows = ["<tr>" + "".join(cell() for _ in range(draw.randint(1, 4))) + "</tr>" for _ in range(draw.randint(1, 4))]
    if draw.random() < 0.5:
        return "<table>" + "".join(rows) + "</table>"
    return f"<table><thead>{rows[0]}</thead><tbody>{''.join(rows[1:])}</tbody></table>"


@pytest.mark.parametrize("structure_only", [False, True])
def test_a_thousand_random_pairs_score_as_the_published_definition(structure_only: bool) -> None:
    draw = random.Random(0)
    scores = []
    for _ in range(1000):
        prediction, target = random_table(draw), random_table(draw)
        expected = published_teds(prediction, target, structure_only)
        assert teds(prediction, target, structure_only=structure_only, original=True) == pytest.approx(expected)
        scores.append(expected)
    assert min(scores) < 0.3 < 0.6 < max(scores)


PLAIN = "<table><tr><td>a</td><td>b</td></tr><tr><td>1</td><td>2</td></tr></table>"


@pytest.mark.parametrize(
    "same",
    [
        "<table><thead><tr><th>a</th><th>b</th></tr></thead><tbody><tr><td>1</td><td>2</td></tr></tbody></table>",
        "<TABLE border=1>\n<tr>\n <td> a </td>\n<td>b\n</td></tr>\n<tr><td>1<td>2\n</table>",
        "<table><tr><td>a</td><td>b</td></tr><tr><td>1</td><td>2",
        '<table><tr><td colspan="1">a</td><td rowspan="x">b</td></tr><tr><td>1</td><td>2</td></tr></table>',
    ],
    ids=["groups", "sloppy", "cut", "spans of one"],
)
def test_spelling_does_not_count(same: str) -> None:
    assert teds(same, PLAIN) == teds(PLAIN, same) == 1.0


def test_what_is_wrong_costs() -> None:
    one_cell = PLAIN.replace(">2<", ">3<")
    assert teds(one_cell, PLAIN) == pytest.approx(1 - 1 / 6)  # of two rows and four cells
    assert teds(one_cell, PLAIN, structure_only=True) == 1.0
    missing = PLAIN.replace("<tr><td>1</td><td>2</td></tr>", "")
    assert teds(missing, PLAIN) == pytest.approx(1 - 3 / 6)
    spanned = PLAIN.replace("<td>a</td>", '<td colspan="2">a</td>')
    assert teds(spanned, PLAIN) == pytest.approx(1 - 1 / 6)
    assert teds("no table", PLAIN) == 0.0


def test_a_table_within_a_cell_belongs_to_the_cell() -> None:
    nested = "<table><tr><td>x<table><tr><td>y</td></tr></table>z</td><td>w</td></tr></table>"
    found = parse_table(nested)
    assert found is not None
    [row] = found[0].children
    assert len(row.children) == 2
    assert "".join(row.children[1].content) == "w"
    assert "y" in row.children[0].content


def test_what_follows_the_table_is_not_its_own() -> None:
    whole = parse_table(PLAIN)
    for more in ("tail", "<b>tail</b>", "<br/>tail<br>", "<tr><td>x</td></tr>", PLAIN):
        assert parse_table(PLAIN + more) == whole
    assert parse_table("head <b>of</b><br/>" + PLAIN) == whole


def test_a_tag_that_closes_itself_is_the_tag_in_its_cell() -> None:
    broken = parse_table("<table><tr><td>a<br>b</td></tr></table>")
    assert broken is not None
    assert parse_table("<table><tr><td>a<br/>b</td></tr></table>") == broken
    assert parse_table("<table><tr><td>ab</td></tr></table>") != broken


@pytest.mark.parametrize(("given", "spans"), [("2", 2), ("1000", 1000), ("1001", 1), ("0", 1), ("-2", 1), ("", 1)])
def test_spans_are_those_that_html_allows(given: str, spans: int) -> None:
    found = parse_table(f'<table><tr><td colspan="{given}" rowspan="3">a</td></tr></table>')
    assert found is not None
    cell = found[0].children[0].children[0]
    assert (cell.colspan, cell.rowspan) == (spans, 3)


def test_tables_are_found_in_html_and_in_pipes() -> None:
    text = f"before\n\n| a | b |\n|---|---|\n| 1 | 2 |\n\nbetween a | b without a rule\n\n{PLAIN}\n"
    pipes, html = tables_of(text)
    assert html == PLAIN
    assert teds(pipes, PLAIN) == 1.0


def test_tables_of_a_page_are_compared_in_order() -> None:
    other = "<table><tr><td>other</td></tr></table>"
    assert table_scores(PLAIN + other, PLAIN + other) == {"teds": 1.0, "teds_structure": 1.0}
    assert table_scores(other, PLAIN + other) == {"teds": 0.5, "teds_structure": 0.5}
    swapped = table_scores(other + PLAIN, PLAIN + other)
    assert swapped is not None
    assert 0.5 <= swapped["teds"] < 1.0
    wrong = PLAIN.replace(">2<", ">3<")
    assert table_scores(wrong + other, PLAIN + other) == {"teds": pytest.approx(1 - 1 / 12), "teds_structure": 1.0}
    assert table_scores("text", "text") is None
    assert table_scores("text", PLAIN) == {"teds": 0.0, "teds_structure": 0.0}
