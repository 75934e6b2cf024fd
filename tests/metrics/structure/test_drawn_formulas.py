"""Formulas that look alike are the same, whatever their LaTeX."""

from __future__ import annotations

import pytest

from deepsynth.metrics.structure.drawn_formulas import drawn_f1, drawn_symbols
from deepsynth.metrics.structure.formulas import formula_scores, normalize_formula


def f1(predicted: str, expected: str) -> float:
    one, other = drawn_symbols(predicted), drawn_symbols(expected)
    assert one is not None
    assert other is not None
    return drawn_f1(one, other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("x_1^2", "x^2_1"),
        (r"\sum_{k=1}^n k", r"\sum^n_{k=1}{k}"),
        (r"x^{\prime}", "x'"),
        (r"\sin x", r"\mathrm{sin}x"),
        (r"\frac{1}{2}", r"\tfrac12"),
        (r"a \le b", r"a\leq{}b"),
        (r"\bigl( x \bigr)", r"\left(x\right)"),
        (r"\mathbf{AB}", r"\mathbf{A}\mathbf{B}"),
    ],
)
def test_two_spellings_of_one_picture_are_the_same(one: str, other: str) -> None:
    assert f1(one, other) == f1(other, one) == 1.0


@pytest.mark.parametrize(
    ("predicted", "expected", "score"),
    [
        ("x^2", "x_2", 1 / 2),  # the same characters elsewhere
        ("x^2", "x2", 1 / 2),
        (r"\frac{a}{b}", "a/b", 0.0),
        ("ab", "ba", 1 / 2),
        ("il", "li", 1 / 2),
        ("a+b+c+d", "a+c+d", 10 / 12),  # what stands behind is shifted, and the same
        (r"\sum_{k=1}^n k", r"\sum_{j=1}^n j", 4 / 6),
        (r"\sqrt{x}+1", r"\sqrt{x+1}", 8 / 10),  # the rule is longer
        (r"\mathbf{x}", "x", 0.0),
        ("E=mc^2", "E=mc^{3}", 8 / 10),
        ("", "x", 0.0),
    ],
)
def test_others_are_scored_by_the_characters_that_agree(predicted: str, expected: str, score: float) -> None:
    one = drawn_symbols(predicted) if predicted else ()
    other = drawn_symbols(expected)
    assert one is not None
    assert other is not None
    assert drawn_f1(one, other) == drawn_f1(other, one) == pytest.approx(score)


def test_formulas_of_a_page_are_scored_where_they_can_be_drawn() -> None:
    assert normalize_formula("x_1^2") != normalize_formula("x^2_1")
    scores = formula_scores("$x^2_1$ and $y$", "$x_1^2$ and $y$")
    assert scores is not None
    assert (scores["formula_match"], scores["formula_drawn"]) == (0.5, 1.0)
    matrix = r"\begin{matrix}a\end{matrix}"
    cannot = formula_scores(f"$x$ ${matrix}$", f"$x$ ${matrix} b$")
    assert cannot is not None
    assert cannot["formula_drawn"] == 1.0  # the target's matrix does not count
    assert drawn_symbols(matrix) is None
    wrong = formula_scores(f"${matrix}$", "$x$")
    assert wrong is not None
    assert wrong["formula_drawn"] == 0.0
    assert "formula_drawn" not in (formula_scores("", f"${matrix}$") or {})
