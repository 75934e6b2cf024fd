"""A tiny Qwen2.5-VL: a layer with windows of 2 x 2 tokens, and one without."""

from __future__ import annotations

from pathlib import Path

from tests.helpers.native_models import shrink

PAGES = ((112, 112), (112, 56))
SLOW = True


def make(folder: Path) -> Path:
    """Write a model of random weights, with its processor."""
    vision = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "depth": 2,
        "num_heads": 2,
        "out_hidden_size": 64,
        "window_size": 56,
        "fullatt_block_indexes": [1],
    }
    return shrink("deepsynth/full-size-qwen2.5-vl", folder, vision=vision, text={"layer_types": ["full_attention"] * 2})
