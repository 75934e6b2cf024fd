"""LaTeX in the words of matplotlib's mathtext, which lacks many common commands."""

from __future__ import annotations

import re

_COMMAND = re.compile(r"\\[A-Za-z]+\*?")
#: Arguments of one character without their braces.
_FRACTION = re.compile(r"(\\d?frac)\s*([0-9A-Za-z])\s*([0-9A-Za-z])")
_ROOT = re.compile(r"(\\sqrt)\s*([0-9A-Za-z])")
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
