"""Decoding steps for the active rows: dynamic shapes on a CPU, fixed shapes and CUDA graphs on a GPU.

R  active rows      k  tokens per row between two synchronizations with the host
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import Protocol

import torch

from deepsynth.generation.cache import GROWTH, RowCache
from deepsynth.generation.graphs import NotCaptured, StepGraphs
from deepsynth.generation.model_runner import ModelRunner
from deepsynth.generation.prompt import Prompt
from deepsynth.models.engine.vision_chunks import COMPILE_OPTIONS

log = logging.getLogger(__name__)

#: Tokens per row that a GPU generates before the host reads them. A row that ends wastes at most one fewer.
LOOK_EVERY = 8
#: Prefills of at most this many positions in total use a captured graph. With few positions most of the time is kernel
#: launches; with many, the graph would keep the memory of all its intermediate results.
CAPTURED_TOKENS = 4096


#: A generated token and its log-probability.
Choice = tuple[int, float]


class Steps(Protocol):
    """Generates the next tokens of the active rows."""

    def refresh(self) -> None:
        """Discard the state prepared for other weights or another cache."""

    def warm_up(self, lengths: range) -> None:
        """Prepare what rows of these lengths would wait for; none may be at work."""

    def prefill(self, prompts: list[Prompt], slots: list[int]) -> list[Choice]:
        """Prefill these slots of the cache with prompts, and return the first token of each text."""

    def __call__(self, tokens: list[int], positions: list[int]) -> list[list[Choice]]:
        """Return the new tokens of each row, after its last one and that one's position."""


class FreeSteps:
    """One token per row at a time, for exactly the active rows and their positions: nothing is padded."""

    def __init__(self, runner: ModelRunner, cache: RowCache) -> None:
        self._runner, self._cache = runner, cache

    def refresh(self) -> None:
        """Do nothing: nothing was prepared."""

    def warm_up(self, lengths: range) -> None:
        """Do nothing: there is nothing to prepare."""

    def prefill(self, prompts: list[Prompt], slots: list[int]) -> list[Choice]:
        """Prefill these slots of the cache with prompts, and return the first token of each text."""
        hidden, last, *positions = self._runner.embed(prompts)
        self._cache.reserve(hidden.shape[1] + 1)
        self._cache.begin(slots, [len(prompt) for prompt in prompts])
        return _choices(self._runner.prefill(hidden, self._places(slots), last, self._cache, *positions))

    def _places(self, slots: list[int]) -> torch.Tensor:
        return torch.tensor(slots, device=self._runner.device)

    def __call__(self, tokens: list[int], positions: list[int]) -> list[list[Choice]]:
        """Return one new token for each row."""
        device, needed = self._runner.device, self._cache.needed(positions)
        self._cache.reserve(needed)
        last = torch.tensor(tokens, device=device)
        if min(positions) == max(positions) and self._cache.are_places(positions):
            new = self._runner.aligned_step(last, positions[0], self._cache)
        else:
            new = self._runner.step(last, torch.tensor(positions, device=device), self._cache, needed)
        return [[choice] for choice in _choices(new)]


