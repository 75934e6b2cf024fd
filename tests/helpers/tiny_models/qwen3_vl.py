"""A tiny Qwen3-VL: two layers of the encoder give features to the first two layers of the decoder."""

from __future__ import annotations

from pathlib import Path

from tests.helpers.native_models import TEXT
from tests.helpers.tiny_models import byte_tokenizer, write

PAGES = ((128, 128), (128, 64))
SLOW = True

TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% else %}{{ part['text'] }}{% endif %}{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def make(folder: Path) -> Path:
    """Write a model of random weights, with its processor."""
    from transformers import Qwen2VLImageProcessorPil, Qwen3VLConfig

    from deepsynth.models.families.qwen3_vl import FAMILY

    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    special += ["<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]
    tokenizer = byte_tokenizer(special, eos="<|im_end|>", pad="<|endoftext|>")
    images = Qwen2VLImageProcessorPil(
        size={"shortest_edge": 64 * 64, "longest_edge": 128 * 128}, patch_size=16, merge_size=2
    )
    processor = FAMILY.processor_class()(images, tokenizer, chat_template=TEMPLATE)
    ids = dict(zip(special, tokenizer.convert_tokens_to_ids(special), strict=True))
    rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3], "mrope_interleaved": True}
    text = {**TEXT, "vocab_size": len(tokenizer), "rope_parameters": rope, "pad_token_id": tokenizer.pad_token_id}
    config = Qwen3VLConfig(
        text_config=text,
        vision_config={
            "hidden_size": 32,
            "intermediate_size": 64,
            "depth": 3,
            "num_heads": 2,
            "out_hidden_size": TEXT["hidden_size"],
            "num_position_embeddings": 16,
            "deepstack_visual_indexes": [0, 2],
        },
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
        tie_word_embeddings=True,
    )
    return write(folder, config, processor)
