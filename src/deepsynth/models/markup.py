"""The markup of models, which are tokens of their own, and what of a text may become such a token.

A tokenizer has more special tokens than a text may hold. Those that say where a prompt, an image or a text begins and
ends (``<image>``, ``<|User|>``, the end of the text, padding) are for the processor alone: a document that contains
them holds plain text. Those that mark up a text belong to it: they are tokens in targets, and stay in predictions.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from deepsynth.models.registry import FAMILIES

#: The markup of all families. A tokenizer that has some of it as tokens is that of a family whose markup it is.
MARKUP_TOKENS = tuple(dict.fromkeys(name for family in FAMILIES.values() for name in family.markup))
#: Markup that may be repeated for as long as a text likes.
REPEATABLE_TOKENS = tuple(dict.fromkeys(name for family in FAMILIES.values() for name in family.repeatable))


class TextCodec:
    """Encodes targets and decodes predictions, the same way both.

    Args:
        tokenizer: a Hugging Face tokenizer; markup that it does not have as a token is text.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        added = {str(token): int(index) for index, token in tokenizer.added_tokens_decoder.items()}
        self._markup = {name: added[name] for name in MARKUP_TOKENS if name in added}
        special = {index for index, token in tokenizer.added_tokens_decoder.items() if token.special}
        self._dropped = (special | set(tokenizer.all_special_ids)) - set(self._markup.values())
        self._split = re.compile("(" + "|".join(map(re.escape, self._markup)) + ")") if self._markup else None

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text: markup as its tokens, everything else as text, other special tokens too."""
        parts = self._split.split(text) if self._split is not None else [text]
        ids: list[int] = []
        for part in parts:
            if part in self._markup:
                ids.append(self._markup[part])
            elif part:
                ids += self._tokenizer.encode(part, add_special_tokens=False, split_special_tokens=True)
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ids: special tokens are left out, but for markup; white space is kept as it is."""
        kept = [index for index in ids if index not in self._dropped]
        text: str = self._tokenizer.decode(kept, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        return text


@lru_cache(maxsize=8)
def text_codec(tokenizer: Any) -> TextCodec:
    """Return the codec of a tokenizer, which is made once."""
    return TextCodec(tokenizer)
