"""The published ``config.json`` of DeepSeek-OCR: recognized, read, and written."""

from __future__ import annotations

import json
from typing import Any

from deepsynth.errors import UserError

PUBLISHED_MODEL_TYPE = "deepseek_vl_v2"
ARCHITECTURE = "DeepseekOCRForCausalLM"
SECOND_ARCHITECTURE = "DeepseekOCR2ForCausalLM"
SECOND_REPOSITORY = "deepseek-community/DeepSeek-OCR-2"
#: Where the original code has its classes. SGLang recognizes both models by the entry AutoModel alone.
AUTO_MAP = {
    "AutoConfig": "modeling_deepseekocr.DeepseekOCRConfig",
    "AutoModel": f"modeling_deepseekocr.{ARCHITECTURE}",
}
SECOND_AUTO_MAP = {
    "AutoConfig": "modeling_deepseekocr2.DeepseekOCR2Config",
    "AutoModel": f"modeling_deepseekocr2.{SECOND_ARCHITECTURE}",
}

#: Published name -> native name of the decoder's sizes; they stand at the top level and again in ``language_config``.
_TEXT = {
    name: name
    for name in (
        "vocab_size",
        "hidden_size",
        "intermediate_size",
        "moe_intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "num_key_value_heads",
        "n_routed_experts",
        "n_shared_experts",
        "num_experts_per_tok",
        "max_position_embeddings",
        "bos_token_id",
        "eos_token_id",
    )
}
#: What the published class takes when the file is silent.
_TEXT_DEFAULTS: dict[str, Any] = {"rms_norm_eps": 1e-6, "hidden_act": "silu", "rope_theta": 10000.0, "pad_token_id": 2}
#: Switches of the DeepSeek-V2 family that DeepSeek-OCR leaves at one setting; any other setting is another model.
_FIXED: dict[str, tuple[Any, ...]] = {
    "use_mla": (False,),
    "norm_topk_prob": (False,),
    "scoring_func": ("softmax",),
    "topk_method": ("greedy",),
    "routed_scaling_factor": (1, 1.0),
    "moe_layer_freq": (1,),
    "rope_scaling": (None,),
    "attention_bias": (False,),
    "tie_word_embeddings": (False,),
    "q_lora_rank": (None,),
    "kv_lora_rank": (None,),
}
#: Sizes of SAM that are literals in the published code: (published key, native key, published value).
_SAM_LITERALS = (
    ("neck_channels", "output_channels", 256),
    ("window_size", "window_size", 14),
    ("patch_size", "patch_size", 16),
)
_IMAGE_TOKEN_ID = 128815


def is_deepseek_ocr(config: dict[str, Any]) -> bool:
    """Say whether a ``deepseek_vl_v2`` configuration is DeepSeek-OCR's."""
    return not _differences(config)


def refuse_other_models(config: dict[str, Any]) -> None:
    """Raise unless the configuration is DeepSeek-OCR's.

    Raises:
        UserError: one line that names the model, and for DeepSeek-OCR-2 the repository that does load.
    """
    differences = _differences(config)
    if not differences:
        return
    architectures = config.get("architectures") or []
    encoders = _encoders(config)
    name = architectures[0] if architectures else "a model without 'architectures'"
    if SECOND_ARCHITECTURE in architectures or any("qwen2" in encoder for encoder in encoders):
        raise UserError(
            f"config.json is DeepSeek-OCR-2 in its original format ({'; '.join(differences)}), which transformers does "
            f"not read; load the converted repository {SECOND_REPOSITORY!r}, or an export in the native format, instead"
        )
    raise UserError(
        f"config.json says model_type {PUBLISHED_MODEL_TYPE!r}, but it is {name}, not DeepSeek-OCR: "
        f"{'; '.join(differences)}. DeepSynth loads DeepSeek-OCR ('deepseek-ai/DeepSeek-OCR') and DeepSeek-OCR-2 "
        f"({SECOND_REPOSITORY!r})"
    )


