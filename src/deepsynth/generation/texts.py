"""Texts while they are generated, and when they end: at the EOS token, at the limit, or where they begin to repeat."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from deepsynth.models.markup import REPEATABLE_TOKENS, text_codec

Stop = Literal["eos", "length", "loop"]


@dataclass(frozen=True, slots=True)
class RepetitionCriterion:
    """Ends a text whose last ``ngram`` tokens repeat earlier ones within ``window`` tokens.

    The numbers and the exemption are those of the published model's no-repeat processor
    (https://github.com/deepseek-ai/DeepSeek-OCR, ``process/ngram_norepeat.py``), which forbids the token that would
    complete the repetition; here that token ends the text, so that a greedy text is never bent into another one.
    Only generated tokens count, not the prompt. The period of a repetition may be up to ``window - ngram + 1`` tokens.

    Attributes:
        ngram: number of tokens of the repeated sequence.
        window: number of tokens, before the last one, in which the earlier sequence must begin.
        repeatable: ids that never end a text.

    Raises:
        ValueError: for numbers with which nothing would be found.
    """

    ngram: int = 30
    window: int = 90
    repeatable: frozenset[int] = frozenset()

    def __post_init__(self) -> None:
        """Check that an n-gram fits the window twice."""
        if not 1 <= self.ngram < self.window:
            raise ValueError(f"ngram is {self.ngram} and window {self.window}; 1 <= ngram < window is needed")

    @classmethod
    def for_tokenizer(cls, tokenizer: Any) -> RepetitionCriterion:
        """Return the criterion with the repeatable tokens that a tokenizer has."""
        vocabulary: Collection[str] = tokenizer.get_vocab()
        return cls(
            repeatable=frozenset(
                int(tokenizer.convert_tokens_to_ids(name)) for name in REPEATABLE_TOKENS if name in vocabulary
            )
        )

    def repeated_tokens(self, ids: list[int]) -> int:
        """Return how many of the last tokens repeat earlier ones within the window, at most ``ngram``."""
        longest, available = 0, len(ids)
        for period in range(1, self.window - self.ngram + 2):
            length, most = 0, min(self.ngram, available - period)
            while length < most and ids[-1 - length] == ids[-1 - length - period]:
                length += 1
            longest = max(longest, length)
        return longest


@dataclass(frozen=True, slots=True)
class TextFrame:
    """What surrounds a generated text.

    Attributes:
        stops: ids that end it.
        prefix: what the model writes before it, which is no part of it.
    """

    stops: Collection[int]
    prefix: str = ""


@dataclass(slots=True)
class GenerationState:
    """The tokens generated for one sample so far, and why they ended.

    Attributes:
        frame: what surrounds the text.
        limit: most tokens.
        repetition: ends a text that repeats itself; ``None`` lets it run.
        ids: generated tokens, EOS among them.
        stop: why the text ended; ``None`` while it is being generated.
    """

    frame: TextFrame
    limit: int
    repetition: RepetitionCriterion | None
    ids: list[int] = field(default_factory=list)
    stop: Stop | None = None
    #: Number of tokens before which no repetition can be complete.
    _next_check: int = 0

    def add(self, token: int) -> Stop | None:
        """Append the next token; return why the text ended, or ``None``."""
        self.ids.append(token)
        if token in self.frame.stops:
            self.stop = "eos"
        elif self.repetition is not None and self._repeats(token, self.repetition):
            self.stop = "loop"
        elif len(self.ids) >= self.limit:
            self.stop = "length"
        return self.stop

    def add_all(self, tokens: Sequence[int]) -> Stop | None:
        """Append tokens until the text ends; what comes after its end is ignored."""
        for token in tokens:
            if self.stop is not None or self.add(token):
                break
        return self.stop

    def _repeats(self, token: int, criterion: RepetitionCriterion) -> bool:
        """Return whether the text repeats itself with its last token."""
        if len(self.ids) < self._next_check or token in criterion.repeatable:
            return False
        missing = criterion.ngram - criterion.repeated_tokens(self.ids)
        # Each token makes a repetition longer by one at most: in a text without one, few tokens are checked.
        self._next_check = len(self.ids) + missing
        return missing == 0

    @property
    def text_ids(self) -> list[int]:
        """The ids of the text, without the token that completed a repetition."""
        return self.ids[:-1] if self.stop == "loop" else self.ids


@dataclass(frozen=True, slots=True)
class Generation:
    """The generated text of one sample.

    Attributes:
        text: decoded, without special tokens but for the model's markup.
        tokens: number of new tokens; the final EOS, or the token that completed a repetition, among them.
        stop: why the text ended: ``eos``; ``length``, at ``max_new_tokens``; ``loop``, when it repeated itself.
        ids: the new tokens.
        logprobs: natural logarithm of the probability that the model gave each of them.
    """

    text: str
    tokens: int
    stop: Stop
    ids: tuple[int, ...]
    logprobs: tuple[float, ...] = field(compare=False)  # which the size of a batch changes a little

    @property
    def mean_logprob(self) -> float:
        """Mean of the log-probabilities: the nearer to 0, the surer the model was."""
        return math.fsum(self.logprobs) / len(self.logprobs)


def to_generation(state: GenerationState, tokenizer: Any, logprobs: Sequence[float]) -> Generation:
    """Return the generation of a text that has ended; log-probabilities behind its end are left out."""
    assert state.stop is not None, "the text has ended"
    ids = tuple(state.ids)
    text = text_codec(tokenizer).decode(state.text_ids).removeprefix(state.frame.prefix)
    return Generation(text, len(ids), state.stop, ids, tuple(logprobs[: len(ids)]))
