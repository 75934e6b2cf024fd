"""Batches that cost nothing to make: one page and N text tokens a sample, on the device."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch

from deepsynth.data.processing.collator import Collator
from deepsynth.data.processing.processor import IGNORED_LABEL
from deepsynth.types import Batch, Sample

Pages = Literal["new", "repeated"]


@dataclass(frozen=True)
class SyntheticBatches:
    """Batches of one page and N text tokens a sample, made in place, so that no loading is in the figure.

    A page is the size of the model's mode. Its ids are random words of the model's whole vocabulary, so that routers
    have something to route; its pixels are white with a unique shade, so that no two pages are equal.

    Attributes:
        sample: what the processor makes of an empty white page, without its images.
        images: of that sample, on the device.
        vocabulary: (W,) ids that may stand in a text.
        pad_token_id: of the tokenizer.
        batch_size: B.
        text_tokens: N of a sample, the final EOS among them.
        device: where the batches are made.
        seed: of ids and shades.
        pages: ``new`` ones in every batch, or the same ``repeated``, as in a later epoch.
        replayed: numbers of text tokens of the samples of one batch after the other, in place of ``text_tokens``.
        pad_to_multiple_of: as the collator's.
    """

    sample: Sample
    images: dict[str, torch.Tensor]
    vocabulary: torch.Tensor
    pad_token_id: int
    batch_size: int
    text_tokens: int
    device: torch.device
    seed: int = 0
    pages: Pages = "new"
    replayed: Sequence[Sequence[int]] = ()
    pad_to_multiple_of: int = 1

    def __getitem__(self, index: int) -> Batch:
        """Return a batch; the same index gives the same one."""
        index = 0 if self.pages == "repeated" else index
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + index)
        lengths = self.replayed[index] if self.replayed else [self.text_tokens] * self.batch_size
        samples = [self._one(generator, tokens) for tokens in lengths]
        batch = Collator(self.pad_token_id, self.pad_to_multiple_of)(samples)
        shades = torch.rand(len(samples), generator=generator).to(self.device)
        images = {}
        for name, image in self.images.items():
            images[name] = image.repeat(len(samples), *[1] * (image.dim() - 1))
            if image.is_floating_point():  # pixels: views of one sample after those of another
                images[name] -= shades.repeat_interleave(len(image)).view(-1, *[1] * (image.dim() - 1))
        names = [f"{index}-{row}" for row in range(len(samples))]
        return replace(
            batch.to(self.device),
            images=images,
            ids=names,
            document_ids=names,
        )

    def _one(self, generator: torch.Generator, text_tokens: int) -> Sample:
        places = torch.randint(len(self.vocabulary), (text_tokens - 1,), generator=generator)
        text = torch.cat([self.vocabulary[places], self.sample.input_ids[-1:]])
        prompt = self.sample.input_ids[: self.sample.prompt_length]
        return replace(
            self.sample,
            input_ids=torch.cat([prompt, text]),
            labels=torch.cat([torch.full_like(prompt, IGNORED_LABEL), text]),
            token_inputs={
                name: torch.cat([values[: len(prompt)], values.new_zeros(len(text))])
                for name, values in self.sample.token_inputs.items()
            },
        )

    @property
    def positions(self) -> int:
        """T of a sample: image, prompt and text."""
        return self.sample.prompt_length + self.text_tokens

    def take(self, count: int) -> SyntheticLoader:
        """Return a loader of the first batches, each made when it is asked for."""
        return SyntheticLoader(self, count)


@dataclass(frozen=True)
class SyntheticLoader:
    """A loader of the first synthetic batches.

    Attributes:
        batches: where they come from.
        count: how many.
    """

    batches: SyntheticBatches
    count: int

    def __len__(self) -> int:
        """Return the number of batches."""
        return self.count

    def __iter__(self) -> Iterator[Batch]:
        """Make one batch after another."""
        return (self.batches[index] for index in range(self.count))
