"""A tiny Qwen3-VL: two layers of the encoder give features to the first two layers of the decoder."""

from __future__ import annotations

from pathlib import Path

from tests.helpers.native_models import shrink

PAGES = ((128, 128), (128, 64))
SLOW = True


def make(folder: Path) -> Path:
    """Write a model of random weights, with its processor."""
    vision = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "depth": 3,
        "num_heads": 2,
        "out_hidden_size": 64,
        "num_position_embeddings": 16,
        "deepstack_visual_indexes": [0, 2],
    }
    return shrink("deepsynth/full-size-qwen3-vl", folder, vision=vision, side=128)
