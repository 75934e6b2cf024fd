"""Which parts of a prediction stand for which parts of a target, where both come in reading order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np
import numpy.typing as npt

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


def assign(costs: npt.NDArray[np.float64]) -> list[tuple[int, int]]:
    """Return the pairs of rows and columns that cost least in sum, each row and column once, by row.

    The Hungarian method with shortest augmenting paths (Jonker and Volgenant 1987, https://doi.org/10.1007/BF02278710).

    Args:
        costs: (R, C) finite costs; all of the shorter side are assigned.
    """
    if costs.size == 0:
        return []
    if costs.shape[0] > costs.shape[1]:
        return sorted((row, column) for column, row in assign(costs.T))
    rows, columns = costs.shape
    row_price, column_price = np.zeros(rows), np.zeros(columns + 1)
    owner = np.full(columns + 1, -1)  # the last column stands for none
    for row in range(rows):
        owner[columns], column = row, columns
        shortest, before = np.full(columns, np.inf), np.full(columns, columns)
        done = np.zeros(columns + 1, dtype=bool)
        while owner[column] >= 0:
            done[column] = True
            here = owner[column]
            paths = costs[here] - row_price[here] - column_price[:columns]
            better = ~done[:columns] & (paths < shortest)
            shortest[better], before[better] = paths[better], column
            following = int(np.where(done[:columns], np.inf, shortest).argmin())
            step = shortest[following]
            row_price[owner[done]] += step
            column_price[done] -= step
            shortest[~done[:columns]] -= step
            column = following
        while column != columns:
            owner[column] = owner[before[column]]
            column = before[column]
    return sorted((int(row), column) for column, row in enumerate(owner[:columns]) if row >= 0)
