"""Counts of image tokens against the published tables."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepsynth.errors import UserError
from deepsynth.models.tokens import MODES, ImageLayout, image_layout

EXPECTED = json.loads((Path(__file__).parents[1] / "fixtures/deepseek_ocr_v1/preproc/expected.json").read_text())
SIDE = st.integers(1, 3000)


def test_tile_grids_equal_the_published_table() -> None:
    """Every size of the table, with 9 tiles (v1) and 6 (v2's number)."""
    wrong = {}
    for key, grid in EXPECTED["tile_grid_w_h_by_max_num_and_size"].items():
        limit, size = key.split(":")
        layout = replace(MODES["deepseek_ocr"]["gundam"], max_tiles=int(limit))
        width, height = map(int, size.split("x"))
        if list(layout.tile_grid(width, height)) != grid:
            wrong[key] = layout.tile_grid(width, height)
    assert not wrong


@pytest.mark.parametrize("case", EXPECTED["cases"])
def test_counts_equal_the_published_ones(case: str) -> None:
    """Counts of the prepared pages."""
    name, mode = case.split("/")
    width, height = map(int, name.split("_")[1].split("x"))
    expected = EXPECTED["cases"][case]
    layout = MODES["deepseek_ocr"][mode]
    assert layout.tokens(width, height) == expected["n_image_tokens"]
    assert list(layout.tile_grid(width, height)) == expected["ratio_w_h"]


def test_counts_of_the_modes() -> None:
    """The numbers that the model cards state."""
    one_view = {name: layout.tokens(300, 200) for name, layout in MODES["deepseek_ocr"].items()}
    assert one_view == {"tiny": 73, "small": 111, "base": 273, "large": 421, "gundam": 273}
    second = {name: layout.tokens(3000, 2000) for name, layout in MODES["deepseek_ocr2"].items()}
    assert second == {"small": 145, "base": 257, "gundam": 257 + 6 * 144}


def test_the_longest_side_that_loses_nothing() -> None:
    first, second = MODES["deepseek_ocr"], MODES["deepseek_ocr2"]
    assert {name: layout.longest_side for name, layout in first.items()} == {
        "tiny": 512, "small": 640, "base": 1024, "large": 1280, "gundam": 1920,  # three tiles of 640
    }  # fmt: skip
    assert second["gundam"].longest_side == 1536  # two of 768, as three times three would be nine


@given(SIDE, SIDE)
def test_tiled_images_stay_within_their_limits(width: int, height: int) -> None:
    """Two to nine tiles when a side exceeds 640, none otherwise."""
    layout = MODES["deepseek_ocr"]["gundam"]
    columns, rows = layout.tile_grid(width, height)
    assert (columns * rows == 1) == (max(width, height) <= 640)
    assert columns * rows <= 9
    assert layout.tokens(width, height) == (273 if columns * rows == 1 else 273 + 10 * rows * (10 * columns + 1))


@pytest.mark.parametrize(("width", "height"), [(0, 10), (10, 0), (-1, 5)])
def test_empty_images_are_refused(width: int, height: int) -> None:
    """No tokens for no pixels."""
    with pytest.raises(ValueError, match="at least 1"):
        MODES["deepseek_ocr"]["base"].tokens(width, height)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"base_size": 1000}, "multiple of the patch size 16"),
        ({"tile_size": 8}, "tile_size is 8"),
        ({"min_tiles": 1}, "2 <= min_tiles"),
        ({"max_tiles": 1}, "2 <= min_tiles"),
        ({"family": "other"}, "known: deepseek_ocr, deepseek_ocr2"),
    ],
)
def test_impossible_layouts_are_refused(arguments: dict[str, Any], message: str) -> None:
    """One line that names the field."""
    with pytest.raises(ValueError, match=message):
        ImageLayout(**{"family": "deepseek_ocr", "base_size": 1024, "tile_size": 640, **arguments})


def _image_processor(**changes: Any) -> SimpleNamespace:
    attributes = {
        "model_input_names": ["pixel_values", "num_local_patches"],
        "size": {"height": 1024, "width": 1024},
        "crop_to_patches": True,
        "tile_size": 768,
        "min_patches": 2,
        "max_patches": 6,
        **changes,
    }
    return SimpleNamespace(**attributes)


def test_layout_of_a_processor() -> None:
    """Its own configuration without a mode, the table's with one, the processor's patch size in both."""
    assert image_layout(_image_processor()) == MODES["deepseek_ocr2"]["gundam"]
    assert image_layout(_image_processor(crop_to_patches=False)) == MODES["deepseek_ocr2"]["small"]
    assert image_layout(SimpleNamespace(image_processor=_image_processor()), "base") == MODES["deepseek_ocr2"]["base"]
    first = _image_processor(
        model_input_names=["pixel_values", "num_local_patches", "patches_grid"],
        size=SimpleNamespace(height=256, width=256),
        crop_to_patches=False,
        stretch=True,
    )
    own = image_layout(SimpleNamespace(image_processor=first, patch_size=8, downsample_ratio=4))
    assert own == ImageLayout("deepseek_ocr", 256, None, max_tiles=6, patch_size=8, stretch=True)
    assert own.tokens(10, 10) == 8 * 9 + 1


def test_unknown_modes_and_processors_are_refused() -> None:
    """Both errors say what is allowed."""
    with pytest.raises(ValueError, match="mode is 'large'; deepseek_ocr2 has small, base, gundam"):
        image_layout(_image_processor(), "large")
    small = SimpleNamespace(image_processor=_image_processor(), patch_size=8)
    with pytest.raises(UserError, match=r"mode is 'small'; .* 768 has 576 features, .* only for 144 and 256"):
        image_layout(small, "small").check("small")
    with pytest.raises(ValueError, match="no image processor of deepseek_ocr or deepseek_ocr2"):
        image_layout(SimpleNamespace(model_input_names=["pixel_values"]))
    with pytest.raises(ValueError, match=r"call deepsynth.models.register\(\)"):
        image_layout(_image_processor(model_input_names=["num_local_patches", "patches_grid"]))


def test_counting_needs_no_library() -> None:
    """The renderer and ``--help`` count tokens without torch, transformers or PIL."""
    code = "import sys, deepsynth.models.tokens; print(sorted({'torch', 'transformers', 'PIL'} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