def _encoders(config: dict[str, Any]) -> list[str]:
    width = (config.get("vision_config") or {}).get("width")
    return sorted(width) if isinstance(width, dict) else []


def _differences(config: dict[str, Any]) -> list[str]:
    """Return what speaks against DeepSeek-OCR, one clause each."""
    differences = []
    architectures = config.get("architectures")
    if architectures is not None and ARCHITECTURE not in architectures:
        differences.append(f"architectures is {architectures}, want [{ARCHITECTURE!r}]")
    projector = (config.get("projector_config") or {}).get("projector_type")
    if projector != "linear":
        differences.append(f"projector_config.projector_type is {projector!r}, want 'linear'")
    encoders = _encoders(config)
    if encoders != ["clip-l-14-224", "sam_vit_b"]:
        differences.append(f"vision_config.width has {encoders or 'no encoders'}, want clip-l-14-224 and sam_vit_b")
    return differences


def from_published(config: dict[str, Any]) -> dict[str, Any]:
    """Translate a published configuration into the native one's fields.

    Raises:
        UserError: for another model, a missing or contradictory field, or a switch that DeepSeek-OCR does not have.
    """
    refuse_other_models(config)
    text = _text_fields(config)
    layers, dense = text["num_hidden_layers"], text.pop("first_k_dense_replace")
    theta = text.pop("rope_theta")
    width = config["vision_config"]["width"]
    clip, sam = width["clip-l-14-224"], width["sam_vit_b"]
    projector = config["projector_config"]
    expected = (clip["width"] + sam["downsample_channels"][-1], text["hidden_size"])
    if (projector.get("input_dim"), projector.get("n_embed")) != expected:
        raise UserError(
            f"projector_config maps {projector.get('input_dim')} to {projector.get('n_embed')}, but encoders and "
            f"decoder need {expected[0]} to {expected[1]}"
        )
    native = {
        "architectures": ["DeepseekOcrForConditionalGeneration"],
        "text_config": {
            **text,
            "mlp_layer_types": ["dense" if layer < dense else "sparse" for layer in range(layers)],
            "rope_parameters": {"rope_type": "default", "rope_theta": float(theta)},
        },
        "vision_config": {
            "sam_config": {
                "hidden_size": sam["width"],
                "num_hidden_layers": sam["layers"],
                "num_attention_heads": sam["heads"],
                "image_size": config["vision_config"]["image_size"],
                "global_attn_indexes": list(sam["global_attn_indexes"]),
                "downsample_channels": list(sam["downsample_channels"]),
                **{ours: sam.get(theirs, literal) for theirs, ours, literal in _SAM_LITERALS},
                **({"mlp_dim": sam["mlp_dim"]} if "mlp_dim" in sam else {}),  # else four times as wide
            },
            "encoder_config": {
                "hidden_size": clip["width"],
                "intermediate_size": clip.get("intermediate_size", 4 * clip["width"]),
                "num_hidden_layers": clip["layers"],
                "num_attention_heads": clip["heads"],
                "image_size": clip["image_size"],
                "patch_size": clip["patch_size"],
            },
        },
        "image_token_id": config.get("image_token_id", _IMAGE_TOKEN_ID),
        "published": json.dumps({key: value for key, value in config.items() if key != "_commit_hash"}),
    }
    for kept in ("torch_dtype", "dtype", "_commit_hash"):
        if config.get(kept) is not None:
            native[kept] = config[kept]
    return native


def _text_fields(config: dict[str, Any]) -> dict[str, Any]:
    """Return the decoder's fields by native name, from the top level and ``language_config``."""
    inner = config.get("language_config") or {}
    text: dict[str, Any] = {}
    for theirs in [*_TEXT, "first_k_dense_replace", *_TEXT_DEFAULTS, *_FIXED]:
        values = [part[theirs] for part in (config, inner) if theirs in part]
        if len(values) == 2 and values[0] != values[1]:
            raise UserError(
                f"config.json says {theirs} {values[0]!r}, its language_config says {values[1]!r}; make them equal"
            )
        if theirs in _FIXED:
            if values and values[0] not in _FIXED[theirs]:
                raise UserError(f"config.json says {theirs} {values[0]!r}; DeepSeek-OCR has {_FIXED[theirs][0]!r}")
        elif values or theirs in _TEXT_DEFAULTS:
            text[theirs] = values[0] if values else _TEXT_DEFAULTS[theirs]
        else:
            raise UserError(f"config.json has no {theirs}, neither at the top level nor in language_config")
    return text


