"""What OmniDocBench compares of texts, formulas and tables. Expected are the results of its own functions (1.5)."""

from __future__ import annotations

import pytest

from deepsynth.measurement.published.omnidocbench_text import normalized_formula, normalized_table, text_letters

LETTERS = [
    (r"a $\alpha_1^{2}$, b!", "aα_12b"),
    ("cost $5 and $6", "cost5and6"),
    (r"\(x^2\) and $y_1$ and \(z\)", "x2andy_1andz"),
    (r"a\tb\nc/td/ne", "abcde"),
    ("a\tb\nc", "abc"),
    ("日本語、です", "日本語です"),
    (r"$50\%$ of $a\_b$", "50ofa_b"),
    (r"$a\&b^2$", "ab2"),
    ("_under_ score", "_under_score"),
    (r"\(a", "a"),
    (r"\(\alpha\) and $\beta$", "αandβ"),
    (r"$a\\nb$", "ab"),
    (r"${\rm d}x^2$", "dx2"),
    (r"$\mathbf{A}\mathit{b}\mathbb{C}\mathcal{D}\mathscr{E}\mathfrak{F}\mathsf{G}\mathtt{H}$", "𝐀𝑏ℂ𝒟ℰ𝔉𝖦𝙷"),
    (r"$\mathbb{Z}_n \mathbf{1} \mathcal{L} \mathfrak{C} \mathcal{e} \mathbf x$", "ℤ_n1ℒℭℯ𝐱"),
    (r"$\varepsilon\epsilon\phi\varphi\vartheta\varrho\varsigma\varpi\varkappa$", "εϵϕφϑϱςϖϰ"),
    (r"$\ss\o\O\ae\AE\oe\OE\aa\AA$", "ßøØæÆœŒåÅ"),
    (r"$\Gamma\Delta\Theta\Lambda\Xi\Pi\Sigma\Upsilon\Phi\Psi\Omega$", "ΓΔΘΛΞΠΣΥΦΨΩ"),
    (
        r"$\beta\gamma\delta\zeta\eta\theta\iota\kappa\lambda\mu\nu\xi\pi\rho\sigma\tau\upsilon\chi\psi\omega$",
        "βγδζηθικλμνξπρστυχψω",
    ),
    (r"$\sin x + \lim_{n} \log y \max_i z$", "sinxlim_nlogymax_iz"),
    (
        r"$\arccos\arcsin\arctan\arg\cos\cosh\cot\coth\csc\deg\det\dim\exp\gcd\hom\inf\ker\lg\liminf\limsup\ln\min\sec\sinh\sup\tan\tanh$",
        "arccosarcsinarctancoscoshexpinfliminflimsuplnminsinhsuptantanh",
    ),
    (r"$\operatorname{rank} A$", "rankA"),
    (r"$\begin{matrix} a & b \\ c & d\end{matrix}$", "abcd"),
    (r"$\begin{array}{ll} a & b\end{array}$", "ab"),
    (r"$\frac{a}{b} \sqrt{c}$", "abc"),
    (r"$x\\y$", "xy"),
    (r"$\unknown{q}$", "q"),
    (r"$a\ b\,c$", "abc"),
    (r"$\mathrm{kg}^2$", "kg2"),
    (r"$\text{for }x^2$", "forx2"),
    ("$x^{*}$", "x"),
    (r"$\hat{x}$", "x"),
    (r"$\ell\hbar\aleph\imath x^2$", "ℓħℵx2"),
]
FORMULAS = [
    (r"\[ \mathbf{X}\,\left( y \right)\quad \tag{3} \]", r"{x}\,(y)"),
    ("$$a+b$$", "a+b"),
    ("$$\na\n$$", "a"),
    (r"\[a \\[2pt] b\]", r"a\\[2pt]b"),
    (r"\begin{aligned} A &= 1 \end{aligned}", "a&=1"),
    (r"\hspace{1em}x.", "x"),
    (".x.", "x"),
    (
        r"\mathbf{a}\mathrm{b}\mathnormal{c}\mathit{d}\mathbb{e}\mathcal{f}\mathscr{g}\mathfrak{h}\mathsf{i}\mathtt{j}",
        "{a}{b}{c}{d}{e}{f}{g}{h}{i}{j}",
    ),
    (r"\textbf{a}\text{b}\boldmath{c}\boldsymbol{d}\operatorname{e}\bm{f}", "{a}{b}{c}{d}{e}{f}"),
    (r"\symbfit{a}\symbf{b}\scriptscriptstyle c\notag\setlength d\coloneqq e", "{a}{b}cde"),
    (r"a\space b\thickspace c\thinspace d\medspace e\nobreakspace f\negmedspace g", "abcdefg"),
    (r"a\quad b\qquad c\enspace d\substackw e", "abcde"),
    (r"\left[a\right]\displaystyle b", "[a]b"),
    (r"\arraycolsep=1.4pt\def{2}x}", "x}"),
    ("a $$ b", "ab"),
    (r"\[x\] tail", "x"),
    (r"x\]", r"x\]"),
    ("$x$", "x"),
]
TABLES = [
    ("<table><tr><th>a</th></tr></table>", "<tr><td>a</td></tr>"),
    (
        '<table class="x" border="1"><thead><tr><td style="c" height="1" width="2" align="l">a</td></tr></thead>'
        '<tbody><tr><td colspan="2">b</td></tr></tbody></table>',
        '<tr><td>a</td></tr><tr><td colspan="2">b</td></tr>',
    ),
    ("<TABLE><tr><td>x</td></tr></TABLE>", None),
    ('<table><tr><td><math alttext="a^2"><mi>a</mi></math></td></tr></table>', "<tr><td>$a^2$</td></tr>"),
    ("<table><tr><td>&lt;5 &amp; ２</td></tr></table>", "<tr><td><5 & 2</td></tr>"),
    ("<table>\n<tr>\n  <td>a  b</td> <td>c</td>\n</tr>\n</table>", "<tr><td>a b</td> <td>c</td></tr>"),
    ("<table><colgroup><col/></colgroup><tr><td>a</td></tr></table>", "<tr><td>a</td></tr>"),
    (
        "<table><tr><td>H<sub>2</sub>O<sup>+</sup><span>x</span><div>y</div><p>z</p></td></tr></table>",
        "<tr><td>H2O+xyz</td></tr>",
    ),
    ("no table", None),
    ("a<table><tr><td>1</td></tr></table>b", "<tr><td>1</td></tr>"),
    ("<table><tr><td rowspan='2'>1</td></tr></table>", '<tr><td rowspan="2">1</td></tr>'),
    (
        "<table><tr><td rowspan=2 colspan='3'>a='1' b=2</td></tr></table>",
        '<tr><td colspan="3" rowspan="2">a=\'1\' b=2</td></tr>',
    ),
    ("<table> <tr><td>1</td></tr> </table>", " <tr><td>1</td></tr> "),
    ("<table><tbody ><tr><TD>1</TD></tr></table>", "<tr><td>1</td></tr>"),
    ("<table><tr><td style='x' width=3>1</td></tr></table>", "<tr><td>1</td></tr>"),
    (
        "<TABLE><tr><th>x</th></tr></TABLE> <table><tr><td>2</td></tr></table>",
        "<tr><td>x</td></tr></table> <table><tr><td>2</td></tr>",
    ),
    (
        '<table><tr><td rowspan="2"  colspan=3 >a<br>b<br/>c</td><td nowrap>x < 3 & y</td></tr></table>',
        '<tr><td colspan="3" rowspan="2">a<br/>b<br/>c</td><td nowrap="">x < 3 & y</td></tr>',
    ),
    ("<table><tr><td>1</td></tr></table >", "<tr><td>1</td></tr>"),
    ('<Table><TR><TH colspan="2">A</TH></TR></Table><table></table>', '<tr><td colspan="2">A</td></tr></table><table>'),
]


@pytest.mark.parametrize(("text", "letters"), LETTERS)
def test_letters_of_a_text(text: str, letters: str) -> None:
    assert text_letters(text) == letters


@pytest.mark.parametrize(("latex", "compared"), FORMULAS)
def test_a_formula_without_fonts_and_layout(latex: str, compared: str) -> None:
    assert normalized_formula(latex) == compared


@pytest.mark.parametrize(("table", "rows"), TABLES)
def test_a_table_of_plain_cells(table: str, rows: str | None) -> None:
    whole = "" if rows is None else f'<html><body><table border="1" >{rows}</table></body></html>'
    assert normalized_table(table) == whole
