"""Values of pages that travel as bytes."""

from __future__ import annotations

import pytest
import torch

from deepsynth.io.pixels import look_up, pixel_values

#: Another value for each byte of each channel.
TABLE = torch.arange(3 * 256, dtype=torch.float32).view(3, 256)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("height", "width"), [(4, 4), (3, 5), (1, 3)])
def test_each_byte_has_the_value_of_its_channel(channels: int, height: int, width: int) -> None:
    views = torch.randint(0, 256, (2, channels, height, width), dtype=torch.uint8)
    found = look_up(views, TABLE.to(torch.float64))
    assert found.dtype == torch.float64
    assert torch.equal(found, views + 256.0 * torch.arange(3).view(3, 1, 1).double())


def test_what_is_no_bytes_stays() -> None:
    images = {"pixel_values": torch.zeros(1, 1, 2, 2, dtype=torch.uint8), "patches_grid": torch.ones(1, 2).int()}
    assert pixel_values(images, None) == images
    found = pixel_values(images, TABLE)
    assert found["pixel_values"].shape == (1, 3, 2, 2)
    assert found["patches_grid"] is images["patches_grid"]
