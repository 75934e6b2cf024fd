"""Batches of samples: right-padded or packed for training, left-padded prompts for generation.

Shapes are explained in :mod:`deepsynth.types`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch.nn.functional import pad
from torch.utils.data import get_worker_info

from deepsynth.data.processing.processor import IGNORED_LABEL
from deepsynth.errors import UserError
from deepsynth.types import Batch, Sample


@dataclass(frozen=True)
class Collator:
    """Pads samples to the longest of the batch and joins their views.

    Args:
        pad_token_id: id that fills ``input_ids``; the attention mask hides it.
        pad_to_multiple_of: multiple to which T is rounded up, so that kernels get few different shapes.
        packed: put all samples into one row, with ``position_ids`` that start at 0 for each of them; the padding at the
            end is a sequence of its own.
    """

    pad_token_id: int = 0
    pad_to_multiple_of: int = 1
    packed: bool = False

    def __post_init__(self) -> None:
        """Raise ``UserError`` for a multiple below 1."""
        if self.pad_to_multiple_of < 1:
            raise UserError(f"data.pad_to_multiple_of is {self.pad_to_multiple_of}; it must be at least 1")

    def __call__(self, samples: Sequence[Sample]) -> Batch:
        """Return inputs (B, T) padded at the right, or packed (1, T), and prompts (B, P) padded at the left.

        Raises:
            ValueError: for an empty list.
        """
        if not samples:
            raise ValueError("a batch needs at least one sample")
        prompt_length = max(sample.prompt_length for sample in samples)
        prompt_ids = torch.full((len(samples), prompt_length), self.pad_token_id)
        prompt_mask = torch.zeros_like(prompt_ids)
        for row, sample in enumerate(samples):
            prompt = sample.prompt_length
            prompt_ids[row, prompt_length - prompt :] = sample.input_ids[:prompt]
            prompt_mask[row, prompt_length - prompt :] = 1
        prompt_tokens = {"input_ids": prompt_ids, "attention_mask": prompt_mask}
        for name in _token_inputs(samples):
            values = [sample.token_inputs[name][: sample.prompt_length] for sample in samples]
            prompt_tokens[name] = torch.stack([pad(own, (prompt_length - len(own), 0)) for own in values])
        batch = Batch(
            tokens=self._pack(samples) if self.packed else self._pad(samples),
            prompt_tokens=prompt_tokens,
            images=self._join_images(samples),
            targets=[sample.target for sample in samples],
            ids=[sample.id for sample in samples],
            document_ids=[sample.document_id for sample in samples],
            pages=[sample.page for sample in samples],
            languages=[sample.language for sample in samples],
            sources=[sample.source for sample in samples],
            prompt_texts=[sample.prompt for sample in samples],
            pixel_table=samples[0].pixel_table,
            sizes=[sample.sizes for sample in samples],
        )
        return batch if get_worker_info() is None else in_shared_memory(batch)

    def _round_up(self, length: int) -> int:
        return -(-length // self.pad_to_multiple_of) * self.pad_to_multiple_of

    def _pad(self, samples: Sequence[Sample]) -> dict[str, torch.Tensor]:
        """Return one row a sample, (B, T)."""
        length = self._round_up(max(len(sample.input_ids) for sample in samples))
        input_ids = torch.full((len(samples), length), self.pad_token_id)
        attention_mask = torch.zeros_like(input_ids)
        labels = torch.full_like(input_ids, IGNORED_LABEL)
        for row, sample in enumerate(samples):
            size = len(sample.input_ids)
            input_ids[row, :size] = sample.input_ids
            attention_mask[row, :size] = 1
            labels[row, :size] = sample.labels
        tokens = {"input_ids": input_ids, "attention_mask": attention_mask, "labels": labels}
        for name in _token_inputs(samples):
            values = [sample.token_inputs[name] for sample in samples]
            tokens[name] = torch.stack([pad(own, (0, length - len(own))) for own in values])
        return tokens

    def _pack(self, samples: Sequence[Sample]) -> dict[str, torch.Tensor]:
        """Return all samples in one row, (1, T)."""
        sizes = [len(sample.input_ids) for sample in samples]
        rest = self._round_up(sum(sizes)) - sum(sizes)
        labels = [sample.labels.clone() for sample in samples]
        for own in labels:
            own[0] = IGNORED_LABEL  # the last token of the sample before does not predict it
        joined = {
            "input_ids": [*(sample.input_ids for sample in samples), torch.full((rest,), self.pad_token_id)],
            "attention_mask": [torch.ones(sum(sizes), dtype=torch.long), torch.zeros(rest, dtype=torch.long)],
            "labels": [*labels, torch.full((rest,), IGNORED_LABEL)],
            "position_ids": [torch.arange(size) for size in [*sizes, rest]],
        }
        for name in _token_inputs(samples):
            values = [sample.token_inputs[name] for sample in samples]
            joined[name] = [*values, values[0].new_zeros(rest)]
        return {name: torch.cat(parts)[None] for name, parts in joined.items()}

    @staticmethod
    def _join_images(samples: Sequence[Sample]) -> dict[str, torch.Tensor]:
        """Concatenate every image input along its first axis; samples without it (no image, no tiles) add nothing.

        Views in gray get three channels where another sample has color. What else differs in size, such as the number
        of tiles or the sides of images that keep their shape, is filled up with zeros, as Hugging Face's processors do.
        """
        joined = {}
        for name in dict.fromkeys(name for sample in samples for name in sample.images):
            parts = [sample.images[name] for sample in samples if name in sample.images]
            as_bytes = any(sample.pixel_table is not None for sample in samples)
            if as_bytes and len({part.shape[1:] for part in parts}) > 1:
                parts = [part.expand(-1, 3, -1, -1) for part in parts]
            joined[name] = torch.cat(_filled_up(parts))
        return joined


def _token_inputs(samples: Sequence[Sample]) -> list[str]:
    """Return the names of the inputs with a value for each token."""
    return list(samples[0].token_inputs)


def _filled_up(parts: list[torch.Tensor]) -> list[torch.Tensor]:
    """Return tensors with zeros behind the ends of all their axes but the first, up to the largest."""
    shapes = {part.shape[1:] for part in parts}
    if len(shapes) == 1:
        return parts
    largest = [max(sizes) for sizes in zip(*shapes, strict=True)]
    return [
        pad(part, [n for most, own in zip(largest[::-1], part.shape[:0:-1], strict=True) for n in (0, most - own)])
        for part in parts
    ]


def in_shared_memory(batch: Batch) -> Batch:
    """Put a batch of a worker where the main process reads it.

    torch would do it, in a thread of the worker: where there is no room, that thread dies and the run waits for ever.

    Raises:
        UserError: when there is no room.
    """
    try:
        return batch.map_tensors(lambda tensor: cast(Any, tensor).share_memory_())
    except RuntimeError as error:
        raise UserError(
            f"the shared memory has no room for a batch of a worker ({str(error).splitlines()[0]}); enlarge /dev/shm "
            "(docker run --shm-size), or set data.num_workers=0 or a smaller data.batch_size"
        ) from error
