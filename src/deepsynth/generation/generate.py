"""Texts of one batch, by this package's decoder or by transformers' own ``generate``.

Shapes are explained in :mod:`deepsynth.types`.
"""

from __future__ import annotations

import time
from typing import Any, Literal

import torch

from deepsynth.generation.decoder import Decoder
from deepsynth.generation.model_runner import ModelRunner
from deepsynth.generation.texts import Generation, GenerationState, RepetitionCriterion, TextFrame, to_generation
from deepsynth.models.registry import family_of
from deepsynth.types import Batch

Implementation = Literal["auto", "deepsynth", "transformers"]


def generate(
    model: Any,
    tokenizer: Any,
    batch: Batch,
    *,
    max_new_tokens: int,
    deadline: float | None = None,
    implementation: Implementation = "auto",
    repetition: RepetitionCriterion | None = None,
    frame: TextFrame | None = None,
) -> list[Generation] | None:
    """Generate the text of every sample of a batch, greedily.

    Args:
        model: a Hugging Face model, or peft's around one.
        tokenizer: decodes the generated tokens.
        batch: with prompts (B, P), padded at the left.
        max_new_tokens: per sample.
        deadline: :func:`time.monotonic` at which to give up.
        implementation: ``deepsynth``, the decoder of this package; ``transformers``, the model's own ``generate``;
            ``auto``, the first for the models that it knows.
        repetition: the criterion that ends a text that repeats itself; ``None`` lets it run.
        frame: of the texts; by default they end with the tokenizer's EOS.

    Returns:
        B generations; ``None`` when the deadline cut them short.
    """
    frame = frame or TextFrame((tokenizer.eos_token_id,))
    if not decodes(model, implementation):
        return _generate_by_transformers(
            model, tokenizer, batch, frame, max_new_tokens=max_new_tokens, repetition=repetition, deadline=deadline
        )
    decoder = Decoder(model, tokenizer, slots=len(batch), frame=frame, repetition=repetition)
    decoder.submit(batch, max_new_tokens)
    return decoder.advance(drain=True, deadline=deadline)


def decodes(model: Any, implementation: Implementation) -> bool:
    """Return whether this package's decoder generates the texts of a model."""
    return implementation == "deepsynth" or (implementation == "auto" and ModelRunner.fits(model))


@torch.inference_mode()
def _generate_by_transformers(
    model: Any,
    tokenizer: Any,
    batch: Batch,
    frame: TextFrame,
    *,
    max_new_tokens: int,
    repetition: RepetitionCriterion | None = None,
    deadline: float | None = None,
) -> list[Generation] | None:
    """Generate the text of every sample of a batch, greedily; arguments and result as for :func:`generate`."""
    from transformers import LogitsProcessorList, StoppingCriteriaList

    prompt_length = batch.prompt_tokens["input_ids"].shape[1]
    states = [GenerationState(frame, max_new_tokens, repetition) for _ in range(len(batch))]

    logprobs: list[torch.Tensor] = []  # of every step (B,)

    def note(input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Keep the log-probability of the token that is chosen next; all logits of a text would not fit."""
        logits = scores.float()
        logprobs.append(logits.amax(-1) - logits.logsumexp(-1))
        return scores

    def ended(input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        for state, row in zip(states, input_ids[:, prompt_length:].tolist(), strict=True):
            state.add_all(row[len(state.ids) :])
        return torch.tensor([state.stop is not None for state in states], device=input_ids.device)

    limits = {} if deadline is None else {"max_time": max(deadline - time.monotonic(), 0.0)}
    model.generate(
        **family_of(model.config).arguments(batch.prompts),
        max_new_tokens=max_new_tokens,
        do_sample=False,
        num_beams=1,
        use_cache=True,
        pad_token_id=next(iter(frame.stops)) if tokenizer.pad_token_id is None else tokenizer.pad_token_id,
        eos_token_id=list(frame.stops),
        logits_processor=LogitsProcessorList([note]),
        stopping_criteria=StoppingCriteriaList([ended]),
        **limits,
    )
    if any(state.stop is None for state in states):
        return None
    by_row = torch.stack(logprobs, 1).tolist()
    return [to_generation(state, tokenizer, row) for state, row in zip(states, by_row, strict=True)]
