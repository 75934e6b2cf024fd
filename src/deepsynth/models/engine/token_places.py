"""Where the tokens of a batch are, found on the host: reading it from a GPU would wait for all that it has to do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch

from deepsynth.models.engine.grid_positions import grid_positions
from deepsynth.models.kernels.packed_attention import boundaries


class TokenPlaces(NamedTuple):
    """Places of a batch's tokens.

    Attributes:
        predicting: (L,) places in all tokens of the batch, row after row, whose next token is a label; on the device.
        slots: number of image tokens.
        bounds: (sequences + 1,) int32, where the sequences of a packed row begin, and its end, on the device; ``None``
            for rows that are not packed.
        lengths: tokens of each sequence of a packed row.
        used: whether each of them is a sample, and not padding.
        labels: (B, T), where they were read from.
        positions: of tokens in time, height and width (3, B, T), or for a packed row (4, 1, T), its own places first;
            on the device; ``None`` where there are no grids.
    """

    predicting: torch.Tensor
    slots: int
    bounds: torch.Tensor | None = None
    lengths: Sequence[int] = ()
    used: Sequence[bool] = ()
    labels: torch.Tensor | None = None
    positions: torch.Tensor | None = None


def find_places(
    tokens: Mapping[str, torch.Tensor],
    image_token: int,
    device: torch.device,
    grids: torch.Tensor | None = None,
    merge: int = 1,
) -> TokenPlaces:
    """Return the places of a batch's tokens.

    Args:
        tokens: ``input_ids`` (B, T), ``labels`` (B, T), -100 where nothing is learned; of a packed row also
            ``position_ids`` (1, T) and ``attention_mask`` (1, T). On the host, unless waiting is fine.
        image_token: id of the tokens that images take the place of.
        device: of the model.
        grids: (V, 3) patches of each image in time, height and width, on the host.
        merge: patches in a row or column of a token.
    """
    labels = tokens["labels"]
    images = tokens["input_ids"] == image_token
    positions = None
    if grids is not None and len(grids):
        positions = moved(_positions(images, grids, merge, tokens.get("position_ids")), device)
    rows, columns = (labels[:, 1:] != -100).nonzero(as_tuple=True)
    predicting = moved(rows * labels.shape[1] + columns, device)
    slots = int(images.sum())
    if "position_ids" not in tokens:
        return TokenPlaces(predicting, slots, labels=labels, positions=positions)
    bounds = boundaries(tokens["position_ids"])
    used = tokens["attention_mask"][0, bounds[:-1].long()]
    lengths = bounds.diff().tolist()
    return TokenPlaces(predicting, slots, moved(bounds, device), lengths, used.bool().tolist(), labels, positions)


def _positions(images: torch.Tensor, grids: torch.Tensor, merge: int, places: torch.Tensor | None) -> torch.Tensor:
    """Return the positions of rows, or of a packed row with its own places (1, T) first."""
    if places is None:
        return grid_positions(images, grids, merge)
    return torch.cat([places[None], grid_positions(images, grids, merge, places == 0)])


def moved(found: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Return a tensor on the device, to where it is copied from pinned memory: only then nobody waits."""
    return (found.pin_memory() if device.type == "cuda" != found.device.type else found).to(device, non_blocking=True)
