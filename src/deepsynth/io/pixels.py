"""Bytes of pages, and the values that a model takes for them.

An image processor gives each byte of a channel one value. Bytes take a quarter of the memory of these values, and a
page in gray a third of that: so pages travel as bytes, and the values are looked up where the model is.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch


def look_up(views: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
    """Return the values of bytes (V, 1 or 3, S, S) as (V, 3, S, S), on their device and in the dtype of the table.

    Args:
        views: bytes of views, or of patches; a single channel stands for all three.
        table: (3, 256) values by channel and byte; or (3, F, 256) for patches that are taken as a row of 3 F S S
            values, with F frames of the same picture.
    """
    if table.dim() == 3:
        values = look_up(views, table[:, 0])
        return values[:, :, None].expand(-1, -1, table.shape[1], -1, -1).flatten(1)
    places = views.int()
    values = torch.empty(len(views), 3, *views.shape[2:], dtype=table.dtype, device=views.device)
    for channel in range(3):
        own = places[:, channel if views.shape[1] == 3 else 0]
        values[:, channel] = table[channel].index_select(0, own.reshape(-1)).view(own.shape)
    return values


def pixel_values(images: Mapping[str, torch.Tensor], table: torch.Tensor | None) -> dict[str, torch.Tensor]:
    """Return image inputs with the values of those that are bytes; without a table, as they are.

    Args:
        images: inputs by Hugging Face's names.
        table: values by channel and byte, as :func:`look_up` takes it.
    """
    if table is None:
        return dict(images)
    return {name: look_up(value, table) if value.dtype == torch.uint8 else value for name, value in images.items()}
