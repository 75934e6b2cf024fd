"""Adapter folders as other programs load them."""

from __future__ import annotations

import json
from pathlib import Path

from peft import PeftModel
from transformers import AutoModelForImageTextToText

from deepsynth.models.registry import resolve_model_name
from tests.helpers.training import make_module


def test_a_written_adapter_is_loaded_frozen_and_the_module_s_own_stays_trainable(tmp_path: Path) -> None:
    module = make_module()
    module.configure_model()
    module.save_adapter(tmp_path / "adapter")
    assert json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())["inference_mode"] is True
    base = AutoModelForImageTextToText.from_pretrained(resolve_model_name("deepsynth/tiny-random"))
    loaded = PeftModel.from_pretrained(base, str(tmp_path / "adapter"))
    assert [name for name, parameter in loaded.named_parameters() if parameter.requires_grad] == []
    own = {name for name, parameter in module.named_parameters() if parameter.requires_grad}
    assert own
    assert all("lora_" in name for name in own)
    assert not module.model.peft_config["default"].inference_mode
