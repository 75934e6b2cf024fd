"""Python's search for garbage, held back."""

from __future__ import annotations

import gc
import weakref

import pytest

from deepsynth.io.garbage import no_garbage_collection


class Cycle:
    """Refers to itself."""

    def __init__(self) -> None:
        self.own = self


def test_nothing_is_searched_within_and_all_is_as_before_after_it() -> None:
    assert gc.isenabled()
    with no_garbage_collection():
        lost = weakref.ref(Cycle())
        assert not gc.isenabled()
        _ = [[] for _ in range(100_000)]
        assert lost() is not None
        with no_garbage_collection():
            pass
        assert not gc.isenabled()
    assert gc.isenabled()
    with pytest.raises(KeyError), no_garbage_collection():
        raise KeyError
    assert gc.isenabled()
