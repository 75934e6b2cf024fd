"""Several processes: ranks, sharding and strategies, and which combinations are refused."""

from __future__ import annotations

from typing import TYPE_CHECKING

from deepsynth.lazy_imports import importing

if TYPE_CHECKING:
    from deepsynth.distributed.strategy import FullyShardedStrategy

__all__ = ["FullyShardedStrategy"]

#: Imported on first use, as it needs all of Lightning.
__getattr__ = importing(__name__, {"FullyShardedStrategy": "deepsynth.distributed.strategy"})
