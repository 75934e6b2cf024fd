"""Formulas in LaTeX: how many are the same, whatever the spelling, and how far the others are off."""

from __future__ import annotations

import re

from rapidfuzz.distance import Levenshtein

from deepsynth.metrics.structure.alignment import best_alignment
from deepsynth.metrics.structure.drawn_formulas import drawn_f1, drawn_symbols

_FORMULA = re.compile(
    r"\$\$(?P<a>.+?)\$\$|\\\[(?P<b>.+?)\\\]|\\\((?P<c>.+?)\\\)|(?<![\\$\w])\$(?P<d>[^\s$](?:[^$\n]*[^\s\\$])?)\$(?![\d$])",
    re.DOTALL,
)
#: A command, or any other character but white space.
_TOKEN = re.compile(r"\\[A-Za-z]+\*?|\\.|\S", re.DOTALL)
#: Commands that change how a formula is set and not what it says.
_LAYOUT = frozenset([
    r"\left", r"\right", r"\displaystyle", r"\textstyle", r"\scriptstyle", r"\limits", r"\nolimits", r"\quad",
    r"\qquad", r"\bigl", r"\bigr", r"\Bigl", r"\Bigr", r"\big", r"\Big", r"\mathrm", r"\rm", r"\operatorname",
    r"\operatorname*", r"\text", r"\mbox", r"\nonumber", r"\,", r"\;", r"\:", r"\!", r"\>", "\\ ", "~", "&",
])  # fmt: skip
_SYNONYMS = {
    r"\dfrac": r"\frac", r"\tfrac": r"\frac", r"\leq": r"\le", r"\geq": r"\ge", r"\neq": r"\ne", r"\to": r"\rightarrow",
    r"\ast": "*", r"\lbrace": r"\{", r"\rbrace": r"\}", r"\vert": "|", r"\lvert": "|", r"\rvert": "|", r"\prime": "'",
    r"\dots": r"\ldots", r"\cdots": r"\ldots", r"\land": r"\wedge", r"\lor": r"\vee",
}  # fmt: skip


def formulas_of(text: str) -> list[str]:
    r"""Return the formulas of a text in its order: between ``$``, ``$$``, ``\(`` and ``\)``, or ``\[`` and ``\]``."""
    return [next(part for part in match.groups() if part) for match in _FORMULA.finditer(text)]


def normalize_formula(latex: str) -> tuple[str, ...]:
    """Return the symbols of a formula without layout commands and braces around single symbols, synonyms as one."""
    found = [_SYNONYMS.get(token, token) for token in _TOKEN.findall(latex) if token not in _LAYOUT]
    kept: list[str] = []
    for token in found:
        kept.append(token)
        if token == "}" and len(kept) >= 3 and kept[-3] == "{" and kept[-2] not in "{}":
            kept[-3:] = [kept[-2]]
    while kept and kept[-1] in ".,;":
        kept.pop()
    return tuple(kept)


def formula_scores(prediction: str, target: str) -> dict[str, float] | None:
    """Return ``formula_match``, ``formula_distance`` and ``formula_drawn`` of a page; ``None`` without a formula.

    Formulas are paired in their order. ``formula_match`` is the share that is the same after
    :func:`normalize_formula`, ``formula_distance`` the mean normalized edit distance in symbols, both over the side
    that has more formulas: one that is missing is off by 1. ``formula_drawn`` is the mean of
    :func:`~deepsynth.metrics.structure.drawn_formulas.drawn_f1` over the formulas of the target that mathtext can draw,
    and those that the prediction has beyond it; a prediction that it cannot draw, and that is not the same, has 0.
    """
    sources = [formulas_of(text) for text in (prediction, target)]
    predicted, expected = ([normalize_formula(formula) for formula in side] for side in sources)
    if not predicted and not expected:
        return None
    most = max(len(predicted), len(expected))
    pairs = best_alignment(predicted, expected, Levenshtein.normalized_similarity)
    same = sum(predicted[i] == expected[j] for i, j, _ in pairs)
    found = {"formula_match": same / most, "formula_distance": 1.0 - sum(score for *_, score in pairs) / most}
    partner = {j: i for i, j, _ in pairs}
    drawn = []
    for j, latex in enumerate(sources[1]):
        symbols = drawn_symbols(latex)
        own = drawn_symbols(sources[0][partner[j]]) if j in partner else None
        if symbols is None:
            continue
        is_same = j in partner and predicted[partner[j]] == expected[j]
        drawn.append(1.0 if is_same else drawn_f1(own, symbols) if own is not None else 0.0)
    drawn += [0.0] * (most - len(expected))
    return {**found, "formula_drawn": sum(drawn) / len(drawn)} if drawn else found
