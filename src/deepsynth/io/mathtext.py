"""LaTeX in the words of matplotlib's mathtext, which lacks many common commands."""

from __future__ import annotations

import re

_COMMAND = re.compile(r"\\[A-Za-z]+\*?")
#: Arguments of one character without their braces.
_FRACTION = re.compile(r"(\\d?frac)(?![A-Za-z])\s*([0-9A-Za-z])\s*([0-9A-Za-z])")
_FRACTIONS = (r"\frac", r"\dfrac", r"\tfrac", r"\cfrac")
_TOKEN = re.compile(r"\\[A-Za-z]+|\\.|.", re.DOTALL)
_ROOT = re.compile(r"(\\sqrt)(?![A-Za-z])\s*([0-9A-Za-z])")
#: Commands that mathtext does not know, by what it draws for them; the size of brackets and of fractions is lost.
_SAME = {
    r"\le": r"\leq", r"\ge": r"\geq", r"\gets": r"\leftarrow", r"\owns": r"\ni", r"\land": r"\wedge", r"\lor": r"\vee",
    r"\lnot": r"\neg", r"\iff": r"\Longleftrightarrow", r"\implies": r"\Longrightarrow", r"\lvert": "|", r"\rvert": "|",
    r"\lVert": r"\|", r"\rVert": r"\|", r"\tfrac": r"\frac", r"\cfrac": r"\dfrac", r"\bm": r"\boldsymbol",
    r"\mbox": r"\text", r"\bmod": r"\;\mathrm{mod}\;", r"\displaystyle": "", r"\textstyle": "", r"\scriptstyle": "",
    r"\limits": "", r"\nolimits": "", r"\nonumber": "",
    **{f"\\{size}{side}": "" for size in ("big", "Big", "bigg", "Bigg") for side in ("", "l", "m", "r")},
}  # fmt: skip


def as_mathtext(latex: str) -> str:
    """Return a formula with the commands that mathtext knows; others stay."""
    known = _COMMAND.sub(lambda match: _SAME.get(match.group(), match.group()), latex)
    return _ROOT.sub(r"\1{\2}", _FRACTION.sub(r"\1{\2}{\3}", known))


def display_style(latex: str) -> str:
    r"""Return a formula whose fractions are as large as TeX sets those of a displayed one: ``\dfrac`` for ``\frac``.

    Fractions within another one, or in an index, stay small.
    """
    found: list[str] = []
    small, arguments, is_index = False, 0, False
    outside: list[tuple[bool, int]] = []
    for token in _TOKEN.findall(latex):
        is_fraction = token in _FRACTIONS
        found.append(r"\dfrac" if token == r"\frac" and not small and not is_index else token)
        if token.isspace():
            continue
        if token == "{":
            outside.append((small, max(arguments - 1, 0)))
            small, arguments = small or is_index or arguments > 0, 0
        elif token == "}" and outside:
            small, arguments = outside.pop()
        else:
            arguments = 2 if is_fraction else max(arguments - 1, 0)
        is_index = token in ("^", "_")
    return "".join(found)
