"""Adapters under the names that vLLM's loader matches, and those that it would not take."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from deepsynth.__main__ import main
from deepsynth.errors import UserError
from deepsynth.export.foreign import read_tensors
from deepsynth.export.merge import export_model
from tests.export.test_export import REFERENCE, changed_config, write_adapter
from tests.helpers.engine_rules import LORA_KEYS, LORA_MODULES, in_vllm
from tests.helpers.training import make_module

BASES = {"deepseek_ocr": str(REFERENCE), "deepseek_ocr2": "deepsynth/tiny-random"}


@pytest.mark.parametrize("family", BASES)
def test_each_tensor_leads_to_a_module_that_vllm_adapts(
    family: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    adapter = write_adapter(BASES[family], tmp_path / "adapter", "attention", mlp=True, experts="shared", rslora=True)
    assert main(["export", str(adapter), f"--output={tmp_path / 'out'}", "--format=vllm-lora"]) == 0
    said = capsys.readouterr().out
    layers = 4 if family == "deepseek_ocr" else 3
    assert f"PASS: {4 * layers + 3 * layers} layers under names and shapes" in said  # 4 of attention, 3 of an MLP
    assert "--enable-lora --max-lora-rank 8 --lora-modules mine=" in said
    written = load_file(tmp_path / "out/adapter_model.safetensors")
    for name in written:
        module, _, kind = name.removeprefix("base_model.model.").rpartition(".lora_")
        assert kind in ("A.weight", "B.weight")
        assert in_vllm(f"{module}.").startswith("language_model.model.layers.")
        assert module.rpartition(".")[2] in LORA_MODULES
        assert ".experts." not in name
    config = json.loads((tmp_path / "out/adapter_config.json").read_text())
    assert config.keys() >= LORA_KEYS
    assert (config["r"], config["lora_alpha"], config["use_rslora"], config["bias"]) == (4, 8, True, "none")
    assert set(config["target_modules"]) == LORA_MODULES
    before, after = (read_tensors(folder / "adapter_model.safetensors") for folder in (adapter, tmp_path / "out"))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_the_names_that_training_writes_are_taken_as_they_are(tmp_path: Path) -> None:
    module = make_module(mlp=True)
    module.configure_model()
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if "lora_B" in name:
                parameter.normal_()
    module.save_adapter(tmp_path / "own")
    export_model(tmp_path / "own", output=tmp_path / "out", format="vllm-lora", base="deepsynth/tiny-random")
    own, written = (load_file(tmp_path / place / "adapter_model.safetensors") for place in ("own", "out"))
    assert own.keys() == written.keys()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"experts": "routed"}, "adapts routed experts"),
        ({"vision": True}, "adapts the vision encoder"),
        ({"projector": True}, "adapts the projector"),
        ({"dora": True}, "is DoRA, which vLLM refuses"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_what_vllm_does_not_adapt_is_refused_with_the_way_that_works(
    changes: dict[str, Any], said: str, tmp_path: Path
) -> None:
    adapter = write_adapter(BASES["deepseek_ocr"], tmp_path / "adapter", "attention", **changes)
    with pytest.raises(UserError, match=rf"format is 'vllm-lora', but .*{said}.*; merge it: --format published"):
        export_model(adapter, output=tmp_path / "out", format="vllm-lora")
    assert not (tmp_path / "out").exists()


def test_what_vllm_would_take_for_something_else_is_refused(tmp_path: Path) -> None:
    adapter = write_adapter(BASES["deepseek_ocr2"], tmp_path / "adapter", "attention")

    def refused(message: str) -> None:
        with pytest.raises(UserError, match=message):
            export_model(adapter, output=tmp_path / "out", format="vllm-lora")
        assert not (tmp_path / "out").exists()

    (adapter / "deepsynth.json").write_text('{"lora": {"init": "loftq"}}')
    refused("belongs to weights in nf4")
    (adapter / "deepsynth.json").unlink()
    changed_config(adapter, rank_pattern={"q_proj": 8})
    refused("has ranks or scales by module")
    changed_config(adapter, rank_pattern={}, r=8)
    refused(r"is not an adapter of deepsynth/tiny-random: 12 keys \(model.layers.0.self_attn.k_proj")
    changed_config(adapter, r=4)
    file = adapter / "adapter_model.safetensors"
    whole = load_file(file)
    save_file({name: tensor for name, tensor in whole.items() if "layers.1.self_attn.q_proj.lora_B" not in name}, file)
    refused(r"is not an adapter of .*: 1 keys \(model.layers.1.self_attn.q_proj\)")
    save_file({name: tensor * ("lora_A" in name) for name, tensor in whole.items()}, file)
    refused("holds only zeros")
