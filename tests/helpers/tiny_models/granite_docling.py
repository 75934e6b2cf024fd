"""Granite-Docling's own kind: features of several layers of the encoder, added to layers of the decoder."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.helpers.tiny_models import DECODER, byte_tokenizer, write
from tests.helpers.tiny_models.idefics3 import TEMPLATE

PAGES = ((64, 64), (64, 32))
SLOW = True


def make(folder: Path) -> Path:
    """Write the model into a folder, and return it."""
    pytest.importorskip("transformers.models.granite_docling", reason="this transformers does not have the model")
    from transformers import GraniteDoclingConfig, GraniteDoclingImageProcessorPil, GraniteDoclingProcessor

    special = ["<|im_start|>", "<|im_end|>", "<image>", "<fake_token_around_image>", "<end_of_utterance>"]
    special.append("<global-img>")
    special += [f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7)]
    tokenizer = byte_tokenizer(special, bos_token="<|im_start|>", eos="<end_of_utterance>", pad="<|im_end|>")
    images = GraniteDoclingImageProcessorPil(size={"height": 32, "width": 32}, max_patches=4)
    # 32 pixels are 4 x 4 patches, which the pixel shuffle makes 2 x 2 features.
    processor = GraniteDoclingProcessor(images, tokenizer, image_seq_len=4, chat_template=TEMPLATE)
    config = GraniteDoclingConfig(
        image_token_id=processor.image_token_id,
        vision_config={
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 3,
            "num_attention_heads": 2,
            "image_size": 32,
            "patch_size": 8,
            "out_hidden_size": DECODER["hidden_size"],
            "scale_factor": 2,
            "deepstack_visual_indexes": [0],
            "use_fine_route": False,
        },
        text_config={
            "vocab_size": len(tokenizer),
            **DECODER,
            "pad_token_id": tokenizer.pad_token_id,
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": tokenizer.eos_token_id,
            # The published factors are for the published widths.
            "embedding_multiplier": 1.0,
            "residual_multiplier": 1.0,
            "logits_scaling": 1.0,
            "attention_multiplier": 0.25,
        },
        pad_token_id=tokenizer.pad_token_id,
    )
    return write(folder, config, processor)
