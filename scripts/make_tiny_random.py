"""Write ``src/deepsynth/models/builtin/tiny_random``: DeepSeek-OCR-2's classes at a tiny size with random weights.

    python scripts/make_tiny_random.py

The model can read nothing; it makes tests fast and real. Run it again only when its shape must change: stored losses
in the tests depend on these weights.
"""

from __future__ import annotations

import pydoc_data.topics
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoModelForImageTextToText, DeepseekOcr2Config, PreTrainedTokenizerFast

from deepsynth.compat.transformers import unify_dtype

FOLDER = Path(__file__).parents[1] / "src" / "deepsynth" / "models" / "builtin" / "tiny_random"
SPECIAL = {"bos": "<｜begin▁of▁sentence｜>", "eos": "<｜end▁of▁sentence｜>", "pad": "<｜▁pad▁｜>", "image": "<image>"}
VOCABULARY = 512
PAGE_PX = 384  # with 8-pixel patches 12 x 12 features: the smaller of the two query sets that the architecture has


def make_tokenizer() -> PreTrainedTokenizerFast:
    """Train a byte-level BPE on Python's help topics: any text can be spelled, English takes few tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=list(SPECIAL.values()),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(sorted(pydoc_data.topics.topics.values()), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=SPECIAL["bos"],
        eos_token=SPECIAL["eos"],
        pad_token=SPECIAL["pad"],
        extra_special_tokens={"image_token": SPECIAL["image"]},
        clean_up_tokenization_spaces=False,
        model_max_length=2048,
    )


def make_config(tokenizer: PreTrainedTokenizerFast) -> DeepseekOcr2Config:
    """Return the architecture with small numbers: 3 decoder layers, 8 routed experts, 2 shared."""
    rope = {"rope_type": "default", "rope_theta": 10000.0}
    return DeepseekOcr2Config(
        image_token_id=tokenizer.convert_tokens_to_ids(SPECIAL["image"]),
        vision_config={
            "sam_config": {
                "hidden_size": 32, "output_channels": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
                "image_size": PAGE_PX, "patch_size": 8, "window_size": 8, "global_attn_indexes": [],
                "mlp_ratio": 2.0, "downsample_channels": [32, 48], "initializer_range": 0.02,
            },
            "encoder_config": {
                "vocab_size": 8, "hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 1,
                "num_attention_heads": 4, "num_key_value_heads": 2, "rope_parameters": rope,
            },
        },
        text_config={
            "vocab_size": len(tokenizer), "hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 3,
            "num_attention_heads": 4, "n_routed_experts": 8, "num_experts_per_tok": 2, "n_shared_experts": 2,
            "moe_intermediate_size": 32, "max_position_embeddings": 2048, "rope_parameters": rope,
            "mlp_layer_types": ["dense", "sparse", "sparse"], "initializer_range": 0.06,
            "bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
        },
    )  # fmt: skip


def main() -> None:
    """Write configuration, weights (bf16), tokenizer and processor."""
    from transformers import DeepseekOcr2Processor
    from transformers.models.deepseek_ocr2.image_processing_pil_deepseek_ocr2 import DeepseekOcr2ImageProcessorPil

    torch.manual_seed(0)
    tokenizer = make_tokenizer()
    model = AutoModelForImageTextToText.from_config(make_config(tokenizer), dtype=torch.bfloat16)
    unify_dtype(model)
    # A frozen head bounds the logits by |w| |h|; at the usual scale no text could be learned with confidence.
    torch.nn.init.normal_(model.lm_head.weight, std=0.1)
    # At the usual scale the queries attend to all patches alike and every page looks the same: measured over eight
    # pages, features differ by 0.5 % of their deviation; with weights 20 times as large by 15 %.
    with torch.no_grad():
        for name, parameter in model.model.vision_tower.named_parameters():
            if parameter.dim() == 2 and ("vision_encoder" in name or "query" in name):
                parameter.mul_(20)
    model.generation_config.bos_token_id = tokenizer.bos_token_id
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.save_pretrained(FOLDER)
    image_processor = DeepseekOcr2ImageProcessorPil(
        size={"height": PAGE_PX, "width": PAGE_PX}, tile_size=PAGE_PX, crop_to_patches=False
    )
    DeepseekOcr2Processor(image_processor, tokenizer, patch_size=8).save_pretrained(FOLDER)
    print(f"{FOLDER}: {sum(p.numel() for p in model.parameters()):,} parameters")


if __name__ == "__main__":
    main()
