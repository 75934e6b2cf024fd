"""Texts while they are written."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from deepsynth.models.markup import text_codec

#: Stands for bytes that are no character yet.
_INCOMPLETE = "\ufffd"
#: Tokens that may say nothing, or be no character yet, before they are looked at less often.
_PATIENCE = 32


class TextStream:
    """Turns growing tokens into pieces of text, each token decoded a few times at most.

    A piece is what a window of tokens says beyond what its beginning says: a tokenizer may write a token in another way
    at the start of a text than behind others, and a character may take several tokens.

    Args:
        tokenizer: of the model.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._codec = text_codec(tokenizer)
        self._window = self._sent_tokens = self._next_look = 0
        self._sent: list[str] = []

    def add(self, ids: Sequence[int]) -> str:
        """Return the text that is new with the tokens so far, without an incomplete character at its end."""
        if len(ids) < self._next_look:
            return ""
        before = self._codec.decode(ids[self._window : self._sent_tokens])
        now = self._codec.decode(ids[self._window :])
        if now.endswith(_INCOMPLETE) or len(now) <= len(before):
            # A long run of such tokens would be decoded again and again.
            self._next_look = len(ids) + max(len(ids) - self._window - _PATIENCE, 0)
            return ""
        self._window, self._sent_tokens = self._sent_tokens, len(ids)
        self._sent.append(now[len(before) :])
        return self._sent[-1]

    def rest(self, text: str) -> str:
        """Return what is missing of the whole text."""
        return text[sum(map(len, self._sent)) :]
