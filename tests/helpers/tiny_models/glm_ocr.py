"""A tiny GLM-OCR."""

from __future__ import annotations

from pathlib import Path

from tests.helpers.native_models import shrink

PAGES = ((112, 112), (112, 56))
SLOW = True


def make(folder: Path) -> Path:
    """Write a model of random weights, with its processor."""
    vision = {"hidden_size": 32, "intermediate_size": 64, "depth": 2, "num_heads": 2, "out_hidden_size": 64}
    return shrink("deepsynth/full-size-glm-ocr", folder, vision=vision, frames=2)
