"""What the package assumes of torch's private parts."""

from __future__ import annotations

import multiprocessing

from torch.utils.data import DataLoader

from deepsynth.compat.torch import shut_down_workers


def test_persistent_workers_end_when_they_are_told() -> None:
    loader = DataLoader(range(4), num_workers=1, persistent_workers=True)  # type: ignore[arg-type]
    before = set(multiprocessing.active_children())
    assert [int(value) for value in loader] == [0, 1, 2, 3]
    (worker,) = set(multiprocessing.active_children()) - before
    shut_down_workers(loader)
    assert not worker.is_alive()
    shut_down_workers(loader)
    assert [int(value) for value in loader] == [0, 1, 2, 3], "the loader starts workers again"
    shut_down_workers(loader)
