"""The table of supported models against the models themselves."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForImageTextToText, DeepseekOcr2Config

from deepsynth.models.deepseek_ocr import DeepseekOcrConfig
from deepsynth.models.deepseek_ocr.configuration import TEXT
from deepsynth.models.lora import LoraScope, lora_config
from deepsynth.models.registry import resolve_model_name
from deepsynth.models.supported import LORA_SCOPES, SUPPORTED, SupportedModel, family_of, lora_parameters

SCOPES = {
    "attention": LoraScope(),
    "mlp": LoraScope(attention=False, mlp=True),
    "experts=shared": LoraScope(attention=False, experts="shared"),
    "experts=routed": LoraScope(attention=False, experts="routed"),
}


def _config(supported: SupportedModel) -> Any:
    if supported.name == "deepseek-ai/DeepSeek-OCR":
        return DeepseekOcrConfig()
    if supported.name == "deepseek-community/DeepSeek-OCR-2":
        small = {"encoder_config": {"hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}}
        return DeepseekOcr2Config(text_config=TEXT, vision_config=small)
    return AutoConfig.from_pretrained(resolve_model_name(supported.name))


@pytest.mark.parametrize("supported", SUPPORTED, ids=lambda supported: supported.name)
def test_classes_and_lora_parameters(supported: SupportedModel) -> None:
    """What peft trains at rank 16, all of it in the decoder, is what the table and the formula say."""
    from peft import get_peft_model

    assert tuple(SCOPES) == LORA_SCOPES
    config = _config(supported)
    assert family_of(config) == supported.family
    found = {}
    for name, scope in SCOPES.items():
        if lora_parameters(config)[name] == 0:  # a decoder without experts
            found[name] = 0
            continue
        with torch.device("meta"):
            model = AutoModelForImageTextToText.from_config(config)
            assert type(model).__name__ == supported.model_class
            adapter = lora_config(
                model,
                scope,
                rank=16,
                alpha=32,
                dropout=0.0,
                rslora=False,
                dora=False,
                init="default",
                base_model_name="base",
            )
            trained = [(n, p.numel()) for n, p in get_peft_model(model, adapter).named_parameters() if p.requires_grad]
        assert all(".language_model.layers." in parameter for parameter, _ in trained)
        found[name] = sum(size for _, size in trained)
    assert found == lora_parameters(config)
    assert supported.lora_parameters in ({}, found)


def test_modes_are_listed() -> None:
    """By the names of the layouts."""
    assert [model.modes for model in SUPPORTED[:2]] == [
        ("tiny", "small", "base", "large", "gundam"),
        ("small", "base", "gundam"),
    ]


def test_other_architectures_are_refused_with_the_list() -> None:
    """The line names what there is."""
    with pytest.raises(ValueError, match=r"'llama'.*deepseek-ai/DeepSeek-OCR .*DeepSeek-OCR-2 .*tiny-random"):
        family_of(SimpleNamespace(model_type="llama"))
