"""Positions of the tokens of images by their grids, and of the text around them.

    B  rows     T  tokens of a row     V  images of the batch     I  image tokens of the batch

A token of a text has the same position in time, height and width. The tokens of an image have that of its first one,
plus their row in height and their column in width; what follows the image goes on behind its longer side. Each model of
transformers computes this in a loop over tokens that waits for the device at every image; here tokens on the host are
enough, and on a device it is waited for once.
"""

from __future__ import annotations

import torch


def grid_positions(
    mask: torch.Tensor, grids: torch.Tensor, merge: int, starts: torch.Tensor | None = None
) -> torch.Tensor:
    """Return the positions in time, height and width, (3, B, T).

    Padding at the right counts on; whatever it has, nothing looks at it.

    Args:
        mask: (B, T) bool, the image tokens.
        grids: (V, 3) patches of each image in time (1), height and width, in the order of the images; on any device.
        merge: patches in a row or column of a token.
        starts: (B, T) bool, where the sequences of packed rows begin; by default where rows do.
    """
    grids = grids.to(mask.device)
    heights, widths = grids[:, 1] // merge, grids[:, 2] // merge
    counts = heights * widths
    slots = mask.flatten().nonzero()[:, 0]  # (I,)
    ends = counts.cumsum(0)
    image = torch.repeat_interleave(counts, output_size=len(slots))  # of each slot
    place = torch.arange(len(slots), device=mask.device) - (ends - counts)[image]
    steps = (~mask).long().flatten()
    steps[slots[ends - 1]] = torch.maximum(heights, widths)
    steps = steps.view(mask.shape)
    begins = steps.cumsum(1) - steps
    if starts is not None:
        # What has been counted when the last sequence began: counts never fall, so it is the largest so far.
        begins = begins - torch.where(starts, begins, 0).cummax(1).values
    positions = begins.expand(3, *mask.shape).clone().view(3, -1)
    positions[1, slots] += place // widths[image]
    positions[2, slots] += place % widths[image]
    return positions.view(3, *mask.shape)
