"""Models and pages for tests of decoding."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import torch

from deepsynth.data import Collator, OcrProcessor, TextRenderer
from deepsynth.generation import Decoder, Generation, RepetitionCriterion, generate
from deepsynth.models.registry import load_pretrained
from deepsynth.types import Batch, Document, Sample

TEXT = (
    "the lamp was lit and nobody came down from the old gray house by the water so we went on reading aloud until "
    "it grew too dark to see the page; “Who is there?” she asked, in 1897, but the wind alone gave her an answer"
)


def load(name: str, dtype: torch.dtype = torch.float32, device: str = "cpu") -> Any:
    """Return a model in evaluation mode."""
    from transformers import AutoModelForImageTextToText

    return load_pretrained(AutoModelForImageTextToText, name, dtype=dtype).to(device).eval()


def texts(count: int, seed: int = 0, longest: int = 24) -> list[str]:
    """Return texts of different lengths."""
    rng = random.Random(seed)
    return [" ".join(rng.choices(TEXT.split(), k=rng.randint(2, longest))) for _ in range(count)]


def samples(name: str, count: int, *, pages: int = 1, seed: int = 0, longest: int = 24, **kwargs: Any) -> list[Sample]:
    """Return samples of rendered pages; with several ``pages``, of as many as the number of the sample allows."""
    processor = OcrProcessor(name, **kwargs)
    side = processor.layout.base_size
    renderer = TextRenderer(page_width_px=side, page_height_px=side, margin_px=10, font_size_px=12.0)
    from numpy.random import default_rng

    found: list[Sample] = []
    for number, text in enumerate(texts(count, seed, longest)):
        document = Document(id=f"d{number}", text=text, target=None if pages == 1 else text)
        drawn = renderer(document, default_rng(0))
        sample = processor(document, [drawn[0]] * (1 + number % pages))
        assert sample is not None
        found.append(sample)
    return found


def tokenizer_of(name: str) -> Any:
    """Return the tokenizer of a model."""
    return OcrProcessor(name).hf_processor.tokenizer


def batch_of(name: str, of: Sequence[Sample], device: str = "cpu", dtype: torch.dtype = torch.float32) -> Batch:
    """Return samples as a batch on a device."""
    batch = Collator(tokenizer_of(name).pad_token_id)(of)
    return batch.map_tensors(
        lambda tensor: tensor.to(device, dtype) if tensor.is_floating_point() else tensor.to(device)
    )


def read(model: Any, name: str, batch: Batch, most: int, implementation: Any = "deepsynth") -> list[Generation]:
    """Return what a model writes for a batch."""
    generations = generate(model, tokenizer_of(name), batch, max_new_tokens=most, implementation=implementation)
    assert generations is not None
    return generations


def stream(
    model: Any, name: str, of: Sequence[Sample], most: int, slots: int, submitted: int, **kwargs: Any
) -> list[Generation]:
    """Return what a decoder of few slots writes for batches that come one after the other."""
    device, dtype = str(model.device), model.dtype
    decoder = Decoder(model, tokenizer_of(name), slots=slots, **kwargs)
    found: list[Generation] = []
    for first in range(0, len(of), submitted):
        decoder.submit(batch_of(name, of[first : first + submitted], device, dtype), most)
        found += decoder.advance(drain=first + submitted >= len(of)) or []
    assert len(decoder) == 0
    return found


__all__ = ["RepetitionCriterion", "batch_of", "load", "read", "samples", "stream", "texts", "tokenizer_of"]
