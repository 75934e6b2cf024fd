"""Texts while they are generated and when they end: at the EOS token, at the limit, or where they begin to loop."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

Stop = Literal["eos", "length", "loop"]

#: Tokens that a table may repeat for as long as it likes; DeepSeek's own recipes let the same two through.
REPEATABLE_TOKENS = ("<td>", "</td>")


@dataclass(frozen=True, slots=True)
class LoopRule:
    """A text loops when its last ``ngram`` tokens stand once more among its last ``window`` tokens before.

    The numbers and the exemption are those of the published model's no-repeat processor
    (https://github.com/deepseek-ai/DeepSeek-OCR, ``process/ngram_norepeat.py``), which forbids the token that would
    complete the repetition; here that token ends the text, so that a greedy text is never bent into another one.
    Only what was written counts, not the prompt. A repetition's period may be up to ``window - ngram + 1`` tokens.

    Attributes:
        ngram: tokens of the repeated sequence.
        window: tokens, before the last one, in which the earlier one must begin.
        repeatable: ids that never end a text.
    """

    ngram: int = 30
    window: int = 90
    repeatable: frozenset[int] = frozenset()

    def __post_init__(self) -> None:
        """Raise ``ValueError`` for numbers with which nothing would be found."""
        if not 1 <= self.ngram < self.window:
            raise ValueError(f"ngram is {self.ngram} and window {self.window}; 1 <= ngram < window is needed")

    @classmethod
    def of(cls, tokenizer: Any) -> LoopRule:
        """Return the rule with the repeatable tokens that a tokenizer has."""
        vocabulary: Collection[str] = tokenizer.get_vocab()
        return cls(
            repeatable=frozenset(
                int(tokenizer.convert_tokens_to_ids(name)) for name in REPEATABLE_TOKENS if name in vocabulary
            )
        )


@dataclass(slots=True)
class Writing:
    """The tokens written for one sample, and why they ended.

    Attributes:
        eos: id that ends a text.
        limit: most tokens.
        rule: of loops; ``None`` to let them run.
        ids: what was written, EOS among it.
        stop: ``None`` while it goes on.
    """

    eos: int
    limit: int
    rule: LoopRule | None
    ids: list[int] = field(default_factory=list)
    stop: Stop | None = None
    #: The last tokens, a character each: a search in a string is the quickest way to find a sequence in another.
    _tail: str = ""

    def add(self, token: int) -> Stop | None:
        """Take the next token; return why the text ended, or ``None``."""
        self.ids.append(token)
        if token == self.eos:
            self.stop = "eos"
        elif self.rule is not None and self._loops(token, self.rule):
            self.stop = "loop"
        elif len(self.ids) >= self.limit:
            self.stop = "length"
        return self.stop

    def add_all(self, tokens: Sequence[int]) -> Stop | None:
        """Take tokens until the text ends; what comes after its end is ignored."""
        for token in tokens:
            if self.stop is not None or self.add(token):
                break
        return self.stop

    @property
    def text_ids(self) -> list[int]:
        """Return the ids of the text: the token that closed a loop is none of it."""
        return self.ids[:-1] if self.stop == "loop" else self.ids

    def _loops(self, token: int, rule: LoopRule) -> bool:
        self._tail = (self._tail + chr(token))[-rule.window - 1 :]
        if len(self._tail) <= rule.ngram or token in rule.repeatable:
            return False
        return self._tail.find(self._tail[-rule.ngram :]) < len(self._tail) - rule.ngram


@dataclass(frozen=True, slots=True)
class Generation:
    """What the model wrote for one sample.

    Attributes:
        text: decoded, without special tokens.
        tokens: number of new tokens; the final EOS, or the token that closed a loop, among them.
        stop: ``eos``; ``length``, when ``max_new_tokens`` ended it; ``loop``, when it went round in circles.
    """

    text: str
    tokens: int
    stop: Stop


def finished(writing: Writing, tokenizer: Any) -> Generation:
    """Return the generation of a text that has ended."""
    assert writing.stop is not None, "the text goes on"
    return Generation(decode(tokenizer, writing.text_ids), len(writing.ids), writing.stop)


def decode(tokenizer: Any, ids: Sequence[int]) -> str:
    """Return the text of token ids, special tokens left out and white space kept as it is."""
    text: str = tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return text
