"""Greedy transcription of a batch by transformers' own ``generate``: for models whose decoder is not known here.

Shapes are explained in :mod:`deepsynth.types`.
"""

from __future__ import annotations

import time
from typing import Any

import torch

from deepsynth.generation.results import Generation, finished
from deepsynth.generation.texts import LoopRule, Writing
from deepsynth.types import Batch


@torch.inference_mode()
def generate_by_transformers(
    model: Any,
    tokenizer: Any,
    batch: Batch,
    *,
    max_new_tokens: int,
    loops: LoopRule | None = None,
    deadline: float | None = None,
) -> list[Generation] | None:
    """Write the text of every sample of a batch, greedily; arguments and result as for :func:`generate`."""
    from transformers import StoppingCriteriaList

    prompt_length = batch.prompts["input_ids"].shape[1]
    writings = [Writing(tokenizer.eos_token_id, max_new_tokens, loops) for _ in range(len(batch))]

    def ended(input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        for writing, row in zip(writings, input_ids[:, prompt_length:].tolist(), strict=True):
            writing.add_all(row[len(writing.ids) :])
        return torch.tensor([writing.stop is not None for writing in writings], device=input_ids.device)

    limits = {} if deadline is None else {"max_time": max(deadline - time.monotonic(), 0.0)}
    model.generate(
        **batch.prompts,
        max_new_tokens=max_new_tokens,
        do_sample=False,
        num_beams=1,
        use_cache=True,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        stopping_criteria=StoppingCriteriaList([ended]),
        **limits,
    )
    if any(writing.stop is None for writing in writings):
        return None
    return [finished(writing, tokenizer) for writing in writings]
