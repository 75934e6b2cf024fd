"""A tiny PaddleOCR-VL."""

from __future__ import annotations

from pathlib import Path

from tests.helpers.native_models import shrink
from tests.helpers.tiny_models import skip_without_image_processors

PAGES = ((112, 112), (112, 56))
SLOW = False


def make(folder: Path) -> Path:
    """Write a model of random weights, with its processor."""
    skip_without_image_processors()
    vision = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 56,
    }
    return shrink("deepsynth/full-size-paddleocr-vl", folder, vision=vision)
