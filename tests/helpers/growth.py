"""How much more memory a walk over a stream holds at its end."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from itertools import islice


def grown_bytes(items: Iterator[object], count: int) -> int:
    """Take so many items, and return the bytes that Python holds since then."""
    tracemalloc.start()
    try:
        for _ in islice(items, count):
            pass
        return tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
