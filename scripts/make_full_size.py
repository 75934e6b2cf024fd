"""Write the built-in full-size architectures: configuration and processor, no weights (``weights: random`` fills them).

    python scripts/make_full_size.py

The sizes are those of the published ``config.json`` files. The tokenizers are the small models' own: how a text becomes
ids matters to neither speed nor memory, and the embedding and the head have the published number of rows all the same.
The chat templates write the same tokens around a page, a prompt and an answer as the published ones.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from transformers import AutoProcessor, DeepseekOcr2Config, GenerationConfig, PreTrainedTokenizerFast
from transformers.models.glm46v.image_processing_pil_glm46v import Glm46VImageProcessorPil
from transformers.models.glm_ocr.configuration_glm_ocr import GlmOcrConfig
from transformers.models.paddleocr_vl.configuration_paddleocr_vl import PaddleOCRVLConfig
from transformers.models.paddleocr_vl.image_processing_pil_paddleocr_vl import PaddleOCRVLImageProcessorPil
from transformers.models.paddleocr_vl.processing_paddleocr_vl import PaddleOCRVLProcessor
from transformers.models.qwen2_5_vl.configuration_qwen2_5_vl import Qwen2_5_VLConfig
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.models.qwen3_vl.configuration_qwen3_vl import Qwen3VLConfig

from deepsynth.models.deepseek_ocr import DeepseekOcrConfig
from deepsynth.models.deepseek_ocr.configuration import TEXT
from deepsynth.models.registry import BUILTIN, FAMILIES, load_pretrained, resolve_model_name

#: transformers has no defaults of the published sizes for DeepSeek-OCR-2's second encoder.
ENCODER = {
    "hidden_size": 896,
    "intermediate_size": 4864,
    "num_hidden_layers": 24,
    "num_attention_heads": 14,
    "num_key_value_heads": 2,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
}
SIDE_PX = 1024


def write(name: str, small: str) -> None:
    """Write one folder of DeepSeek-OCR, with the tokenizer of the small model."""
    folder = Path(resolve_model_name(small)).parent / BUILTIN[name]
    shutil.rmtree(folder, ignore_errors=True)
    processor = load_pretrained(AutoProcessor, small)
    processor.patch_size = 16
    # The small model reads fewer positions, and its tokenizer would warn of texts that this one takes.
    processor.tokenizer.model_max_length = TEXT["max_position_embeddings"]
    processor.image_processor.size = {"height": SIDE_PX, "width": SIDE_PX}
    text = {
        **TEXT,
        **{key: getattr(processor.tokenizer, key) for key in ("bos_token_id", "eos_token_id", "pad_token_id")},
    }
    if name.endswith("2"):
        processor.image_processor.tile_size = SIDE_PX
        vision = {"sam_config": {}, "encoder_config": ENCODER}
        config = DeepseekOcr2Config(text_config=text, vision_config=vision, image_token_id=processor.image_token_id)
        config.architectures = ["DeepseekOcr2ForConditionalGeneration"]
    else:
        config = DeepseekOcrConfig(text_config=text, image_token_id=processor.image_token_id)
        config.architectures = ["DeepseekOcrForConditionalGeneration"]
    config.dtype = "bfloat16"
    config.save_pretrained(folder)
    processor.save_pretrained(folder)


# ---------------------------------------------------------------------- models with a chat template

#: A turn of images first, then texts.
_CONTENT = (
    "{%- for part in message['content'] -%}{%- if part['type'] == 'image' -%}IMAGE{%- endif -%}{%- endfor -%}"
    "{%- for part in message['content'] -%}{%- if part['type'] == 'text' -%}{{ part['text'] }}{%- endif -%}"
    "{%- endfor -%}"
)


def template(*, start: str, user: str, image: str, end_of_user: str, assistant: str, end_of_answer: str) -> str:
    """Return a chat template of these strings."""
    content = _CONTENT.replace("IMAGE", f"{{{{ {image!r} }}}}")
    return (
        f"{{{{- {start!r} -}}}}"
        "{%- for message in messages -%}{%- if message['role'] == 'user' -%}"
        f"{{{{- {user!r} -}}}}{content}{{{{- {end_of_user!r} -}}}}"
        "{%- elif message['role'] == 'assistant' -%}"
        f"{{{{- {assistant!r} -}}}}{content}{{{{- {end_of_answer!r} -}}}}"
        "{%- endif -%}{%- endfor -%}"
        f"{{%- if add_generation_prompt -%}}{{{{- {assistant!r} -}}}}{{%- endif -%}}"
    )


@dataclass(frozen=True)
class ChatModel:
    """A published model with a chat template.

    Attributes:
        config: its class.
        architecture: the name of the model's class.
        processor: its class.
        image_processor: its class.
        sizes: of the image processor: pixels.
        tokens: begin, end and padding of a text, and the token of an image feature.
        others: its other special tokens.
        chat: arguments of :func:`template`.
        text: of the configuration.
        vision: of the configuration.
        top: of the configuration.
    """

    config: Any
    architecture: str
    processor: Any
    image_processor: Any
    sizes: dict[str, int]
    tokens: tuple[str, str, str, str]
    others: tuple[str, ...]
    chat: dict[str, str]
    text: dict[str, Any]
    vision: dict[str, Any]
    top: dict[str, Any] = field(default_factory=dict)


#: Tokens of Qwen's vision-language models, and what surrounds a page and a text of theirs.
QWEN_TOKENS = (
    ("<|im_start|>", "<|im_end|>", "<|endoftext|>", "<|image_pad|>"),
    ("<|vision_start|>", "<|vision_end|>", "<|video_pad|>"),
)
QWEN_FRAME = {
    "user": "<|im_start|>user\n",
    "image": "<|vision_start|><|image_pad|><|vision_end|>",
    "end_of_user": "<|im_end|>\n",
    "assistant": "<|im_start|>assistant\n",
    "end_of_answer": "<|im_end|>\n",
}

CHAT_MODELS = {
    "deepsynth/full-size-paddleocr-vl": ChatModel(
        PaddleOCRVLConfig,
        "PaddleOCRVLForConditionalGeneration",
        PaddleOCRVLProcessor,
        PaddleOCRVLImageProcessorPil,
        {"shortest_edge": 112896, "longest_edge": 1003520},
        ("<|begin_of_sentence|>", "</s>", "<unk>", "<|IMAGE_PLACEHOLDER|>"),
        ("<|IMAGE_START|>", "<|IMAGE_END|>", "<|end_of_sentence|>"),
        {
            "start": "<|begin_of_sentence|>",
            "user": "User: ",
            "image": "<|IMAGE_START|><|IMAGE_PLACEHOLDER|><|IMAGE_END|>",
            "end_of_user": "\n",
            "assistant": "Assistant:\n",
            "end_of_answer": "</s>",
        },
        # The defaults of transformers are the published sizes, but the published head has weights of its own.
        {
            "rope_parameters": {"rope_type": "default", "rope_theta": 500000.0, "mrope_section": [16, 24, 24]},
            "tie_word_embeddings": False,
        },
        {},
        {"tie_word_embeddings": False},
    ),
    "deepsynth/full-size-glm-ocr": ChatModel(
        GlmOcrConfig,
        "GlmOcrForConditionalGeneration",
        FAMILIES["glm_ocr"].processor_class(),
        Glm46VImageProcessorPil,
        {"shortest_edge": 12544, "longest_edge": 9633792},
        ("[gMASK]", "<|endoftext|>", "<|system|>", "<|image|>"),
        (
            *("<sop>", "<|user|>", "<|assistant|>", "<|begin_of_image|>", "<|end_of_image|>"),
            *("<|video|>", "<|begin_of_video|>", "<|end_of_video|>"),
        ),
        {
            "start": "[gMASK]<sop>",
            "user": "<|user|>\n",
            "image": "<|begin_of_image|><|image|><|end_of_image|>",
            "end_of_user": "",
            "assistant": "<|assistant|>\n",
            "end_of_answer": "",
        },
        {
            "hidden_size": 1536,
            "intermediate_size": 4608,
            "num_hidden_layers": 16,
            "num_attention_heads": 16,
            "num_key_value_heads": 8,
            "head_dim": 128,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [16, 24, 24]},
        },
        {"out_hidden_size": 1536},
    ),
    "deepsynth/full-size-qwen2.5-vl": ChatModel(
        Qwen2_5_VLConfig,
        "Qwen2_5_VLForConditionalGeneration",
        FAMILIES["qwen2_5_vl"].processor_class(),
        Qwen2VLImageProcessorPil,
        {"shortest_edge": 3136, "longest_edge": 12845056},
        *QWEN_TOKENS,
        {**QWEN_FRAME, "start": "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"},
        {
            "vocab_size": 151936,
            "hidden_size": 2048,
            "intermediate_size": 11008,
            "num_hidden_layers": 36,
            "num_attention_heads": 16,
            "num_key_value_heads": 2,
            "max_position_embeddings": 128000,
            "rms_norm_eps": 1e-6,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]},
        },
        {"hidden_size": 1280, "intermediate_size": 3420, "out_hidden_size": 2048, "tokens_per_second": 2},
        {"tie_word_embeddings": True},
    ),
    "deepsynth/full-size-qwen3-vl": ChatModel(  # Qwen3-VL-2B-Instruct
        Qwen3VLConfig,
        "Qwen3VLForConditionalGeneration",
        FAMILIES["qwen3_vl"].processor_class(),
        partial(Qwen2VLImageProcessorPil, patch_size=16, image_mean=[0.5] * 3, image_std=[0.5] * 3),
        {"shortest_edge": 65536, "longest_edge": 16777216},
        *QWEN_TOKENS,
        {**QWEN_FRAME, "start": ""},
        {
            "vocab_size": 151936,
            "hidden_size": 2048,
            "intermediate_size": 6144,
            "num_hidden_layers": 28,
            "num_attention_heads": 16,
            "num_key_value_heads": 8,
            "head_dim": 128,
            "max_position_embeddings": 262144,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 5e6,
                "mrope_section": [24, 20, 20],
                "mrope_interleaved": True,
            },
        },
        {
            "hidden_size": 1024,
            "intermediate_size": 4096,
            "depth": 24,
            "num_heads": 16,
            "out_hidden_size": 2048,
            "deepstack_visual_indexes": [5, 11, 17],
        },
        {"tie_word_embeddings": True},
    ),
}


def tokenizer_of(model: ChatModel) -> Any:
    """Return the small model's tokenizer with the special tokens of another one, in place of its first four."""
    small = json.loads((Path(resolve_model_name("deepsynth/tiny")) / "tokenizer.json").read_text())
    small["added_tokens"] = small["added_tokens"][: len(model.tokens)]  # without markup
    names = {token["content"]: new for token, new in zip(small["added_tokens"], model.tokens, strict=True)}
    for token in small["added_tokens"]:
        token["content"] = names[token["content"]]
    small["model"]["vocab"] = {names.get(token, token): index for token, index in small["model"]["vocab"].items()}
    begin, end, padding, image = model.tokens
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(small)),
        bos_token=begin,
        eos_token=end,
        pad_token=padding,
        extra_special_tokens={"image_token": image},
        clean_up_tokenization_spaces=False,
    )
    tokenizer.add_special_tokens({"additional_special_tokens": list(model.others)})
    return tokenizer


