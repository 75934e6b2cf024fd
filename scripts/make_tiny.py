"""Write ``models/builtin/tiny`` without weights: tokenizer, processor and architecture of ``deepsynth/tiny``.

    python scripts/make_tiny.py [FOLDER [PAGE_PX]]

``scripts/pretrain_tiny.py`` trains the weights from scratch; the model card in the folder has its figures. Weights that
are in the folder stay; where their vocabulary is smaller, rows for the tokens that were appended are added to them.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from tokenizers import AddedToken, Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast

from deepsynth.models.deepseek_ocr.configuration import DeepseekOcrConfig
from deepsynth.models.deepseek_ocr.image_processing import DeepseekOcrImageProcessor
from deepsynth.models.deepseek_ocr.processing import DeepseekOcrProcessor
from deepsynth.models.markup import MARKUP_TOKENS

FOLDER = Path(__file__).parents[1] / "src" / "deepsynth" / "models" / "builtin" / "tiny"
SPECIAL = {"bos": "<｜begin▁of▁sentence｜>", "eos": "<｜end▁of▁sentence｜>", "pad": "<｜▁pad▁｜>", "image": "<image>"}
PAGE_PX = 256
PATCH_PX = 4  # a feature covers 16 x 16 pixels: one line of type, two or three letters
POSITIONS = 1024
INITIAL_STD = 0.04
#: Every printable character of Latin-1, and what English typography has beyond it; all else is spelled in bytes.
CHARACTERS = "\n" + "".join(map(chr, [*range(0x20, 0x7F), *range(0xA1, 0x100)])).replace("\xad", "") + "–—‘’“”…•œŒŸ€™"


def make_tokenizer() -> PreTrainedTokenizerFast:
    """Return a tokenizer of single characters, with bytes for those that it does not have, and the family's markup.

    The markup comes last: it was appended, and what was trained before has the same ids.
    """
    pieces = [*SPECIAL.values(), *(f"<0x{byte:02X}>" for byte in range(256)), *CHARACTERS]
    tokenizer = Tokenizer(models.BPE({piece: i for i, piece in enumerate(pieces)}, [], byte_fallback=True))
    tokenizer.add_special_tokens(list(SPECIAL.values()))
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in MARKUP_TOKENS])
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=SPECIAL["bos"],
        eos_token=SPECIAL["eos"],
        pad_token=SPECIAL["pad"],
        extra_special_tokens={"image_token": SPECIAL["image"]},
        clean_up_tokenization_spaces=False,
        model_max_length=POSITIONS,
    )


def make_config(
    tokenizer: PreTrainedTokenizerFast,
    page_px: int = PAGE_PX,
    patch_px: int = PATCH_PX,
    sam_width: int = 96,
    sam_layers: int = 3,
    clip_layers: int = 3,
    layers: int = 5,
    width: int = 256,
) -> DeepseekOcrConfig:
    """Return DeepSeek-OCR's architecture with small numbers; the decoder's layers are all dense."""
    side = page_px // patch_px // 4
    return DeepseekOcrConfig(
        image_token_id=tokenizer.convert_tokens_to_ids(SPECIAL["image"]),
        vision_config={
            "sam_config": {
                "hidden_size": sam_width, "output_channels": 64, "num_hidden_layers": sam_layers,
                "num_attention_heads": 4, "image_size": page_px, "patch_size": patch_px, "window_size": 8,
                "global_attn_indexes": [], "mlp_ratio": 3.0, "downsample_channels": [192, width],
                "initializer_range": INITIAL_STD,  # the class's own, 1e-10, is for loading weights, not for training
            },
            "encoder_config": {
                "hidden_size": width, "intermediate_size": 3 * width, "num_hidden_layers": clip_layers,
                "num_attention_heads": 4, "image_size": side, "patch_size": 1, "hidden_act": "quick_gelu",
                "layer_norm_eps": 1e-5, "initializer_range": INITIAL_STD,
            },
        },
        text_config={
            "vocab_size": len(tokenizer), "hidden_size": width, "intermediate_size": 2 * width + width // 2,
            "moe_intermediate_size": 64, "n_routed_experts": 4, "n_shared_experts": 1, "num_experts_per_tok": 2,
            "num_hidden_layers": layers, "num_attention_heads": 4, "num_key_value_heads": 4,
            "mlp_layer_types": ["dense"] * layers, "max_position_embeddings": POSITIONS, "rms_norm_eps": 1e-6,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
            "bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id, "initializer_range": INITIAL_STD,
        },
    )  # fmt: skip


def write_model(folder: Path, page_px: int = PAGE_PX, patch_px: int = PATCH_PX, **sizes: int) -> None:
    """Write tokenizer, processor and ``config.json``; any weights in the folder stay."""
    tokenizer = make_tokenizer()
    images = DeepseekOcrImageProcessor(size={"height": page_px, "width": page_px}, crop_to_patches=False)
    DeepseekOcrProcessor(images, tokenizer, patch_size=patch_px).save_pretrained(folder)
    config = make_config(tokenizer, page_px, patch_px, **sizes)
    config.architectures = ["DeepseekOcrForConditionalGeneration"]
    config.save_pretrained(folder)
    if (folder / "model.safetensors").is_file():
        append_rows(folder / "model.safetensors", tokenizer)


def append_rows(file: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    """Give weights a row in the embedding and in the head for each token that they lack.

    A new row of the embedding is the mean of those of its characters; one of the head is the mean of all characters',
    which is never the most likely one. A little noise keeps them apart.
    """
    weights = load_file(file)
    head, embedding = weights["lm_head.weight"], weights["model.language_model.embed_tokens.weight"]
    old, draw = len(head), torch.Generator().manual_seed(0)
    new_tokens = tokenizer.convert_ids_to_tokens(list(range(old, len(tokenizer))))
    if not new_tokens:
        return

    def noise(rows: torch.Tensor) -> torch.Tensor:
        return 0.3 * rows.std() * torch.randn(rows.shape[1], generator=draw)

    known = tokenizer.convert_tokens_to_ids(list(CHARACTERS))
    for token in new_tokens:
        parts = tokenizer.convert_tokens_to_ids(list(token))
        row = embedding[parts].float().mean(0) + noise(embedding.float())
        embedding = torch.cat([embedding, row[None].to(embedding.dtype)])
        row = head[known].float().mean(0) + noise(head[known].float())
        head = torch.cat([head, row[None].to(head.dtype)])
    weights |= {"lm_head.weight": head, "model.language_model.embed_tokens.weight": embedding}
    save_file(weights, file, metadata={"format": "pt"})


if __name__ == "__main__":
    write_model(Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER, *map(int, sys.argv[2:3]))
