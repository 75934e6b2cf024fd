"""How alike two formulas look, whatever their LaTeX: their characters matched where mathtext draws them.

In the spirit of CDM, character detection matching (Wang et al. 2024, https://arxiv.org/abs/2409.03643): characters of
both pictures are assigned to each other by token, position and order, pairs that are not the same character or do not
fit the others' places are dropped, and F1 counts the rest. It is no CDM, and not to be put beside published figures:

* matplotlib's mathtext draws the formulas, and not LaTeX. It says where it puts every character, so that none has to be
  found in a picture; matrices, environments and rarer commands it cannot draw.
* The published pairs are filtered by shift and scale (RANSAC). Here both formulas are in one size on one baseline,
  so that height and size must agree, and up to three shifts to the side are allowed, none past each other.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, lru_cache
from typing import Any, NamedTuple

import numpy as np

from deepsynth.io.mathtext import as_mathtext
from deepsynth.metrics.structure.alignment import assign

#: Weights of the published costs.
_TOKEN, _POSITION, _ORDER = 1.0, 0.05, 0.15
#: Furthest that matched characters may be from the same height, and from a shift of others, in units of the font size.
_HEIGHT_EM, _SHIFT_EM = 0.2, 0.35
#: How far a character may stand before one that follows it in the other formula, in units of the font size.
_BACK_EM = 0.15
_SHIFTS = 3
#: Sizes of one character: a script has 0.7 of its base.
_SIZE = 0.1
#: Mathtext rounds places to hundredths of a pixel.
_SIZE_PX = 100.0
_LONGEST = 2000


class Drawn(NamedTuple):
    """A character or rule of a formula.

    Attributes:
        token: font and code; "rule" for the line of a fraction or root.
        size: of its type, relative to that of the formula; the width of a rule.
        x: left edge, in units of the font size.
        y: height above the baseline, in units of the font size.
    """

    token: str
    size: float
    x: float
    y: float


@lru_cache(maxsize=4096)
def drawn_symbols(latex: str) -> tuple[Drawn, ...] | None:
    """Return what is drawn for a formula, from left to right; ``None`` where mathtext cannot draw it."""
    from matplotlib.font_manager import FontProperties

    if len(latex) > _LONGEST:
        return None
    prop = FontProperties(size=_SIZE_PX, math_fontfamily="stix")
    try:
        found = _parser().parse(f"${as_mathtext(latex)}$", dpi=72, prop=prop)
    except (ValueError, RecursionError):
        return None
    symbols = [
        Drawn(f"{font.postscript_name} {code}", size / _SIZE_PX, float(x) / _SIZE_PX, float(y) / _SIZE_PX)
        for font, size, code, *_, x, y in found.glyphs
    ]
    symbols += [Drawn("rule", w / _SIZE_PX, float(x) / _SIZE_PX, float(y) / _SIZE_PX) for x, y, w, _ in found.rects]
    return tuple(sorted(symbols, key=lambda one: (one.x, one.y)))


@cache
def _parser() -> Any:
    from matplotlib.mathtext import MathTextParser

    return MathTextParser("path")


def drawn_f1(predicted: Sequence[Drawn], expected: Sequence[Drawn]) -> float:
    """Return F1 of the characters that both formulas have at the same place, 1 for two empty ones."""
    if not predicted and not expected:
        return 1.0
    assigned = [(predicted[i], expected[j]) for i, j in assign(_costs(predicted, expected))]
    pairs = [(one, other) for one, other in assigned if _is_same(one, other)]
    shifts = _at_shared_shifts([one.x - other.x for one, other in pairs])
    kept = [pair for pair, is_shared in zip(pairs, shifts, strict=True) if is_shared]
    return 2 * _in_order([other.x for _, other in kept]) / (len(predicted) + len(expected))


def _is_same(one: Drawn, other: Drawn) -> bool:
    """Return whether two are the same character, in one size and at one height."""
    if one.token != other.token or abs(one.y - other.y) > _HEIGHT_EM:
        return False
    longest = max(one.size, other.size)
    return abs(one.size - other.size) <= (max(_SHIFT_EM, longest / 4) if one.token == "rule" else _SIZE)


def _costs(predicted: Sequence[Drawn], expected: Sequence[Drawn]) -> Any:
    """Return the cost (R, C) of each pair by token, place and order."""
    costs = np.zeros((len(predicted), len(expected)))
    if not costs.size:
        return costs
    for names in ("x", "y"):
        sides = [np.array([getattr(one, names) for one in side]) for side in (predicted, expected)]
        extent = max(float(np.ptp(np.concatenate(sides))), 1e-6)
        costs += _POSITION / 2 * np.abs(sides[0][:, None] - sides[1][None]) / extent
    orders = [np.arange(len(side)) / len(side) for side in (predicted, expected)]
    costs += _ORDER * np.abs(orders[0][:, None] - orders[1][None])
    differ = [[one.token != other.token for other in expected] for one in predicted]
    return costs + _TOKEN * np.array(differ)


def _at_shared_shifts(shifts: Sequence[float]) -> list[bool]:
    """Return for each pair whether it is shifted as others are, by one of few shifts."""
    found, is_kept = np.array(shifts), np.zeros(len(shifts), dtype=bool)
    near = np.abs(found[:, None] - found[None]) <= _SHIFT_EM
    for _ in range(_SHIFTS if shifts else 0):
        left = near & ~is_kept
        is_kept |= left[int(left.sum(axis=1).argmax())]
    return [bool(one) for one in is_kept]


def _in_order(places: Sequence[float]) -> int:
    """Return how many of the places can be kept so that none is before the one before it."""
    longest: list[int] = []
    for number, place in enumerate(places):
        before = [longest[k] for k in range(number) if places[k] <= place + _BACK_EM]
        longest.append(1 + max(before, default=0))
    return max(longest, default=0)
