"""What other engines ask of a model's folder, in our own words: read in their source, at the versions given.

vLLM: ``model_executor/models/deepseek_ocr.py`` (029329a8), ``deepseek_ocr2.py`` (055e47c2) and ``deepencoder*.py``,
``transformers_utils/configs/deepseek_vl2.py`` and ``processors/deepseek_ocr.py``, ``lora/lora_model.py`` (0306474e) and
``lora/peft_helper.py``; https://github.com/vllm-project/vllm. Run: 0.32.0 on a CPU, the first model.
SGLang 0.5.23: ``srt/models/deepseek_ocr.py``, ``srt/configs/deepseek_ocr.py``, ``srt/utils/hf_transformers``;
https://github.com/sgl-project/sglang. Run: the second of these files.
llama.cpp: ``conversion/deepseek.py`` and ``gguf-py/gguf/vocab.py`` as in llama-cpp-python 0.3.36;
https://github.com/ggml-org/llama.cpp. Run: both, and 0.7.0 (build 11669) on what they wrote.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

#: Prefixes of published names that vLLM renames, the first that fits, and the parts of its models.
VLLM_PREFIXES = {
    "model.embed_tokens.": "language_model.model.embed_tokens.",
    "model.layers.": "language_model.model.layers.",
    "model.norm.": "language_model.model.norm.",
    "lm_head.": "language_model.lm_head.",
    "model.": "",
}
_PARTS = {"sam_model", "projector", "view_seperator"}
VLLM_PARTS = {
    "deepseek_ocr": {"language_model", "vision_model", "image_newline", *_PARTS},
    "deepseek_ocr2": {"language_model", "qwen2_model", *_PARTS},
}
#: SGLang's parts; its decoder is called model.
SGLANG_PARTS = {
    family: {"model" if part == "language_model" else part for part in parts} for family, parts in VLLM_PARTS.items()
}
#: What SGLang recognizes the two models by.
SGLANG_AUTO_MODEL = {
    "deepseek_ocr": "modeling_deepseekocr.DeepseekOCRForCausalLM",
    "deepseek_ocr2": "modeling_deepseekocr2.DeepseekOCR2ForCausalLM",
}
#: The class that vLLM and llama.cpp's converter look up.
ARCHITECTURES = {"deepseek_ocr": "DeepseekOCRForCausalLM", "deepseek_ocr2": "DeepseekOCR2ForCausalLM"}
#: Values of config.json, by dotted key. Without ``kv_lora_rank: null`` an engine whose configuration class has another
#: default takes the decoder for one with latent attention; the zeros say that attention is plain.
CONFIG: dict[str, Any] = {
    "model_type": "deepseek_vl_v2",
    "tile_tag": "2D",
    "global_view_pos": "head",
    "projector_config.projector_type": "linear",
    "language_config.architectures": ["DeepseekV2ForCausalLM"],
    "language_config.use_mla": False,
    "language_config.kv_lora_rank": None,
    "language_config.q_lora_rank": None,
    "language_config.qk_nope_head_dim": 0,
    "language_config.qk_rope_head_dim": 0,
    "language_config.v_head_dim": 0,
    "language_config.topk_method": "greedy",
}
#: How SGLang tells the second model from the first.
SECOND_VISION = "deepencoderv2"
#: Keys that the decoder's classes have no fitting default for.
LANGUAGE_KEYS = {
    "vocab_size", "hidden_size", "intermediate_size", "moe_intermediate_size", "num_hidden_layers",
    "num_attention_heads", "num_key_value_heads", "n_routed_experts", "n_shared_experts", "num_experts_per_tok",
    "first_k_dense_replace", "max_position_embeddings", "n_group", "topk_group", "bos_token_id", "eos_token_id",
}  # fmt: skip
FILES = {"config.json", "tokenizer.json", "tokenizer_config.json", "processor_config.json", "model.safetensors"}
#: Arguments of SGLang's processor without a default, and what all of them read.
PROCESSOR_KEYS = {"candidate_resolutions", "patch_size", "downsample_ratio", "image_mean", "image_std", "image_token"}
#: The classes of tokenizers that vLLM's and SGLang's processors accept.
TOKENIZER_CLASSES = {"LlamaTokenizer", "LlamaTokenizerFast"}
#: Modules of the decoder that vLLM adapts, by the last part of their names; routed experts are named one by one.
LORA_MODULES = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
#: What vLLM reads of adapter_config.json besides these is ignored, or refused.
LORA_KEYS = {"r", "lora_alpha", "target_modules"}


def in_vllm(name: str) -> str:
    """Return the name that vLLM gives a weight."""
    for prefix, other in VLLM_PREFIXES.items():
        if name.startswith(prefix):
            return other + name.removeprefix(prefix)
    return name


def in_sglang(name: str) -> str:
    """Return the name that SGLang gives a weight."""
    if name == "lm_head.weight":
        return "model.lm_head.weight"
    own = name.removeprefix("model.")
    vision = ("image_newline", "view_seperator", "projector.", "vision_model.", "qwen2_model.", "sam_model.")
    return own if own.startswith(vision) else f"model.model.{own}"


def complaints(folder: Path, family: str, names: set[str]) -> list[str]:
    """Return what keeps the engines from loading a published folder.

    Args:
        folder: of the model.
        family: ``deepseek_ocr`` or ``deepseek_ocr2``.
        names: of its weights.
    """
    config = json.loads((folder / "config.json").read_text())
    found = [f"no {name}" for name in sorted(FILES) if not (folder / name).exists()]
    for key, wanted in CONFIG.items():
        value: Any = config
        for part in key.split("."):
            value = value.get(part, "missing")
        if value != wanted:
            found.append(f"config.json: {key} is {value}, not {wanted}")
    found += [f"language_config lacks {key}" for key in sorted(LANGUAGE_KEYS - config["language_config"].keys())]
    if (config.get("auto_map") or {}).get("AutoModel") != SGLANG_AUTO_MODEL[family]:
        found.append("SGLang does not recognize auto_map")
    if config["architectures"] != [ARCHITECTURES[family]]:
        found.append(f"vLLM does not recognize {config['architectures']}")
    if (config["vision_config"]["model_name"] == SECOND_VISION) != (family == "deepseek_ocr2"):
        found.append("SGLang takes it for the other model")
    processor = json.loads((folder / "processor_config.json").read_text())
    found += [f"processor_config.json lacks {key}" for key in sorted(PROCESSOR_KEYS - processor.keys())]
    tokenizer = json.loads((folder / "tokenizer_config.json").read_text())
    if tokenizer["tokenizer_class"] not in TOKENIZER_CLASSES:
        found.append(f"tokenizer_class is {tokenizer['tokenizer_class']}")
    if tokenizer.get("add_bos_token") is not True or not _begins_with(folder, tokenizer["bos_token"]):
        found.append("prompts in llama.cpp and vLLM would begin without the token that all prompts begin with")
    if not isinstance(tokenizer.get("extra_special_tokens", {}), dict):
        found.append("transformers 4 takes no list of extra_special_tokens")
    if "<image>" not in (folder / "tokenizer.json").read_text():
        found.append("the tokenizer has no <image>")
    if parts := {in_vllm(name).split(".")[0] for name in names} ^ VLLM_PARTS[family]:
        found.append(f"vLLM misses or does not know {parts}")
    if parts := {in_sglang(name).split(".")[0] for name in names} ^ SGLANG_PARTS[family]:
        found.append(f"SGLang misses or does not know {parts}")
    return found


def _begins_with(folder: Path, token: str) -> bool:
    """Return whether a tokenizer begins each text with a token, for llama.cpp's converter and for vLLM.

    Both go by the template in ``tokenizer.json``: vLLM encodes a prompt with special tokens, and its processor gets
    that; the converter takes a byte-level processor alone for a no, whatever ``tokenizer_config.json`` says.
    """
    processor = json.loads((folder / "tokenizer.json").read_text())["post_processor"] or {}
    templates = [step["single"] for step in processor.get("processors", [processor]) if "single" in step]
    return any(len(single) > 1 and single[0].get("SpecialToken", {}).get("id") == token for single in templates)


def _both(name: str, weight: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": weight, f"{name}.bias": weight[:1]}


def built_shapes(family: str) -> dict[str, tuple[int, ...]]:
    """Return the shapes, by published name, of the model that vLLM and SGLang build with encoders of fixed sizes."""
    found: dict[str, tuple[int, ...]] = {
        "lm_head.weight": (129280, 1280),
        "model.embed_tokens.weight": (129280, 1280),
        "model.norm.weight": (1280,),
        "model.view_seperator": (1280,),
    }
    for layer in range(12):
        name = f"model.layers.{layer}"
        found |= {f"{name}.{norm}.weight": (1280,) for norm in ("input_layernorm", "post_attention_layernorm")}
        found |= {f"{name}.self_attn.{part}_proj.weight": (1280, 1280) for part in "qkvo"}
        if layer == 0:
            found |= _mlp(f"{name}.mlp", 1280, 6848)
            continue
        found |= {f"{name}.mlp.gate.weight": (64, 1280), **_mlp(f"{name}.mlp.shared_experts", 1280, 1792)}
        for expert in range(64):
            found |= _mlp(f"{name}.mlp.experts.{expert}", 1280, 896)
    found |= _sam(1024 if family == "deepseek_ocr" else 896)
    if family == "deepseek_ocr":
        return found | _clip() | _both("model.projector.layers", (1280, 2048)) | {"model.image_newline": (1280,)}
    return found | _qwen2() | _both("model.projector.layers", (1280, 896))


def _mlp(name: str, hidden: int, inner: int) -> dict[str, tuple[int, ...]]:
    return {
        f"{name}.gate_proj.weight": (inner, hidden),
        f"{name}.up_proj.weight": (inner, hidden),
        f"{name}.down_proj.weight": (hidden, inner),
    }


def _sam(channels: int) -> dict[str, tuple[int, ...]]:
    name = "model.sam_model"
    found: dict[str, tuple[int, ...]] = {
        f"{name}.pos_embed": (1, 64, 64, 768),
        **_both(f"{name}.patch_embed.proj", (768, 3, 16, 16)),
        f"{name}.neck.0.weight": (256, 768, 1, 1),
        f"{name}.neck.2.weight": (256, 256, 3, 3),
        **_both(f"{name}.neck.1", (256,)),
        **_both(f"{name}.neck.3", (256,)),
        f"{name}.net_2.weight": (512, 256, 3, 3),
        f"{name}.net_3.weight": (channels, 512, 3, 3),
    }
    for layer in range(12):
        block = f"{name}.blocks.{layer}"
        positions = (127, 64) if layer in (2, 5, 8, 11) else (27, 64)  # 2 * 64 - 1 globally, 2 * 14 - 1 in a window
        found |= {
            **_both(f"{block}.norm1", (768,)),
            **_both(f"{block}.norm2", (768,)),
            **_both(f"{block}.attn.qkv", (2304, 768)),
            **_both(f"{block}.attn.proj", (768, 768)),
            f"{block}.attn.rel_pos_h": positions,
            f"{block}.attn.rel_pos_w": positions,
            **_both(f"{block}.mlp.lin1", (3072, 768)),
            **_both(f"{block}.mlp.lin2", (768, 3072)),
        }
    return found


def _clip() -> dict[str, tuple[int, ...]]:
    name = "model.vision_model"
    found: dict[str, tuple[int, ...]] = {
        f"{name}.embeddings.class_embedding": (1024,),
        f"{name}.embeddings.patch_embedding.weight": (1024, 3, 14, 14),
        f"{name}.embeddings.position_embedding.weight": (257, 1024),
        **_both(f"{name}.pre_layrnorm", (1024,)),
    }
    for layer in range(24):
        block = f"{name}.transformer.layers.{layer}"
        found |= {
            **_both(f"{block}.layer_norm1", (1024,)),
            **_both(f"{block}.layer_norm2", (1024,)),
            **_both(f"{block}.self_attn.qkv_proj", (3072, 1024)),
            **_both(f"{block}.self_attn.out_proj", (1024, 1024)),
            **_both(f"{block}.mlp.fc1", (4096, 1024)),
            **_both(f"{block}.mlp.fc2", (1024, 4096)),
        }
    return found


def _qwen2() -> dict[str, tuple[int, ...]]:
    name = "model.qwen2_model"
    found: dict[str, tuple[int, ...]] = {
        f"{name}.query_768.weight": (144, 896),
        f"{name}.query_1024.weight": (256, 896),
        f"{name}.model.model.norm.weight": (896,),
    }
    for layer in range(24):
        block = f"{name}.model.model.layers.{layer}"
        found |= {
            f"{block}.input_layernorm.weight": (896,),
            f"{block}.post_attention_layernorm.weight": (896,),
            **_both(f"{block}.self_attn.q_proj", (896, 896)),
            **_both(f"{block}.self_attn.k_proj", (128, 896)),
            **_both(f"{block}.self_attn.v_proj", (128, 896)),
            f"{block}.self_attn.o_proj.weight": (896, 896),
            **_mlp(f"{block}.mlp", 896, 4864),
        }
    return found
