"""Keys and values of the rows that are being generated, in one tensor that never moves while it suffices.

R  rows at work (the first R slots)    S  slots             L  positions
T  tokens of a prompt                  D  decoder layers    H  heads of keys    d  width of a head
W  tokens of a window over the text    n  tokens of a row's prompt
"""

from __future__ import annotations

from typing import Any

import torch

#: Positions by which the cache grows: few growths, few different shapes.
GROWTH = 256


def bytes_per_position(config: Any, dtype: torch.dtype) -> int:
    """Return what a row's keys and values of one position take in a decoder.

    Args:
        config: of the decoder.
        dtype: of the values.
    """
    width: int = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return 2 * int(config.num_hidden_layers) * int(config.num_key_value_heads) * width * dtype.itemsize


class RowCache:
    """A static cache (D, 2, S, H, L, d): a row's token at position p lies at index p, whatever its neighbors do.

    It stands in for transformers' ``Cache`` in the decoder's attention, which only calls :meth:`update`. What that does
    is set before: :meth:`fill` writes whole prompts, :meth:`extend` one token a row.

    With a window, the W tokens behind a row's prompt of n have the places n to n + W - 1 in turn: the token at position
    n + W lies where the first one of the text was, which nothing sees any more. Keys are rotated before they come here,
    so that their order does not matter.

    Args:
        layers: D.
        slots: S.
        device: of the model.
        window: W, for a decoder that sees the prompt and the last W tokens of the text; ``None`` where it sees all.
    """

    def __init__(self, layers: int, slots: int, device: torch.device, window: int | None = None) -> None:
        self.layers = layers
        self.slots = slots
        self.window = window
        self._prompts = torch.zeros(slots, dtype=torch.long, device=device)  # n of each slot, for captured steps
        self._prompt_lengths = [0] * slots
        #: What positions differ by from places, for each slot, where a decoder's positions are not those of its tokens.
        self.shifts = torch.zeros(slots, dtype=torch.long, device=device)
        self.length = 0
        #: How often the tensor has moved: what was captured before reads where it was.
        self.moves = 0
        self._states: torch.Tensor | None = None
        self._filled: torch.Tensor | None = None
        self._slots = torch.arange(slots, device=device)  # made once: a captured graph keeps reading it
        self._rows = 0
        self._positions: torch.Tensor | int = 0
        self._seen = 0

    @property
    def nbytes(self) -> int:
        """The bytes of all slots; 0 before the first keys and values."""
        return 0 if self._states is None else self._states.nbytes

    def reserve(self, length: int) -> None:
        """Make room for ``length`` positions."""
        if length <= self.length:
            return
        self.moves += 1
        self.length = -(-length // GROWTH) * GROWTH
        if self._states is None:
            return
        before = self._states
        self._states = before.new_zeros(*before.shape[:4], self.length, before.shape[5])
        self._states[..., : before.shape[4], :] = before

    def fill(self, slots: torch.Tensor) -> None:
        """Write the next keys and values of prompts, padded at the right, from position 0 of these slots on."""
        self._filled = slots

    def begin(self, slots: list[int], lengths: list[int]) -> None:
        """Note the tokens of the prompts that these slots get, behind which the window begins."""
        for slot, length in zip(slots, lengths, strict=True):
            self._prompt_lengths[slot] = length
        if self.window is not None:
            places = torch.tensor(slots, device=self._prompts.device)
            self._prompts[places] = torch.tensor(lengths, device=self._prompts.device)

    def needed(self, positions: list[int]) -> int:
        """Return the length of the cache that the first rows need for tokens at these positions."""
        if self.window is None:
            return max(positions) + 1
        ends = (length + self.window for length in self._prompt_lengths)
        return max(min(position + 1, end) for position, end in zip(positions, ends, strict=False))

    def are_places(self, positions: list[int]) -> bool:
        """Return whether tokens at these positions of the first rows still lie at indices of the same number."""
        return self.window is None or all(
            position < length + self.window for position, length in zip(positions, self._prompt_lengths, strict=False)
        )

    def places(self, positions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the indices of the first rows' tokens at these positions (R,), and the last index that each sees."""
        if self.window is None:
            return positions, positions
        prompts = self._prompts[: len(positions)]
        written = positions - prompts
        # An idle row of a captured step has position 0, and may have had a prompt.
        places = torch.where(written < self.window, positions, prompts + written % self.window)
        return places, torch.minimum(positions, prompts + self.window - 1)

    def extend(self, rows: int, positions: torch.Tensor | int, seen: int) -> None:
        """Write the next keys and values of one token a row, and show the rows' first ``seen`` positions.

        Args:
            rows: R.
            positions: (R,) of the new tokens; a number when it is the same for all, which is cheaper.
            seen: positions that the attention gets to see; what is beyond a row's own is for its mask to hide.
        """
        self._filled = None
        self._rows, self._positions, self._seen = rows, positions, seen

    def update(
        self, keys: torch.Tensor, values: torch.Tensor, layer: int, *args: object, **kwargs: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write a layer's keys and values (R, H, T, d), return those that its attention shall see."""
        if self._states is None:
            _, heads, _, width = keys.shape
            # Zeros, not rubbish: what a mask hides is multiplied by 0, and rubbish may be NaN. In the type of the
            # values: rotation makes float32 of keys under autocast, and attention casts them back.
            self._states = values.new_zeros(self.layers, 2, self.slots, heads, self.length, width)
        own = self._states[layer]
        keys, values = keys.to(own.dtype), values.to(own.dtype)
        if self._filled is not None:
            own[0, self._filled, :, : keys.shape[2]] = keys
            own[1, self._filled, :, : keys.shape[2]] = values
            return keys, values
        rows = self._rows
        if isinstance(self._positions, int):
            own[0, :rows, :, self._positions] = keys[:, :, 0]
            own[1, :rows, :, self._positions] = values[:, :, 0]
        else:
            place = self._slots[:rows], self._positions
            own[0].transpose(1, 2)[place] = keys[:, :, 0]
            own[1].transpose(1, 2)[place] = values[:, :, 0]
        return own[0, :rows, :, : self._seen], own[1, :rows, :, : self._seen]

    def move(self, source: int, target: int, length: int) -> None:
        """Copy the first ``length`` positions of a slot to another."""
        assert self._states is not None
        self._prompt_lengths[target] = self._prompt_lengths[source]
        self.shifts[target] = self.shifts[source]
        if self.window is not None:
            self._prompts[target] = self._prompts[source]
            length = min(length, self._prompt_lengths[source] + self.window)
        self._states[:, :, target, :, :length] = self._states[:, :, source, :, :length]
