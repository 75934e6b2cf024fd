"""Tiny models that read images at their own size, from the full-size architectures of this package."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import AutoConfig, AutoProcessor

from deepsynth.models.registry import load_pretrained
from tests.helpers.tiny_models import write

#: Of all decoders: four heads of 16.
TEXT = {
    "vocab_size": 512,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 1024,
    "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3]},
}


def shrink(
    name: str,
    folder: Path,
    *,
    vision: dict[str, Any],
    text: dict[str, Any] | None = None,
    frames: int = 1,
    side: int = 112,
) -> Path:
    """Write a model of random weights with the processor of a full-size architecture, and return its folder.

    Args:
        name: of the architecture.
        folder: to write into.
        vision: sizes of the vision encoder.
        text: sizes of the decoder, besides :data:`TEXT`.
        frames: how often the processor counts the pixels of an image.
        side: of the largest square image, pixels; the smallest has half of it.
    """
    config = load_pretrained(AutoConfig, name)
    for part, sizes in ((config.text_config, {**TEXT, **(text or {})}), (config.vision_config, vision)):
        for key, value in sizes.items():
            setattr(part, key, value)
    config.dtype = "float32"
    processor = load_pretrained(AutoProcessor, name)
    smallest = frames * (side // 2) ** 2
    processor.image_processor.size = {"shortest_edge": smallest, "longest_edge": 4 * smallest}
    return write(folder, config, processor)
