"""A replacement for a module's forward method; ``models.engine.fast_paths`` installs it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

Forward = Callable[..., Any]


class FastForward(NamedTuple):
    """Methods that compute what a module's ``forward`` does, up to rounding.

    Attributes:
        path: the name of what they belong to, as users see it.
        training: for training, where it computes in evaluation what the module does; ``None`` when there is none.
        inference: for evaluation, without gradients.
    """

    path: str
    training: Forward | None
    inference: Forward