def to_published(config: Any) -> dict[str, Any]:
    """Return a native configuration in the published layout.

    Sizes that the published code has as literals are written only where they differ from those.

    Args:
        config: a ``DeepseekOcrConfig``.
    """
    text, sam, clip = config.text_config, config.vision_config.sam_config, config.vision_config.encoder_config
    fields = published_text(text)
    dtype = str(config.dtype).removeprefix("torch.") if config.dtype is not None else "float32"
    published: dict[str, Any] = {
        "architectures": [ARCHITECTURE],
        "auto_map": dict(AUTO_MAP),
        "candidate_resolutions": [[1024, 1024]],
        "global_view_pos": "head",
        "language_config": {"architectures": ["DeepseekV2ForCausalLM"], **fields, "torch_dtype": dtype},
        "model_type": PUBLISHED_MODEL_TYPE,
        "projector_config": {
            "input_dim": clip.hidden_size + sam.downsample_channels[-1],
            "model_type": "mlp_projector",
            "n_embed": text.hidden_size,
            "projector_type": "linear",
        },
        "tile_tag": "2D",
        "torch_dtype": dtype,
        "vision_config": _published_vision(sam, clip),
        **fields,
    }
    if config.image_token_id != _IMAGE_TOKEN_ID:
        published["image_token_id"] = config.image_token_id
    return published


def published_text(text: Any) -> dict[str, Any]:
    """Return the decoder's fields, which the published file holds twice."""
    fields = {
        **{theirs: getattr(text, ours) for theirs, ours in _TEXT.items()},
        "first_k_dense_replace": list(text.mlp_layer_types).count("dense"),
        "kv_lora_rank": None,
        "lm_head": True,
        "n_group": 1,
        "q_lora_rank": None,
        "qk_nope_head_dim": 0,
        "qk_rope_head_dim": 0,
        "rm_head": False,
        "topk_group": 1,
        "topk_method": "greedy",
        "use_mla": False,
        "v_head_dim": 0,
    }
    written = {
        "rms_norm_eps": text.rms_norm_eps,
        "rope_theta": text.rope_parameters["rope_theta"],
        "pad_token_id": text.pad_token_id,
    }
    return {**fields, **{name: value for name, value in written.items() if value != _TEXT_DEFAULTS[name]}}


def published_sam(sam: Any) -> dict[str, Any]:
    """Return the sizes of SAM, which both models have."""
    literals = {theirs: getattr(sam, ours) for theirs, ours, literal in _SAM_LITERALS if getattr(sam, ours) != literal}
    if sam.mlp_dim != 4 * sam.hidden_size:
        literals["mlp_dim"] = sam.mlp_dim
    return {
        "downsample_channels": list(sam.downsample_channels),
        "global_attn_indexes": list(sam.global_attn_indexes),
        "heads": sam.num_attention_heads,
        "layers": sam.num_hidden_layers,
        "width": sam.hidden_size,
        **literals,
    }


def _published_vision(sam: Any, clip: Any) -> dict[str, Any]:
    return {
        "image_size": sam.image_size,
        "mlp_ratio": 3.7362,
        "model_name": "deeplip_b_l",
        "model_type": "vision",
        "width": {
            "clip-l-14-224": {
                "heads": clip.num_attention_heads,
                "image_size": clip.image_size,
                "layers": clip.num_hidden_layers,
                "patch_size": clip.patch_size,
                "width": clip.hidden_size,
                **({"intermediate_size": wide} if (wide := clip.intermediate_size) != 4 * clip.hidden_size else {}),
            },
            "sam_vit_b": published_sam(sam),
        },
    }
