"""Boxes, formulas, Markdown and reading order, alone and together."""

from __future__ import annotations

import itertools
import random

import pytest

from deepsynth.metrics.structure import mean_scores, structure_scores
from deepsynth.metrics.structure.alignment import best_alignment
from deepsynth.metrics.structure.blocks import Block, parse_blocks, plain_text
from deepsynth.metrics.structure.boxes import box_scores, intersection_over_union
from deepsynth.metrics.structure.formulas import formula_scores, formulas_of, normalize_formula
from deepsynth.metrics.structure.markdown import markdown_scores

PAGE = (
    "<|ref|>title<|/ref|><|det|>[[100, 50, 900, 100]]<|/det|>\n# A title\n\n"
    "<|ref|>text<|/ref|><|det|>[[100, 120, 480, 900], [520, 120, 900, 300]]<|/det|>\nSome text $x^2$.\n\n"
    "<|ref|>table<|/ref|><|det|>[[520, 320, 900, 900]]<|/det|>\n<table><tr><td>a</td></tr></table>"
)


def test_blocks_of_the_published_form() -> None:
    blocks, faults = parse_blocks(PAGE)
    assert faults == []
    assert [block.label for block in blocks] == ["title", "text", "table"]
    assert blocks[0] == Block("title", ((100, 50, 900, 100),), "# A title")
    assert blocks[1].boxes[1] == (520, 120, 900, 300)
    assert plain_text(PAGE) == "# A title\n\nSome text $x^2$.\n\na"


@pytest.mark.parametrize(
    "text",
    [
        "<|ref|>a<|/ref|><|det|>[[1, 2, 3]]<|/det|>",
        "<|ref|>a<|/ref|><|det|>[[1, 2, 3, 1000]]<|/det|>",
        "<|ref|>a<|/ref|><|det|>[[9, 2, 3, 4]]<|/det|>",
        "<|ref|>a<|/ref|><|det|>[1, 2, 3, 4]<|/det|>",
        "<|ref|>a<|/ref|><|det|>[[1, 2, 3, 4], [5, 6]]<|/det|>",
        "<|ref|>a<|/ref|> without a box",
        "<|det|>[[1, 2, 3, 4]]<|/det|>",
        "<table><tr><td>a</tr></table>",
        "<table><tr><td>a</td></tr>",
        "</td>",
    ],
)
def test_markup_that_does_not_parse_is_a_fault(text: str) -> None:
    assert parse_blocks(text)[1]
    assert structure_scores(text, "a")["valid_markup"] == 0.0


def test_areas_are_counted_in_cells_of_a_thousandth() -> None:
    assert intersection_over_union((0, 0, 9, 9), (0, 0, 9, 9)) == 1.0
    assert intersection_over_union((0, 0, 9, 9), (10, 0, 19, 9)) == 0.0
    assert intersection_over_union((0, 0, 9, 9), (5, 0, 14, 9)) == pytest.approx(50 / 150)


def grounded(*boxes: tuple[str, tuple[int, int, int, int]]) -> str:
    return "".join(f"<|ref|>{name}<|/ref|><|det|>[{list(box)}]<|/det|>\n" for name, box in boxes)


def test_boxes_are_found_by_label_and_share() -> None:
    target = grounded(("text", (0, 0, 99, 99)), ("text", (200, 0, 299, 99)), ("table", (0, 200, 99, 299)))
    assert box_scores(target, target) == {"box_iou": 1.0, "box_precision": 1.0, "box_recall": 1.0}
    moved = grounded(("text", (0, 0, 99, 79)), ("text", (500, 0, 599, 99)), ("title", (0, 200, 99, 299)))
    scores = box_scores(moved, target)
    assert scores is not None
    assert scores["box_iou"] == pytest.approx(0.8 / 3)  # one of three overlaps, by 80 of 100 rows
    assert scores["box_precision"] == scores["box_recall"] == pytest.approx(1 / 3)
    extra = box_scores(target + grounded(("text", (700, 700, 800, 800))), target)
    assert extra == {"box_iou": 1.0, "box_precision": 3 / 4, "box_recall": 1.0}
    assert box_scores("", target) == {"box_iou": 0.0, "box_precision": 0.0, "box_recall": 0.0}
    assert box_scores("plain", "plain") is None


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (r"\dfrac{ a }{b}", r"\frac a b"),
        (r"\left( x \right)", "(x)"),
        (r"x^{2}", "x^2"),
        (r"a \leq b", r"a\le b"),
        (r"\mathrm{d}\, x", r"{d} x"),
        (r"\alpha x", r"{\alpha}x"),
        (r"E = mc^2 .", "E=mc^{2}"),
    ],
)
def test_spellings_of_one_formula_are_the_same(one: str, other: str) -> None:
    assert formula_scores(f"${one.strip()}$", f"$${other}$$") == {
        "formula_match": 1.0, "formula_distance": 0.0, "formula_drawn": 1.0
    }  # fmt: skip


