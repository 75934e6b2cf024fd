import pytest

from deepsynth.io.mathtext import as_mathtext, display_style


@pytest.mark.parametrize(
    ("latex", "shown"),
    [
        (r"\frac12 \le \frac{a}{b}", r"\dfrac{1}{2} \leq \dfrac{a}{b}"),
        (r"\frac{\frac{a}{b}}{1+\frac{c}{d}}\frac{e}{f}", r"\dfrac{\frac{a}{b}}{1+\frac{c}{d}}\dfrac{e}{f}"),
        (r"\dfrac{a}{\frac{b}{c}}", r"\dfrac{a}{\frac{b}{c}}"),
        (r"x^{\frac{a}{b}}_{\sqrt{\frac{c}{d}}}\frac{e}{f}", r"x^{\frac{a}{b}}_{\sqrt{\frac{c}{d}}}\dfrac{e}{f}"),
        (r"a^ \frac{1}{2} b", r"a^ \frac{1}{2} b"),
        (r"\left\{\sqrt{\frac{a}{b}}\right\}", r"\left\{\sqrt{\dfrac{a}{b}}\right\}"),
        (r"\frac1{\frac{a}{b}}\tfrac{c}{d}", r"\dfrac1{\frac{a}{b}}\frac{c}{d}"),
        (r"\frac\alpha\beta{\frac{a}{b}}", r"\dfrac\alpha\beta{\dfrac{a}{b}}"),
        (r"}\frac{a}{b}", r"}\dfrac{a}{b}"),
        (r"\fraction{a}", r"\fraction{a}"),
    ],
)
def test_fractions_of_a_displayed_formula_are_large_outside_of_others_and_indexes(latex, shown):
    assert as_mathtext(display_style(latex)) == shown
