"""GOT-OCR 2's kind: SAM's encoder on one square view, a Qwen2; its published processor has no chat template."""

from __future__ import annotations

from pathlib import Path

from tests.helpers.tiny_models import DECODER, byte_tokenizer, write

PAGES = ((128, 128), (128, 96))
SLOW = True


def make(folder: Path) -> Path:
    """Write the model into a folder, and return it."""
    from transformers import GotOcr2Config, GotOcr2ImageProcessorPil, GotOcr2Processor

    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<img>", "</img>", "<imgpad>"]
    tokenizer = byte_tokenizer(special, eos="<|endoftext|>", pad="<|endoftext|>")
    processor = GotOcr2Processor(GotOcr2ImageProcessorPil(size={"height": 128, "width": 128}), tokenizer)
    config = GotOcr2Config(
        image_token_index=tokenizer.convert_tokens_to_ids("<imgpad>"),
        image_seq_length=4,
        vision_config={
            "hidden_size": 32,
            "output_channels": 16,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": 128,
            "patch_size": 16,
            "window_size": 4,
            "global_attn_indexes": [1],
            "mlp_dim": 64,
        },
        text_config={
            "model_type": "qwen2",
            "vocab_size": len(tokenizer),
            **DECODER,
            "pad_token_id": tokenizer.pad_token_id,
            "tie_word_embeddings": True,
        },
        pad_token_id=tokenizer.pad_token_id,
    )
    return write(folder, config, processor)