def write_chat_model(name: str, model: ChatModel) -> None:
    """Write one folder of a model with a chat template."""
    folder = Path(resolve_model_name("deepsynth/tiny")).parent / BUILTIN[name]
    shutil.rmtree(folder, ignore_errors=True)
    tokenizer = tokenizer_of(model)
    processor = model.processor(model.image_processor(size=model.sizes), tokenizer, template(**model.chat))
    ends = {key: getattr(tokenizer, key) for key in ("bos_token_id", "eos_token_id", "pad_token_id")}
    named = {
        key: int(tokenizer.convert_tokens_to_ids(token))
        for key, tokens in {
            "image_token_id": ("<|IMAGE_PLACEHOLDER|>", "<|image|>", "<|image_pad|>"),
            "video_token_id": ("<|video|>", "<|video_pad|>"),
            "vision_start_token_id": ("<|IMAGE_START|>", "<|vision_start|>"),
            "vision_end_token_id": ("<|IMAGE_END|>", "<|vision_end|>"),
            "image_start_token_id": ("<|begin_of_image|>",),
            "image_end_token_id": ("<|end_of_image|>",),
            "video_start_token_id": ("<|begin_of_video|>",),
            "video_end_token_id": ("<|end_of_video|>",),
        }.items()
        for token in tokens
        if token in tokenizer.get_vocab()
    }
    config = model.config(
        text_config={**model.text, **ends}, vision_config=dict(model.vision), **named, **ends, **model.top
    )
    config.architectures = [model.architecture]
    config.dtype = "bfloat16"
    config.save_pretrained(folder)
    stops = [tokenizer.eos_token_id]
    if "<|user|>" in model.others:  # a text ends where the next turn would begin
        stops.append(tokenizer.convert_tokens_to_ids("<|user|>"))
    GenerationConfig(**{**ends, "eos_token_id": stops}).save_pretrained(folder)
    processor.save_pretrained(folder)


if __name__ == "__main__":
    write("deepsynth/full-size-ocr", "deepsynth/tiny")
    write("deepsynth/full-size-ocr-2", "deepsynth/tiny-random")
    for name, model in CHAT_MODELS.items():
        write_chat_model(name, model)