@pytest.mark.parametrize(
    ("one", "other"),
    [("x^2", "x_2"), (r"\alpha", r"\beta"), ("a+b", "a-b"), (r"\sin x", r"\cos x"), ("x^{12}", "x^1 2")],
)
def test_other_formulas_are_not(one: str, other: str) -> None:
    assert normalize_formula(one) != normalize_formula(other)


def test_formulas_are_found_and_prices_are_none() -> None:
    text = r"It costs $5 and $6. But $x$, $$y = 1$$ and \(z\), \[w\] are formulas; \$a\$ is none."
    assert formulas_of(text) == ["x", "y = 1", "z", "w"]
    assert formula_scores("$x$ $y$", "$x$ $z$ $w$") == {
        "formula_match": pytest.approx(1 / 3),
        "formula_distance": pytest.approx(2 / 3),
        "formula_drawn": pytest.approx(1 / 3),
    }
    assert formula_scores("no", "none") is None


def test_headings_lists_and_code() -> None:
    target = "# One\n\n## Two\n\n- a\n- b\n  1. c\n\n```\ncode\n```\n"
    assert markdown_scores(target, target) == {
        "markdown_headings": 1.0, "markdown_lists": 1.0, "markdown_code": 1.0
    }  # fmt: skip
    changed = "# One\n\n# Two\n\n- a\n- b\n- c\n\n```\nother\n```\n"
    assert markdown_scores(changed, target) == {
        "markdown_headings": 0.5, "markdown_lists": pytest.approx(2 / 3), "markdown_code": 0.0
    }  # fmt: skip
    assert markdown_scores("plain", "plain") is None


def test_the_order_of_paragraphs_counts_apart_from_their_text() -> None:
    one, two, three = "the first paragraph", "a second one here", "and the last of all"
    same = structure_scores("\n\n".join([one, two, three]), "\n\n".join([one, two, three]))
    assert same == {"text_distance": 0.0, "order_distance": 0.0}
    swapped = structure_scores("\n\n".join([two, one, three]), "\n\n".join([one, two, three]))
    assert swapped["order_distance"] == pytest.approx(2 / 3)
    assert structure_scores(one, one) == {"text_distance": 0.0}


def test_of_two_equal_paragraphs_the_nearer_is_the_partner() -> None:
    head, two, three = "a running head", "a second one here", "and the last of all"
    lost = structure_scores("\n\n".join([two, three, head]), "\n\n".join([head, two, three, head]))
    assert lost["order_distance"] == 0.0


def test_the_best_alignment_is_the_best_of_all() -> None:
    draw = random.Random(1)
    for _ in range(50):
        rows, columns = draw.randint(0, 4), draw.randint(0, 4)
        table = [[draw.choice([0.0, 0.3, 0.5, 1.0]) for _ in range(columns)] for _ in range(rows)]
        best = 0.0
        for size in range(min(rows, columns) + 1):
            for own in itertools.combinations(range(rows), size):
                for others in itertools.combinations(range(columns), size):
                    best = max(best, sum(table[i][j] for i, j in zip(own, others, strict=True)))
        pairs = best_alignment(range(rows), range(columns), lambda i, j, table=table: table[i][j])
        assert sum(score for *_, score in pairs) == pytest.approx(best)
        assert sorted(pairs) == pairs


def test_means_are_over_the_pages_that_have_a_figure() -> None:
    assert mean_scores([{"teds": 1.0, "text_distance": 0.0}, {"text_distance": 0.5}]) == {
        "text_distance": 0.25, "teds": 1.0
    }  # fmt: skip
    full = structure_scores(PAGE, PAGE)
    assert full["valid_markup"] == full["teds"] == full["box_iou"] == full["markdown_headings"] == 1.0
    assert full["text_distance"] == 0.0
