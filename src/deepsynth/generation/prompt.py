"""A sample that waits for its text."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(slots=True)
class Prompt:
    """A sample that waits for generation.

    Attributes:
        ids: (T,) without padding.
        features: (image tokens, H) what stands in for its image tokens; ``None`` without pages.
        positions: (3, T) in time, height and width, where the decoder has such; ``None`` where it counts tokens.
    """

    ids: torch.Tensor
    features: torch.Tensor | None
    positions: torch.Tensor | None = None

    def __len__(self) -> int:
        """Return T."""
        return len(self.ids)
