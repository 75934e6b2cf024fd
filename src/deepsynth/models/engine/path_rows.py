"""Which fast paths a run takes, and why not the others."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple


class PathRow(NamedTuple):
    """One path of a run.

    Attributes:
        path: its name.
        modules: the number of modules that it is used for; 0 where it is not used.
        reason: why it is not used, if it is not.
    """

    path: str
    modules: int
    reason: str


def describe(rows: Iterable[PathRow]) -> str:
    """Return one line of the paths that are used and, with the reason, of those that are not."""
    used: list[str] = []
    unused: dict[str, list[str]] = {}
    for path, modules, reason in rows:
        if modules:
            used.append(f"{path} ({modules})")
        else:
            unused.setdefault(reason, []).append(path)
    reasons = "; ".join(f"{', '.join(paths)} ({reason})" for reason, paths in unused.items())
    return f"fast paths: {', '.join(used) or 'none'}" + (f"; not used: {reasons}" if reasons else "")
