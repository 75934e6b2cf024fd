"""A tiny DeepSeek-OCR: the same classes, small numbers, random weights."""

from __future__ import annotations

from deepsynth.models.deepseek_ocr.configuration import DeepseekOcrConfig


def tiny_config(
    *,
    page_size: int = 256,
    patch_size: int = 16,
    vocab_size: int = 512,
    image_token_id: int = 3,
    hidden_size: int = 64,
    layers: int = 3,
    experts: int = 8,
    max_positions: int = 1024,
) -> DeepseekOcrConfig:
    """Return the configuration of a model of about a million parameters.

    Args:
        page_size: side of the page that position tables are made for, pixels; other sizes are interpolated.
        patch_size: side of a patch, pixels; 8 sees small print on small pages.
        vocab_size: tokens; 0 begins, 1 ends, 2 pads.
        image_token_id: the token that stands for an image feature.
        hidden_size: width of the decoder, four heads.
        layers: of the decoder; the first is dense, the others have experts.
        experts: routed experts of a layer; a token takes two.
        max_positions: tokens that fit.

    Raises:
        ValueError: when the page is not a whole number of features.
    """
    if page_size % (4 * patch_size):
        raise ValueError(f"page_size is {page_size}; it must be a multiple of 4 patches of {patch_size} pixels")
    return DeepseekOcrConfig(
        image_token_id=image_token_id,
        vision_config={
            "sam_config": {
                "hidden_size": 48,
                "num_hidden_layers": 2,
                "num_attention_heads": 3,
                "output_channels": 24,
                "downsample_channels": [32, 48],
                "global_attn_indexes": [1],
                "image_size": page_size,
                "patch_size": patch_size,
                # The published value, 1e-10, is for weights that are loaded anyway.
                "initializer_range": 0.02,
            },
            "encoder_config": {
                "hidden_size": 48,
                "intermediate_size": 192,
                "num_hidden_layers": 2,
                "num_attention_heads": 4,
                "patch_size": 14,
                "image_size": 14 * (page_size // (4 * patch_size)),
            },
        },
        text_config={
            "vocab_size": vocab_size,
            "hidden_size": hidden_size,
            "intermediate_size": 2 * hidden_size,
            "moe_intermediate_size": hidden_size // 2,
            "num_hidden_layers": layers,
            "num_attention_heads": 4,
            "num_key_value_heads": 4,
            "n_routed_experts": experts,
            "n_shared_experts": 2,
            "num_experts_per_tok": 2,
            "mlp_layer_types": ["dense"] + ["sparse"] * (layers - 1),
            "max_position_embeddings": max_positions,
            "rms_norm_eps": 1e-6,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
            "bos_token_id": 0,
            "eos_token_id": 1,
            "pad_token_id": 2,
        },
    )
