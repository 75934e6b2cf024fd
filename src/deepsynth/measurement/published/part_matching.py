"""Which parts of a prediction stand for which parts of a page: OmniDocBench's "quick match", version 1.5.

Paragraphs are often cut at other places than in the annotation, so that parts of either side may be joined.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from rapidfuzz.distance import Levenshtein

from deepsynth.data.formats.omnidocbench import OPTIONAL_TEXTS
from deepsynth.measurement.published.page_parts import Part
from deepsynth.metrics.structure.alignment import assign

#: Distance below which two parts are taken for the same at once.
_SAME = 0.25
#: Distance above which parts are not matched, unless one holds the other.
_DIFFERENT = 0.7
#: Distance of a part from the best place in another one, below which it may be a piece of it, or is held by it.
_PIECE, _HELD = 0.6, 0.4


@dataclass(frozen=True)
class Match:
    """Parts of a page with the parts of a prediction that stand for them; none where it has nothing.

    Attributes:
        expected: parts of the page.
        predicted: parts of the prediction.
    """

    expected: tuple[Part, ...]
    predicted: tuple[Part, ...]


def distance(one: str, other: str) -> float:
    """Return the edits between two texts over the length of the longer one, from 0 to 1."""
    return float(Levenshtein.normalized_distance(one, other))


def match_parts(expected: Sequence[Part], predicted: Sequence[Part]) -> list[Match]:
    """Return a match for every part of the page that must be there.

    Args:
        expected: parts of the page; those that may be left out take what they are of the prediction with them.
        predicted: parts of the prediction, formulas within paragraphs last.
    """
    if len(expected) == len(predicted) == 1:
        return [Match(tuple(expected), tuple(predicted))]
    optional = [part.compared for part in expected if part.kind in OPTIONAL_TEXTS]
    needed = [part for part in expected if part.kind not in OPTIONAL_TEXTS]
    left = [part for part in predicted if all(distance(text, part.compared) >= _SAME for text in optional)]
    if not needed or not left:
        return [Match((part,), ()) for part in needed]
    groups = _first_matches([part.compared for part in needed], [part.compared for part in left])
    matches = [
        Match(tuple(needed[i] for i in sorted(rows)), tuple(left[j] for j in columns))
        for columns, rows in groups.items()
        if rows
    ]
    found = {i for rows in groups.values() for i in rows}
    used = {j for columns in groups for j in columns}
    missing = [part for i, part in enumerate(needed) if i not in found]
    spare = [part for j, part in enumerate(left) if j not in used]
    pairs = dict(assign(_costs([p.compared for p in missing], [p.compared for p in spare])))
    return matches + [
        Match((part,), (spare[pairs[place]],) if place in pairs else ()) for place, part in enumerate(missing)
    ]


def _costs(expected: Sequence[str], predicted: Sequence[str]) -> np.ndarray:
    rows = [[distance(one, other) for other in predicted] for one in expected]
    return np.array(rows, dtype=np.float64).reshape(len(expected), len(predicted))


def _first_matches(expected: Sequence[str], predicted: Sequence[str]) -> dict[tuple[int, ...], list[int]]:
    """Return the numbers of expected texts by those of the predicted ones that stand for them."""
    pieces = _joined(expected, predicted)
    joined = [" ".join(predicted[j] for j in group) for group in pieces]
    costs = _costs(expected, joined)
    groups: dict[tuple[int, ...], list[int]] = {}
    missing = set(range(len(expected)))
    for i, group in assign(costs):
        if costs[i, group] <= _DIFFERENT:
            groups[pieces[group]] = [i]
            missing.discard(i)
    for j, text in enumerate(predicted):
        held = [i for i in sorted(missing) if _is_in(expected[i], text, _HELD)]
        if held:
            groups.setdefault((j,), []).extend(held)
            missing -= set(held)
    return groups


def _joined(expected: Sequence[str], predicted: Sequence[str]) -> list[tuple[int, ...]]:
    """Return the predicted texts in groups: neighbors that are pieces of one expected text together."""
    same = _costs(expected, predicted) < _SAME
    open_rows, open_columns = np.flatnonzero(~same.any(1)).tolist(), set(np.flatnonzero(~same.any(0)).tolist())
    candidates = []
    for i in open_rows:
        runs = [_run(expected[i], predicted, start, open_columns) for start in sorted(open_columns)]
        scored = [(distance(expected[i], " ".join(predicted[j] for j in run)), run) for run in runs]
        if scored:
            candidates.append(min(scored, key=lambda found: found[0]))
    taken: dict[int, tuple[int, ...]] = {}
    for _, run in sorted(candidates):
        if not taken.keys() & set(run):
            taken |= dict.fromkeys(run, run)
    return list(dict.fromkeys(taken.get(j, (j,)) for j in range(len(predicted))))


def _run(expected: str, predicted: Sequence[str], start: int, usable: set[int]) -> tuple[int, ...]:
    """Return the numbers of the neighbors from ``start`` that are pieces of an expected text."""
    run = [start]
    while run[-1] + 1 in usable:
        before = " ".join(predicted[j] for j in run)
        longer = f"{before} {predicted[run[-1] + 1]}"
        if distance(expected, longer) > distance(expected, before):
            break
        if not all(_is_in(predicted[j], expected, _PIECE) for j in (*run, run[-1] + 1)):
            break
        run.append(run[-1] + 1)
        if len(longer) > len(expected):
            break
    return tuple(run)


def _is_in(part: str, whole: str, most: float) -> bool:
    """Return whether a text stands in a longer one at some place with less than a share of its length as edits."""
    if not part or len(part) > len(whole):
        return False
    limit = int(np.ceil(most * len(part))) - 1
    starts = range(len(whole) - len(part) + 1)
    return any(
        Levenshtein.distance(part, whole[start : start + len(part)], score_cutoff=limit) <= limit for start in starts
    )
