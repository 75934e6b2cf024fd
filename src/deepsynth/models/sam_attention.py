"""SAM's relative positions, in one product.

    X  views or windows times heads     s  positions along a side, s * s in all     D  width of a head

Attention gets a bias for every pair of positions, the sum of one number for the distance in height and one for that in
width. transformers adds them by broadcasting, into memory that attention then has to copy, which is bound by neither
arithmetic nor memory but by how torch walks five axes. A product with a matrix of zeros and ones writes the same sums in
the order in which attention reads them.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


def speed_up(vision: nn.Module) -> None:
    """Let the layers of SAM in ``vision`` make their bias this way; the numbers stay the same, bit by bit."""
    for module in vision.modules():
        if type(module).__name__.endswith("SamVisionSdpaAttention") and module.use_rel_pos:
            module.get_decomposed_rel_pos = _RelativePositions(module)


class _RelativePositions:
    """Stands in for a method of transformers' attention layer."""

    def __init__(self, layer: Any) -> None:
        self.layer = layer

    def __call__(
        self,
        query: torch.Tensor,
        rel_pos_h: torch.Tensor,
        rel_pos_w: torch.Tensor,
        q_size: tuple[int, int],
        k_size: tuple[int, int],
    ) -> torch.Tensor:
        """Return the bias (X, s, s, s, s).

        Args:
            query: (X, s * s, D).
            rel_pos_h: (2 * s - 1, D) for each distance in height.
            rel_pos_w: the same in width.
            q_size: height and width of the queries.
            k_size: and of the keys.
        """
        places = query.view(len(query), *q_size, -1)
        heights = self._table(q_size[0], k_size[0], rel_pos_h)
        widths = self._table(q_size[1], k_size[1], rel_pos_w)
        of_height = torch.einsum("xhwd,hkd->xhwk", places, heights)
        of_width = torch.einsum("xhwd,wkd->xhwk", places, widths)
        both = torch.cat([of_height, of_width], dim=-1)
        rows, columns = (torch.eye(size, dtype=both.dtype, device=both.device) for size in k_size)
        spread = torch.cat(
            [
                rows[:, :, None].expand(-1, -1, k_size[1]).flatten(1),
                columns[:, None].expand(-1, k_size[0], -1).flatten(1),
            ]
        )
        return (both.view(len(query), -1, both.shape[-1]) @ spread).view(len(query), *q_size, *k_size)

    def _table(self, queries: int, keys: int, table: torch.Tensor) -> torch.Tensor:
        """Return (queries, keys, D)."""
        if queries != keys or len(table) != 2 * keys - 1:  # another size than the model was made for
            resized: torch.Tensor = self.layer.get_rel_pos(queries, keys, table)
            return resized
        place = torch.arange(keys, device=table.device)
        return table[place[:, None] - place[None] + keys - 1]
