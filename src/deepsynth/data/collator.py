"""From samples to a batch: right-padded for training, left-padded prompts for generation.

Shapes are explained in :mod:`deepsynth.types`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from deepsynth.data.processor import IGNORED_LABEL
from deepsynth.types import Batch, Sample


@dataclass(frozen=True)
class Collator:
    """Pads samples to the longest of the batch and joins their views.

    Args:
        pad_token_id: fills ``input_ids``; the attention mask hides it.
        pad_to_multiple_of: rounds T up, so that kernels meet few different shapes.
    """

    pad_token_id: int = 0
    pad_to_multiple_of: int = 1

    def __post_init__(self) -> None:
        """Raise ``ValueError`` for a multiple below 1."""
        if self.pad_to_multiple_of < 1:
            raise ValueError(f"data.pad_to_multiple_of is {self.pad_to_multiple_of}; it must be at least 1")

    def __call__(self, samples: Sequence[Sample]) -> Batch:
        """Return inputs (B, T) padded at the right and prompts (B, P) padded at the left.

        Raises:
            ValueError: for an empty list.
        """
        if not samples:
            raise ValueError("a batch needs at least one sample")
        length = max(len(sample.input_ids) for sample in samples)
        length = -(-length // self.pad_to_multiple_of) * self.pad_to_multiple_of
        prompt_length = max(sample.prompt_length for sample in samples)
        input_ids = torch.full((len(samples), length), self.pad_token_id)
        attention_mask = torch.zeros_like(input_ids)
        labels = torch.full_like(input_ids, IGNORED_LABEL)
        prompt_ids = torch.full((len(samples), prompt_length), self.pad_token_id)
        prompt_mask = torch.zeros_like(prompt_ids)
        for row, sample in enumerate(samples):
            size, prompt = len(sample.input_ids), sample.prompt_length
            input_ids[row, :size] = sample.input_ids
            attention_mask[row, :size] = 1
            labels[row, :size] = sample.labels
            prompt_ids[row, prompt_length - prompt :] = sample.input_ids[:prompt]
            prompt_mask[row, prompt_length - prompt :] = 1
        images = self._join_images(samples)
        return Batch(
            inputs={"input_ids": input_ids, "attention_mask": attention_mask, "labels": labels, **images},
            prompts={"input_ids": prompt_ids, "attention_mask": prompt_mask, **images},
            targets=[sample.target for sample in samples],
            ids=[sample.id for sample in samples],
            document_ids=[sample.document_id for sample in samples],
            pages=[sample.page for sample in samples],
            languages=[sample.language for sample in samples],
            sources=[sample.source for sample in samples],
            prompt=samples[0].prompt,
        )

    @staticmethod
    def _join_images(samples: Sequence[Sample]) -> dict[str, torch.Tensor]:
        """Concatenate every image input along its first axis; samples without it (no image, no tiles) add nothing."""
        names = dict.fromkeys(name for sample in samples for name in sample.images)
        return {name: torch.cat([s.images[name] for s in samples if name in s.images]) for name in names}
