"""The ``config.json`` of DeepSeek-OCR-2 as its authors publish it, written from transformers' configuration.

It is not read: transformers has the model in its own form. The original code, vLLM and SGLang build the encoder behind
SAM at fixed sizes, of which the file says the width alone.
"""

from __future__ import annotations

from typing import Any

from deepsynth.models.deepseek_ocr.published import (
    PUBLISHED_MODEL_TYPE,
    SECOND_ARCHITECTURE,
    SECOND_AUTO_MAP,
    published_sam,
    published_text,
)

#: Sizes of the encoder behind SAM that are literals in the original code; they are written only where they differ.
_ENCODER_LITERALS = {
    "num_hidden_layers": 24,
    "num_attention_heads": 14,
    "num_key_value_heads": 2,
    "intermediate_size": 4864,
}
_IMAGE_TOKEN_ID = 128815


def second_to_published(config: Any) -> dict[str, Any]:
    """Return the configuration of DeepSeek-OCR-2 in the published layout.

    Args:
        config: transformers' ``DeepseekOcr2Config``.
    """
    text, sam, encoder = config.text_config, config.vision_config.sam_config, config.vision_config.encoder_config
    fields = published_text(text)
    dtype = str(config.dtype).removeprefix("torch.") if config.dtype is not None else "float32"
    literals = {
        name: getattr(encoder, name) for name, size in _ENCODER_LITERALS.items() if getattr(encoder, name) != size
    }
    published: dict[str, Any] = {
        "architectures": [SECOND_ARCHITECTURE],
        "auto_map": dict(SECOND_AUTO_MAP),
        "candidate_resolutions": [[1024, 1024]],
        "global_view_pos": "head",
        "language_config": {"architectures": ["DeepseekV2ForCausalLM"], **fields, "torch_dtype": dtype},
        "model_type": PUBLISHED_MODEL_TYPE,
        "projector_config": {
            "input_dim": encoder.hidden_size,
            "model_type": "mlp_projector",
            "n_embed": text.hidden_size,
            "projector_type": "linear",
        },
        "tile_tag": "2D",
        "torch_dtype": dtype,
        "vision_config": {
            "image_size": sam.image_size,
            "mlp_ratio": 3.7362,
            "model_name": "deepencoderv2",
            "model_type": "vision",
            "width": {"qwen2-0-5b": {"dim": encoder.hidden_size, **literals}, "sam_vit_b": published_sam(sam)},
        },
        **fields,
    }
    if config.image_token_id != _IMAGE_TOKEN_ID:
        published["image_token_id"] = config.image_token_id
    return published
