"""SmolVLM's and Granite-Docling's kind: SigLIP, a pixel shuffle, a Llama; images are cut into tiles."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.helpers.tiny_models import DECODER, byte_tokenizer, skip_without_image_processors, write

PAGES = ((64, 64), (128, 40))
SLOW = False

TEMPLATE = (
    "<|im_start|>{% for message in messages %}{{message['role'] | capitalize}}"
    "{% if message['content'][0]['type'] == 'image' %}{{':'}}{% else %}{{': '}}{% endif %}"
    "{% for line in message['content'] %}{% if line['type'] == 'text' %}{{line['text']}}"
    "{% elif line['type'] == 'image' %}{{ '<image>' }}{% endif %}{% endfor %}<end_of_utterance>\n"
    "{% endfor %}{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)


def make(folder: Path, config_class: Any = None) -> Path:
    """Write the model into a folder, and return it.

    Args:
        folder: to make.
        config_class: of transformers, Idefics3's or one that is made from it.
    """
    skip_without_image_processors()
    from transformers import Idefics3Config, Idefics3ImageProcessorPil, Idefics3Processor

    special = [
        "<|im_start|>",
        "<|im_end|>",
        "<image>",
        "<fake_token_around_image>",
        "<end_of_utterance>",
        "<global-img>",
    ]
    special += [f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7)]
    tokenizer = byte_tokenizer(special, bos_token="<|im_start|>", eos="<end_of_utterance>", pad="<|im_end|>")
    images = Idefics3ImageProcessorPil(size={"longest_edge": 64}, max_image_size={"longest_edge": 32})
    # 32 pixels are 4 x 4 patches, which the pixel shuffle makes 2 x 2 features.
    processor = Idefics3Processor(images, tokenizer, image_seq_len=4, chat_template=TEMPLATE)
    config = (config_class or Idefics3Config)(
        image_token_id=processor.image_token_id,
        scale_factor=2,
        vision_config={
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": 32,
            "patch_size": 8,
        },
        text_config={
            "model_type": "llama",
            "vocab_size": len(tokenizer),
            **DECODER,
            "pad_token_id": tokenizer.pad_token_id,
        },
        pad_token_id=tokenizer.pad_token_id,
    )
    return write(folder, config, processor)
