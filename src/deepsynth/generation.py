"""Greedy transcription of a batch, by transformers' own ``generate``.

Shapes are explained in :mod:`deepsynth.types`.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch

from deepsynth.types import Batch


@dataclass(frozen=True, slots=True)
class Generation:
    """What the model wrote for one sample.

    Attributes:
        text: decoded, without special tokens.
        tokens: number of new tokens, the final EOS among them.
        stop: ``eos``, or ``length`` when ``max_new_tokens`` ended it.
    """

    text: str
    tokens: int
    stop: Literal["eos", "length"]


@torch.inference_mode()
def generate(
    model: Any, tokenizer: Any, batch: Batch, *, max_new_tokens: int, deadline: float | None = None
) -> list[Generation] | None:
    """Write the text of every sample of a batch, greedily.

    Args:
        model: a Hugging Face model with ``generate``, or a peft model around one.
        tokenizer: decodes what it writes.
        batch: its prompts (B, P) are read, padded at the left.
        max_new_tokens: per sample.
        deadline: :func:`time.monotonic` at which to give up.

    Returns:
        B generations; ``None`` when the deadline cut them short.
    """
    limits = {} if deadline is None else {"max_time": max(deadline - time.monotonic(), 0.0)}
    output = model.generate(
        **batch.prompts,
        max_new_tokens=max_new_tokens,
        do_sample=False,
        num_beams=1,
        use_cache=True,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        **limits,
    )
    new = output[:, batch.prompts["input_ids"].shape[1] :].tolist()
    rows = [row[: row.index(tokenizer.eos_token_id) + 1] if tokenizer.eos_token_id in row else row for row in new]
    finished = [bool(row) and row[-1] == tokenizer.eos_token_id for row in rows]
    if deadline is not None and time.monotonic() >= deadline and not all(finished) and len(new[0]) < max_new_tokens:
        return None
    return [
        Generation(decode(tokenizer, row), len(row), "eos" if done else "length")
        for row, done in zip(rows, finished, strict=True)
    ]


def decode(tokenizer: Any, ids: Sequence[int]) -> str:
    """Return the text of token ids, special tokens left out and white space kept as it is."""
    text: str = tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return text
