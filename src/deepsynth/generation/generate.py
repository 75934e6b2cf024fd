"""One batch in, its texts out."""

from __future__ import annotations

from typing import Any, Literal

from deepsynth.generation.by_transformers import generate_by_transformers
from deepsynth.generation.decoder import Decoder
from deepsynth.generation.model_runner import Reader
from deepsynth.generation.results import Generation
from deepsynth.generation.texts import LoopRule
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
    loops: LoopRule | None = None,
) -> list[Generation] | None:
    """Write the text of every sample of a batch, greedily.

    Args:
        model: a Hugging Face model, or peft's around one.
        tokenizer: decodes what it writes.
        batch: its prompts (B, P) are read, padded at the left.
        max_new_tokens: per sample.
        deadline: :func:`time.monotonic` at which to give up.
        implementation: ``deepsynth``, the decoder of this package; ``transformers``, the model's own ``generate``;
            ``auto``, the first for the models that it knows.
        loops: the rule that ends a text that repeats itself; ``None`` lets it run.

    Returns:
        B generations; ``None`` when the deadline cut them short.
    """
    if not decodes(model, implementation):
        return generate_by_transformers(
            model, tokenizer, batch, max_new_tokens=max_new_tokens, loops=loops, deadline=deadline
        )
    decoder = Decoder(model, tokenizer, slots=len(batch), loops=loops)
    decoder.submit(batch, max_new_tokens)
    return decoder.advance(drain=True, deadline=deadline)


def decodes(model: Any, implementation: Implementation) -> bool:
    """Return whether this package's decoder is to write a model's texts."""
    return implementation == "deepsynth" or (implementation == "auto" and Reader.fits(model))
