"""What generation returns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from deepsynth.generation.texts import Stop, Writing


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
