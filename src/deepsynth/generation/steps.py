"""How the rows at work get their next tokens: freely on a CPU, in fixed shapes and captured graphs on a GPU.

R  rows at work      k  tokens a row between two looks at what was written
"""

from __future__ import annotations

import logging
from typing import Any, Protocol

import torch

from deepsynth.generation.cache import GROWTH, RowCache
from deepsynth.generation.reader import Reader

log = logging.getLogger("deepsynth")

#: Tokens that a GPU writes before the host looks at them. A row that ends has up to so many less one in vain.
LOOK_EVERY = 8


class Steps(Protocol):
    """Writes the next tokens of the rows at work."""

    def refresh(self) -> None:
        """Look whether the model is still the one that was prepared for."""

    def __call__(self, tokens: list[int], positions: list[int]) -> list[list[int]]:
        """Return the new tokens of each row, after its last one and that one's position."""


class FreeSteps:
    """One token a row at a time, of just the rows and the positions that there are: nothing is computed in vain."""

    def __init__(self, reader: Reader, cache: RowCache) -> None:
        self._reader, self._cache = reader, cache

    def refresh(self) -> None:
        """Do nothing: nothing was prepared."""

    def __call__(self, tokens: list[int], positions: list[int]) -> list[list[int]]:
        """Return one new token for each row."""
        device, place = self._reader.device, max(positions)
        self._cache.reserve(place + 1)
        last = torch.tensor(tokens, device=device)
        if min(positions) == place:
            new = self._reader.aligned_step(last, place, self._cache)
        else:
            new = self._reader.step(last, torch.tensor(positions, device=device), self._cache, place + 1)
        return [[token] for token in new.tolist()]


class StaticSteps:
    """``count`` tokens a row in one go: shapes from a small set, all state on the device, one look at the end.

    The number of rows is rounded up to a power of two (a row too many writes into a slot that is free), that of
    positions to a multiple of ``GROWTH``. On a GPU each of these shapes is captured as a graph when it first comes up,
    and replayed from then on: launching the thousand kernels of a token costs more than running them.

    Args:
        reader: the model.
        cache: of the rows.
        count: k.
        graphs: capture and replay; without it the same steps run one by one.
    """

    def __init__(self, reader: Reader, cache: RowCache, count: int = LOOK_EVERY, graphs: bool = False) -> None:
        self._reader, self._cache, self.count, self._capture = reader, cache, count, graphs
        self._tokens = torch.zeros(cache.slots, dtype=torch.long, device=reader.device)
        self._positions = torch.zeros_like(self._tokens)
        self._written = torch.zeros(cache.slots, count, dtype=torch.long, device=reader.device)
        self._graphs: dict[tuple[int, int], Any] = {}
        self._pool: Any = None
        self._prepared_for = 0

    def refresh(self) -> None:
        """Throw the graphs away when weights have moved, or adapters were merged or switched."""
        if self._capture and (found := self._reader.fingerprint()) != self._prepared_for:
            self._graphs.clear()
            self._prepared_for = found

    def __call__(self, tokens: list[int], positions: list[int]) -> list[list[int]]:
        """Return k new tokens for each row; those after a text's end are for the caller to drop."""
        needed = max(positions) + self.count
        if self._cache.reserve(needed):
            self._graphs.clear()
        rows = min(1 << (len(tokens) - 1).bit_length(), self._cache.slots)
        seen = -(-needed // GROWTH) * GROWTH
        idle = [0] * (rows - len(tokens))
        self._tokens[:rows] = torch.tensor(tokens + idle)
        self._positions[:rows] = torch.tensor(positions + idle)
        for step in range(self.count):
            graph = self._graph(rows, seen) if self._capture else None
            if graph is not None:
                graph.replay()
            else:
                self._step(rows, seen)
            self._written[:rows, step] = self._tokens[:rows]
        written: list[list[int]] = self._written[: len(tokens)].tolist()
        return written

    def _step(self, rows: int, seen: int) -> None:
        tokens, positions = self._tokens[:rows], self._positions[:rows]
        tokens.copy_(self._reader.step(tokens, positions, self._cache, seen))
        positions.add_(1)

    def _graph(self, rows: int, seen: int) -> Any:
        """Return the graph of a shape, or ``None`` when it cannot be captured.

        A new one is run twice and captured; then the rows' state is put back. What that wrote into the cache, the
        replays write again.
        """
        if (rows, seen) in self._graphs:
            return self._graphs[rows, seen]
        before = self._tokens.clone(), self._positions.clone()
        side: Any = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(2):
                self._step(rows, seen)
        torch.cuda.current_stream().wait_stream(side)
        graph: Any = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph, pool=self._pool):
                self._step(rows, seen)
        except RuntimeError as error:
            self._capture, graph = False, None
            reason = str(error).strip().splitlines()[0]
            log.warning("decoding runs without CUDA graphs, several times slower: %s", reason)
        else:
            self._pool = self._pool or graph.pool()
            self._graphs[rows, seen] = graph
        self._tokens.copy_(before[0])
        self._positions.copy_(before[1])
        return graph


def steps_for(reader: Reader, cache: RowCache) -> Steps:
    """Return the steps that suit the device: static ones in graphs on a GPU that can capture the model's."""
    if reader.device.type != "cuda":
        return FreeSteps(reader, cache)
    return StaticSteps(reader, cache, graphs=_can_be_captured(reader))


def _can_be_captured(reader: Reader) -> bool:
    """Whether no kernel of a step waits for the host, and all that it reads stays where it is.

    Grouped products of experts wait in other types than bfloat16; autocast makes copies of weights and lets them go.
    """
    experts = [module for layer in reader.layers for module in layer.modules() if hasattr(module, "gate_up_proj")]
    types = {parameter.dtype for module in experts for parameter in module.parameters(recurse=False)}
    return types <= {torch.bfloat16} and not torch.is_autocast_enabled("cuda")
