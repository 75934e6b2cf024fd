"""Which rows belong to which columns."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from deepsynth.metrics.structure.alignment import assign


@pytest.mark.parametrize("shape", [(1, 1), (3, 3), (2, 4), (4, 2), (5, 5)])
def test_pairs_cost_least_of_all(shape: tuple[int, int]) -> None:
    draw = np.random.default_rng(0)
    for number in range(20):
        costs = draw.random(shape)
        if number % 2:
            costs = np.round(costs * 3)  # with ties
        pairs = assign(costs)
        rows, columns = shape
        best = min(
            sum(costs[i, j] for i, j in zip(chosen, others, strict=True))
            for chosen in itertools.permutations(range(rows), min(shape))
            for others in itertools.combinations(range(columns), min(shape))
        )
        assert sum(costs[pair] for pair in pairs) == pytest.approx(best)
        assert len({i for i, _ in pairs}) == len({j for _, j in pairs}) == min(shape)
        assert pairs == sorted(pairs)


def test_nothing_is_assigned_to_nothing() -> None:
    assert assign(np.zeros((0, 3))) == assign(np.zeros((3, 0))) == []
