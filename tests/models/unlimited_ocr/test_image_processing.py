"""Unlimited-OCR's global view is stretched where it is small and alone, and padded otherwise."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from PIL import Image

from deepsynth.models.unlimited_ocr.image_processing import UnlimitedOcrImageProcessor

WIDE = Image.new("RGB", (64, 32))  # black


def view(**settings: Any) -> np.ndarray[Any, Any]:
    """Return the bytes of the middle column of a global view."""
    found = UnlimitedOcrImageProcessor(do_normalize=False)(images=[WIDE], return_tensors="np", **settings)
    column: np.ndarray[Any, Any] = found["pixel_values"][0, 0, :, found["pixel_values"].shape[3] // 2]
    return column


@pytest.mark.parametrize(
    ("settings", "stretched"),
    [
        ({"size": {"height": 512, "width": 512}, "crop_to_patches": False}, True),
        ({"size": {"height": 640, "width": 640}, "crop_to_patches": False}, True),  # the most that it is by default
        ({"size": {"height": 672, "width": 672}, "crop_to_patches": False}, False),
        ({"size": {"height": 512, "width": 512}, "crop_to_patches": True}, False),
        ({"size": {"height": 512, "width": 512}, "crop_to_patches": False, "maximum_pad_value": 511}, False),
        ({"size": {"height": 672, "width": 672}, "crop_to_patches": False, "maximum_pad_value": 672}, True),
    ],
)
def test_a_small_view_without_tiles_is_stretched(settings: dict[str, Any], stretched: bool) -> None:
    column = view(**settings)
    assert len(column) == settings["size"]["height"]
    assert (column == 0).mean() == (1.0 if stretched else 0.5)  # half of a padded view is the gray of the mean
    assert set(column.tolist()) == ({0} if stretched else {0, 127})


def test_it_has_up_to_32_tiles_and_keeps_its_settings() -> None:
    found = UnlimitedOcrImageProcessor()(images=[Image.new("RGB", (7000, 1400))], return_tensors="np")
    assert found["patches_grid"].tolist() == [[10, 2]]  # of the shape of the page, with more tiles than nine
    settings = UnlimitedOcrImageProcessor().to_dict()
    assert (settings["maximum_pad_value"], settings["max_patches"], settings["min_patches"]) == (640, 32, 2)
    assert "stretch" not in settings
