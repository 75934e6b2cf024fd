"""LightOnOCR's kind: Pixtral's encoder, which keeps the shape of a page, and a Qwen3."""

from __future__ import annotations

from pathlib import Path

from tests.helpers.tiny_models import DECODER, byte_tokenizer, write

PAGES = ((64, 64), (64, 32))
SLOW = True

TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}<|image_pad|>"
    "{% else %}{{ part['text'] }}{% endif %}{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def make(folder: Path) -> Path:
    """Write the model into a folder, and return it."""
    from transformers import LightOnOcrConfig, LightOnOcrProcessor, PixtralImageProcessorPil

    image = {"image_token": "<|image_pad|>", "image_break_token": "<|vision_pad|>", "image_end_token": "<|vision_end|>"}
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *image.values()]
    tokenizer = byte_tokenizer(special, eos="<|im_end|>", pad="<|endoftext|>", extra_special_tokens=image)
    images = PixtralImageProcessorPil(size={"longest_edge": 64}, patch_size={"height": 16, "width": 16})
    processor = LightOnOcrProcessor(images, tokenizer, patch_size=8, spatial_merge_size=2, chat_template=TEMPLATE)
    config = LightOnOcrConfig(
        image_token_id=processor.image_token_id,
        vision_config={
            "model_type": "pixtral",
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": 64,
            "patch_size": 8,
        },
        text_config={
            "model_type": "qwen3",
            "vocab_size": len(tokenizer),
            **DECODER,
            "pad_token_id": tokenizer.pad_token_id,
            "tie_word_embeddings": True,
        },
        pad_token_id=tokenizer.pad_token_id,
    )
    return write(folder, config, processor)
