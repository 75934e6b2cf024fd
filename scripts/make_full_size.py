"""Write the built-in full-size architectures: configuration and processor, no weights (``weights: random`` fills them).

    python scripts/make_full_size.py

The sizes are those of the published ``config.json`` files. The tokenizers are the small models' own: how a text becomes
ids matters to neither speed nor memory, and the embedding and the head have the published 129,280 rows all the same.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from transformers import AutoProcessor, DeepseekOcr2Config

from deepsynth.models.deepseek_ocr import DeepseekOcrConfig
from deepsynth.models.deepseek_ocr.configuration import TEXT
from deepsynth.models.registry import BUILTIN, load_pretrained, resolve_model_name

#: transformers has no defaults of the published sizes for DeepSeek-OCR-2's second encoder.
ENCODER = {
    "hidden_size": 896,
    "intermediate_size": 4864,
    "num_hidden_layers": 24,
    "num_attention_heads": 14,
    "num_key_value_heads": 2,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
}
SIDE_PX = 1024


def write(name: str, small: str) -> None:
    """Write one folder, with the tokenizer of the small model."""
    folder = Path(resolve_model_name(small)).parent / BUILTIN[name]
    shutil.rmtree(folder, ignore_errors=True)
    processor = load_pretrained(AutoProcessor, small)
    processor.patch_size = 16
    # The small model reads fewer positions, and its tokenizer would warn of texts that this one takes.
    processor.tokenizer.model_max_length = TEXT["max_position_embeddings"]
    processor.image_processor.size = {"height": SIDE_PX, "width": SIDE_PX}
    text = {
        **TEXT,
        **{key: getattr(processor.tokenizer, key) for key in ("bos_token_id", "eos_token_id", "pad_token_id")},
    }
    if name.endswith("2"):
        processor.image_processor.tile_size = SIDE_PX
        vision = {"sam_config": {}, "encoder_config": ENCODER}
        config = DeepseekOcr2Config(text_config=text, vision_config=vision, image_token_id=processor.image_token_id)
        config.architectures = ["DeepseekOcr2ForConditionalGeneration"]
    else:
        config = DeepseekOcrConfig(text_config=text, image_token_id=processor.image_token_id)
        config.architectures = ["DeepseekOcrForConditionalGeneration"]
    config.dtype = "bfloat16"
    config.save_pretrained(folder)
    processor.save_pretrained(folder)


if __name__ == "__main__":
    write("deepsynth/full-size-ocr", "deepsynth/tiny")
    write("deepsynth/full-size-ocr-2", "deepsynth/tiny-random")
