"""Which parts of a prediction stand for which parts of a target, where both come in reading order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

Part = TypeVar("Part")


def best_alignment(
    predicted: Sequence[Part], expected: Sequence[Part], similarity: Callable[[Part, Part], float]
) -> list[tuple[int, int, float]]:
    """Return the pairs that keep the order of both sides and are most alike in sum.

    Args:
        predicted: parts of the prediction.
        expected: parts of the target.
        similarity: of two parts, from 0 to 1; pairs of 0 are left out.

    Returns:
        Pairs as (index of the predicted part, index of the expected part, similarity).
    """
    alike = [[similarity(one, other) for other in expected] for one in predicted]
    rows, columns = len(predicted), len(expected)
    best = [[0.0] * (columns + 1) for _ in range(rows + 1)]  # of the parts from here to the end
    for i in range(rows - 1, -1, -1):
        for j in range(columns - 1, -1, -1):
            best[i][j] = max(best[i + 1][j], best[i][j + 1], best[i + 1][j + 1] + alike[i][j])
    pairs, i, j = [], 0, 0
    while i < rows and j < columns:
        if alike[i][j] and best[i][j] == best[i + 1][j + 1] + alike[i][j]:
            pairs.append((i, j, alike[i][j]))
            i, j = i + 1, j + 1
        elif best[i][j] == best[i + 1][j]:
            i += 1
        else:
            j += 1
    return pairs
