"""Decoding over a stream of batches: rows that end give their place to prompts that wait.

S  slots: rows that are generated at the same time
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import torch

from deepsynth.generation.cache import RowCache
from deepsynth.generation.grid_runner import runner_for
from deepsynth.generation.model_runner import ModelRunner
from deepsynth.generation.prompt import Prompt
from deepsynth.generation.steps import Choice, Steps, steps_for
from deepsynth.generation.texts import Generation, GenerationState, RepetitionCriterion, TextFrame, to_generation
from deepsynth.types import Batch

#: What torch.compile works on.
Compile = Literal["none", "vision", "all"]

#: Tokens of prompts that are prefilled at once, by type of device.
PREFILL_TOKENS = {"cuda": 16384, "cpu": 2048}
#: A very long text holds back the ones behind it: at most so many times S finished texts wait for their turn.
HELD_BACK = 8


@dataclass(slots=True)
class _Row:
    """A sample, from its submission to its end."""

    number: int
    prompt: Prompt
    expected: int
    state: GenerationState
    logprobs: list[float] = field(default_factory=list)

    def add(self, choices: Sequence[Choice]) -> None:
        """Append the next tokens; what comes after the end of the text is ignored."""
        self.state.add_all([token for token, _ in choices])
        self.logprobs += [logprob for _, logprob in choices]

    @property
    def position(self) -> int:
        """The position of the last generated token, whose keys and values are not in the cache yet."""
        return len(self.prompt) + len(self.state.ids) - 1


class Decoder:
    """Generates texts greedily, S rows at a time, and returns them in the order of their samples.

    Batches are submitted, and :meth:`advance` works on them. A row that ends is refilled from the samples that wait. Of
    each S that follow one another, those with the longest expected text come first, so that texts of like length are
    generated together, and the end of the data does not wait for a last long one.

    A service has no order to keep: it calls :meth:`step`, which returns what has ended, looks at :meth:`unfinished`
    texts and drops some with :meth:`cancel`. Of one decoder use either that or :meth:`advance`.

    Args:
        model: a model of the DeepSeek-OCR family, or peft's around one; its weights are read, never copied.
        tokenizer: decodes the generated tokens.
        slots: S.
        frame: of the texts; by default they end with the tokenizer's EOS.
        repetition: the criterion that ends a text that repeats itself; ``None`` lets it run.
        steps: how rows get their next tokens; by default what suits the device.
        compile: the layers of ``vision``, and with ``all`` the steps of a GPU too; it takes minutes at the start.

    Raises:
        ValueError: for another model, or no slot.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        slots: int,
        frame: TextFrame | None = None,
        repetition: RepetitionCriterion | None = None,
        steps: Callable[[ModelRunner, RowCache], Steps] | None = None,
        compile: Compile = "none",
    ) -> None:
        if slots < 1:
            raise ValueError(f"slots is {slots}; it must be at least 1")
        self.slots = slots
        self._runner = runner_for(model, compile_vision=compile != "none")
        self._tokenizer = tokenizer
        self._frame = frame
        self._repetition = repetition
        window = self._runner.family.window(self._runner.model.config)
        self._cache = RowCache(len(self._runner.layers), slots, self._runner.device, window)
        make_steps = steps or partial(steps_for, compiled=compile == "all")
        self._steps = make_steps(self._runner, self._cache)
        self._waiting: list[_Row] = []
        self._rows: list[_Row] = []
        self._done: dict[int, Generation] = {}
        self._submitted = self._handed_out = 0
        #: Whether the model is held ready, see :meth:`at_work`.
        self.is_at_work = False

    @property
    def compiles_vision(self) -> bool:
        """Whether the layers of the vision encoder run compiled."""
        return self._runner.compiles_vision

    def __len__(self) -> int:
        """Return the number of samples that were submitted and not handed out yet."""
        return self._submitted - self._handed_out

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """Hold the model ready for generation, which each call does by itself outside this context.

        That costs milliseconds, which count where every few tokens are a call. Until the context is left nothing else
        may use the model, and neither its weights nor its adapters may change.
        """
        if self.is_at_work:
            yield
            return
        self._steps.refresh()
        with self._runner.at_work():
            self.is_at_work = True
            try:
                yield
            finally:
                self.is_at_work = False

    @torch.inference_mode()
    def warm_up(self, lengths: range) -> None:
        """Do beforehand, where a GPU records graphs, what the first texts would wait for; there may be none yet.

        Args:
            lengths: positions of a prompt with its text; the cache gets room for the longest.
        """
        with self.at_work():
            self._steps.warm_up(lengths)

    @torch.inference_mode()
    def submit(self, batch: Batch, max_new_tokens: int | Sequence[int]) -> range:
        """Encode the pages of a batch and let its samples wait; the pixels are not kept.

        Args:
            batch: on the device of the model, in the dtype of its weights.
            max_new_tokens: of every sample, or of each.

        Returns:
            The numbers of the samples, which count on from batch to batch.
        """
        frame = self._frame or TextFrame((self._tokenizer.eos_token_id,))
        limits = [max_new_tokens] * len(batch) if isinstance(max_new_tokens, int) else max_new_tokens
        with self.at_work():
            prompts = self._runner.prompts(batch.prompts)
        first = self._submitted
        for prompt, target, limit in zip(prompts, batch.targets, limits, strict=True):
            state = GenerationState(frame, limit, self._repetition)
            self._waiting.append(_Row(self._submitted, prompt, len(target), state))
            self._submitted += 1
        return range(first, self._submitted)

    @torch.inference_mode()
    def advance(self, *, drain: bool, deadline: float | None = None) -> list[Generation] | None:
        """Work, and return the texts whose turn has come.

        Args:
            drain: write all texts to their end; else only until fewer than S samples wait, so that the next batch can
                be submitted before a row has nothing to do.
            deadline: :func:`time.monotonic` at which to give up all that is not finished.

        Returns:
            The next generations in the order of the submissions; ``None`` when the deadline cut them short.
        """
        with self.at_work():
            while (self._rows or self._waiting) and (drain or len(self._waiting) >= self.slots):
                if deadline is not None and time.monotonic() >= deadline:
                    self._rows, self._waiting, self._done = [], [], {}
                    self._handed_out = self._submitted
                    return None
                self._admit()
                if self._rows:
                    self._write()
        texts = []
        while self._handed_out in self._done:
            texts.append(self._done.pop(self._handed_out))
            self._handed_out += 1
        return texts

    @torch.inference_mode()
    def step(self) -> list[tuple[int, Generation]]:
        """Fill free slots with samples that wait, and write the next tokens of each row.

        Returns:
            The texts that have ended, with their numbers, in any order.
        """
        with self.at_work():
            self._admit()
            if self._rows:
                self._write()
        ended, self._done = list(self._done.items()), {}
        self._handed_out += len(ended)
        return ended

    @property
    def waiting(self) -> int:
        """The number of samples that have no slot yet."""
        return len(self._waiting)

    def unfinished(self) -> Iterator[tuple[int, list[int]]]:
        """Yield the number of each text that is being written and its tokens so far, for looking at them."""
        for row in self._rows:
            yield row.number, row.state.ids

    @torch.inference_mode()
    def cancel(self, numbers: Collection[int]) -> None:
        """Give up samples that have not ended; numbers of others do nothing."""
        before = len(self._waiting) + len(self._rows)
        self._waiting = [row for row in self._waiting if row.number not in numbers]
        for slot in reversed(range(len(self._rows))):
            if self._rows[slot].number in numbers:
                self._free(slot)
        self._handed_out += before - len(self._waiting) - len(self._rows)

    def _admit(self) -> None:
        """Prefill samples that wait until every slot is taken; a text may end with its first token."""
        while chosen := self._next_rows(self.slots - len(self._rows)):
            longest = max(len(row.prompt) for row in chosen)
            budget = PREFILL_TOKENS.get(self._runner.device.type, PREFILL_TOKENS["cpu"])
            at_once = max(budget // longest, 1)
            for first in range(0, len(chosen), at_once):
                self._prefill(chosen[first : first + at_once])
            self._retire()

    def _next_rows(self, free: int) -> list[_Row]:
        """Take the next samples out of those that wait, at most so many."""
        oldest = min((row.number for row in (*self._rows, *self._waiting)), default=0)
        able = sorted(
            (row for row in self._waiting if row.number < oldest + HELD_BACK * self.slots),
            key=lambda row: (row.number // self.slots, -row.expected),
        )
        taken = {row.number for row in able[:free]}
        self._waiting = [row for row in self._waiting if row.number not in taken]
        return able[:free]

    def _prefill(self, rows: list[_Row]) -> None:
        """Write prompts into the next free slots, and the first token of each text."""
        slots = list(range(len(self._rows), len(self._rows) + len(rows)))
        first = self._steps.prefill([row.prompt for row in rows], slots)
        for row, choice in zip(rows, first, strict=True):
            row.prompt.features = None
            row.add([choice])
        self._rows += rows

    def _write(self) -> None:
        """Give every row its next tokens."""
        new = self._steps([row.state.ids[-1] for row in self._rows], [row.position for row in self._rows])
        for row, choices in zip(self._rows, new, strict=True):
            row.add(choices)
        self._retire()

    def _retire(self) -> None:
        """Take out the rows that have ended; the last ones move into their slots."""
        for slot in reversed(range(len(self._rows))):
            row = self._rows[slot]
            if row.state.stop is None:
                continue
            self._done[row.number] = to_generation(row.state, self._tokenizer, row.logprobs)
            self._free(slot)

    def _free(self, slot: int) -> None:
        """Take the row out of a slot; the last one moves there."""
        last = self._rows.pop()
        if slot < len(self._rows):
            self._cache.move(len(self._rows), slot, last.position)
            self._rows[slot] = last