class StaticSteps:
    """``count`` tokens per row in one call: shapes from a small set, all state on the device, read once at the end.

    The number of rows is rounded up to a power of two (an extra row writes into a free slot), that of
    positions to a multiple of ``GROWTH``. On a GPU each of these shapes is captured as a graph when it first occurs,
    and replayed from then on: launching the thousand kernels of a token costs more than running them.

    Args:
        runner: the model.
        cache: of the rows.
        count: k.
        graphs: capture and replay; without it the same steps run one by one.
        compiled: let torch.compile fuse the kernels of a step.
    """

    def __init__(
        self,
        runner: ModelRunner,
        cache: RowCache,
        count: int = LOOK_EVERY,
        *,
        graphs: bool = False,
        compiled: bool = False,
    ) -> None:
        self._runner, self._cache, self.count = runner, cache, count
        self._tokens = torch.zeros(cache.slots, dtype=torch.long, device=runner.device)
        self._positions = torch.zeros_like(self._tokens)
        self._chosen = torch.zeros(cache.slots, 2, device=runner.device)
        self._written = torch.zeros(cache.slots, count, 2, device=runner.device)
        self._next = torch.compile(runner.step, **COMPILE_OPTIONS) if compiled else runner.step
        self.graphs = StepGraphs(runner.device) if graphs else None
        self._prepared_for = (0, 0)
        if graphs:
            runner.captured = self._captured

    def refresh(self) -> None:
        """Discard the graphs when weights or cache have moved, or adapters were merged or switched."""
        if self.graphs is not None and (found := (self._runner.fingerprint(), self._cache.moves)) != self._prepared_for:
            self.graphs.clear()
            self._prepared_for = found

    def warm_up(self, lengths: range) -> None:
        """Make room for rows of these lengths, and record the graphs of all their shapes; no row may be at work."""
        longest = lengths.stop - 1 + self.count
        self._reserve(longest)
        for seen in range(_rounded(lengths.start + self.count), _rounded(longest) + 1, GROWTH):
            for doublings in range((self._cache.slots - 1).bit_length() + 1):
                rows = min(1 << doublings, self._cache.slots)
                self._tokens[:rows] = self._positions[:rows] = 0
                self._advance(rows, seen)

    def _reserve(self, length: int) -> None:
        """Reserve room in the cache, and discard graphs that point to its old place."""
        self._cache.reserve(length)
        if self.graphs is not None and self._cache.moves != self._prepared_for[1]:
            self.graphs.clear()
            self._prepared_for = self._prepared_for[0], self._cache.moves

    def prefill(self, prompts: list[Prompt], slots: list[int]) -> list[Choice]:
        """Prefill these slots of the cache with prompts, and return the first token of each text."""
        hidden, last, *positions = self._runner.embed(prompts)
        self._reserve(hidden.shape[1] + 1)
        self._cache.begin(slots, [len(prompt) for prompt in prompts])

        def run(hidden: torch.Tensor, slots: torch.Tensor, last: torch.Tensor, *rest: torch.Tensor) -> torch.Tensor:
            return self._runner.prefill(hidden, slots, last, self._cache, *rest)

        inputs = [hidden, torch.tensor(slots, device=hidden.device), last, *positions]
        few = hidden.shape[0] * hidden.shape[1] <= CAPTURED_TOKENS
        return _choices(self._captured("prefill", run, inputs) if few else run(*inputs))

    def _captured(self, name: str, run: Callable[..., torch.Tensor], inputs: list[torch.Tensor]) -> torch.Tensor:
        """Return ``run(*inputs)``, replayed from a graph where possible."""
        if self.graphs is None:
            return run(*inputs)

        def plainly(*tensors: torch.Tensor) -> torch.Tensor:
            with self._autocast():
                return run(*tensors)

        try:
            return self.graphs.call(name, plainly, inputs)
        except NotCaptured as error:
            self._give_up(error)
            return run(*inputs)

    def _give_up(self, error: RuntimeError) -> None:
        self.graphs = None
        reason = str(error).strip().splitlines()[0]
        log.warning("decoding runs without CUDA graphs, several times slower: %s", reason)

    def _autocast(self) -> torch.autocast:
        """Return a copy of the current autocast context that caches no weights, because graphs outlive it."""
        kind = self._tokens.device.type
        on = torch.is_autocast_enabled(kind)
        return torch.autocast(kind, torch.get_autocast_dtype(kind), on, cache_enabled=self.graphs is None)

    def __call__(self, tokens: list[int], positions: list[int]) -> list[list[Choice]]:
        """Return k new tokens for each row; those after a text's end are for the caller to drop."""
        needed = self._cache.needed([position + self.count - 1 for position in positions])
        self._reserve(needed)
        rows = min(1 << (len(tokens) - 1).bit_length(), self._cache.slots)
        seen = _rounded(needed)
        idle = [0] * (rows - len(tokens))
        self._tokens[:rows] = torch.tensor(tokens + idle)
        self._positions[:rows] = torch.tensor(positions + idle)
        advance = self._advance(rows, seen)
        for step in range(self.count):
            advance()
            self._written[:rows, step] = self._chosen[:rows]
        written = _choices(self._written[: len(tokens)].flatten(0, 1))
        return [written[first : first + self.count] for first in range(0, len(written), self.count)]

    def _advance(self, rows: int, seen: int) -> Callable[[], None]:
        """Return a function that advances the rows by one token; building it leaves them unchanged."""
        step = partial(self._step, rows, seen)
        if self.graphs is None:
            return step
        graph = self.graphs.get((rows, seen))
        if graph is None:
            before = self._tokens[:rows].clone(), self._positions[:rows].clone()

            def restore() -> None:
                """Put the rows back; what a step wrote into the cache, the next one writes again."""
                self._tokens[:rows] = before[0]
                self._positions[:rows] = before[1]

            try:
                graph = self.graphs.capture((rows, seen), step, restore)
            except torch.OutOfMemoryError:
                raise
            except RuntimeError as error:
                self._give_up(error)
                restore()
                return step
        replay: Callable[[], None] = graph.replay
        return replay

    def _step(self, rows: int, seen: int) -> None:
        tokens, positions = self._tokens[:rows], self._positions[:rows]
        with self._autocast():
            chosen = self._chosen[:rows].copy_(self._next(tokens, positions, self._cache, seen))
        tokens.copy_(chosen[:, 0])
        positions.add_(1)


def _rounded(length: int) -> int:
    """Return the number of positions that steps of this length attend to."""
    return -(-length // GROWTH) * GROWTH


def _choices(chosen: torch.Tensor) -> list[Choice]:
    """Return tokens with their log-probabilities (N, 2) as numbers; the host waits for them here."""
    return [(int(token), logprob) for token, logprob in chosen.tolist()]


def steps_for(runner: ModelRunner, cache: RowCache, *, compiled: bool = False) -> Steps:
    """Return the steps that suit the device: static ones on a GPU, in graphs if the model can be captured.

    Args:
        runner: the model.
        cache: of the rows.
        compiled: compile the static steps.
    """
    if runner.device.type != "cuda":
        return FreeSteps(runner, cache)
    return StaticSteps(runner, cache, graphs=can_be_captured(runner), compiled=compiled)


def can_be_captured(runner: ModelRunner) -> bool:
    """Return whether no kernel of a step waits for the host.

    Grouped products of experts wait in dtypes other than bfloat16, and LLM.int8() searches for outliers. A failed
    capture is harmless, but logs a warning.
    """
    for layer in runner.layers:
        for module in layer.modules():
            own = list(module.parameters(recurse=False))
            if any(parameter.dtype == torch.int8 for parameter in own):
                return False
            if hasattr(module, "gate_up_proj") and any(parameter.dtype != torch.bfloat16 for parameter in own):
                return False
            if hasattr(module, "quantized") and module.compute_dtype != torch.bfloat16:
                return False
    return True
