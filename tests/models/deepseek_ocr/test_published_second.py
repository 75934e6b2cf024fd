"""The configuration of DeepSeek-OCR-2 as its authors publish it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import AutoConfig

from deepsynth.models.deepseek_ocr import DeepseekOcrConfig
from deepsynth.models.deepseek_ocr.published_second import second_to_published
from deepsynth.models.registry import load_pretrained


def test_the_published_configuration_of_the_second_model() -> None:
    """What its authors publish, as far as an engine reads it: https://huggingface.co/deepseek-ai/DeepSeek-OCR-2."""
    written = second_to_published(load_pretrained(AutoConfig, "deepsynth/full-size-ocr-2"))
    assert written["vision_config"] == {
        "image_size": 1024,
        "mlp_ratio": 3.7362,
        "model_name": "deepencoderv2",
        "model_type": "vision",
        "width": {
            "qwen2-0-5b": {"dim": 896},
            "sam_vit_b": {
                "downsample_channels": [512, 896],
                "global_attn_indexes": [2, 5, 8, 11],
                "heads": 12,
                "layers": 12,
                "width": 768,
            },
        },
    }
    assert written["projector_config"] == {
        "input_dim": 896, "model_type": "mlp_projector", "n_embed": 1280, "projector_type": "linear",
    }  # fmt: skip
    assert {key: written[key] for key in ("hidden_size", "num_hidden_layers", "n_routed_experts", "vocab_size")} == {
        "hidden_size": 1280, "num_hidden_layers": 12, "n_routed_experts": 64, "vocab_size": 129280,
    }  # fmt: skip
    assert written["first_k_dense_replace"] == written["language_config"]["first_k_dense_replace"] == 1
    assert written["image_token_id"] == 3  # of the small tokenizer; 128815 would not be written


@pytest.mark.parametrize("second", [False, True])
@pytest.mark.parametrize(("dtype", "written"), [(None, "float32"), (torch.bfloat16, "bfloat16")])
def test_the_dtype_stands_twice(second: bool, dtype: Any, written: str) -> None:
    config = load_pretrained(AutoConfig, "deepsynth/full-size-ocr-2") if second else DeepseekOcrConfig()
    config.dtype = dtype
    found = second_to_published(config) if second else config.to_published()
    assert found["torch_dtype"] == found["language_config"]["torch_dtype"] == written


def test_sizes_that_the_original_code_has_as_literals_are_written_where_they_differ() -> None:
    config = load_pretrained(AutoConfig, "deepsynth/full-size-ocr-2")
    config.image_token_id = 128815
    config.vision_config.encoder_config.num_hidden_layers = 2
    config.vision_config.encoder_config.num_key_value_heads = 7
    config.vision_config.sam_config.mlp_dim = 100
    config.vision_config.sam_config.window_size = 7
    config.text_config.pad_token_id = 5
    written = second_to_published(config)
    width = written["vision_config"]["width"]
    assert width["qwen2-0-5b"] == {"dim": 896, "num_hidden_layers": 2, "num_key_value_heads": 7}
    assert (width["sam_vit_b"]["mlp_dim"], width["sam_vit_b"]["window_size"]) == (100, 7)
    assert "patch_size" not in width["sam_vit_b"]
    assert written["pad_token_id"] == written["language_config"]["pad_token_id"] == 5
    assert "rope_theta" not in written
    assert "image_token_id" not in written
