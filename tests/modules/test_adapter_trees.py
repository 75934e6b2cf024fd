"""Adapters of DeepSeek-OCR in DeepSynth's classes and in transformers' load into each other."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText, AutoProcessor
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from deepsynth.export import export_model
from deepsynth.export.plain_transformers import write_for_transformers
from deepsynth.models import register
from deepsynth.models.registry import load_pretrained
from tests.helpers.training import make_module

register()

pytestmark = pytest.mark.skipif("unlimited_ocr" not in CONFIG_MAPPING, reason="this transformers lacks the layers")

OURS = str(Path(__file__).parents[1] / "fixtures/deepseek_ocr_v1/model")


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The same weights as transformers has the layers."""
    folder = tmp_path_factory.mktemp("theirs")
    model = load_pretrained(AutoModelForImageTextToText, OURS, dtype=torch.float32)
    write_for_transformers(model, load_pretrained(AutoProcessor, OURS), folder, "5GB")
    return str(folder)


def module_of(base: str, **settings: Any) -> Any:
    module = make_module(model_name=base, mlp=True, experts="all", vision=True, projector=True, **settings)
    module.configure_model()
    return module


@pytest.mark.parametrize(
    "there_and_back",
    [
        pytest.param(False, id="ours into theirs"),
        pytest.param(True, id="theirs into ours", marks=pytest.mark.slow),
    ],
)
def test_adapters_load_into_the_other_tree(there_and_back: bool, theirs: str, tmp_path: Path) -> None:
    """As the start of a training, and to be merged."""
    first, second = (theirs, OURS) if there_and_back else (OURS, theirs)
    trained = module_of(first)
    with torch.no_grad():
        for name, parameter in trained.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.05, generator=torch.Generator().manual_seed(len(name)))
    trained.save_adapter(tmp_path / "adapter")
    stored = load_file(tmp_path / "adapter/adapter_model.safetensors")
    assert any("vision_encoder" in name for name in stored)
    other = module_of(second, adapter=str(tmp_path / "adapter"))
    torch.manual_seed(0)
    inputs = {"input_ids": torch.tensor([[0, 5, 6, 7, 8]])}
    pixels = torch.randn(1, 3, 256, 256)
    models = [module.model.get_base_model().eval() for module in (trained, other)]
    with torch.no_grad():
        towers = [model.model.vision_tower(pixels).last_hidden_state for model in models]
        logits = [model(**inputs).logits for model in models]
    torch.testing.assert_close(towers[0], towers[1])
    torch.testing.assert_close(logits[0], logits[1], rtol=0, atol=1e-5)
    report = export_model(tmp_path / "adapter", output=tmp_path / "merged", base=second)
    assert report.changed == len({name.partition(".lora_")[0] for name in stored})


#: A transformers that has brought the model: its own classes under the name, before DeepSynth is imported.
NATIVE = """
import sys
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor, PreTrainedTokenizerFast
from transformers import UnlimitedOcrConfig, UnlimitedOcrForConditionalGeneration

class DeepseekOcrConfig(UnlimitedOcrConfig):
    model_type = "deepseek_ocr"

class DeepseekOcrForConditionalGeneration(UnlimitedOcrForConditionalGeneration):
    config: DeepseekOcrConfig
    config_class = DeepseekOcrConfig

AutoConfig.register("deepseek_ocr", DeepseekOcrConfig)
AutoModelForImageTextToText.register(DeepseekOcrConfig, DeepseekOcrForConditionalGeneration)

import pathlib, torch
from safetensors.torch import load_file
from deepsynth.models.lora import LoraSettings, lora_config
from deepsynth.models.registry import family_of, load_pretrained
from deepsynth.modules.adapter import by_own_names, from_file_name, read_adapter
from peft import get_peft_model

folder, adapter = sys.argv[1:]
config = UnlimitedOcrConfig.from_pretrained(folder).to_dict()
native = pathlib.Path(adapter).parent / "native"
model = DeepseekOcrForConditionalGeneration(DeepseekOcrConfig(**{k: v for k, v in config.items() if k != "model_type"}))
model.load_state_dict(UnlimitedOcrForConditionalGeneration.from_pretrained(folder).state_dict())
model.save_pretrained(native, save_original_format=False)
loaded = load_pretrained(AutoModelForImageTextToText, str(native))
assert type(loaded) is DeepseekOcrForConditionalGeneration, type(loaded)
assert family_of(loaded.config).name == "deepseek_ocr"
lora = LoraSettings(mlp=True, experts="all", vision=True, projector=True)
adapted = get_peft_model(loaded, lora_config(loaded, lora, base_model_name="native"))
read_adapter(adapted, pathlib.Path(adapter))
stored = load_file(pathlib.Path(adapter) / "adapter_model.safetensors")
own = dict(adapted.named_parameters())
for name, tensor in by_own_names({from_file_name(n): t for n, t in stored.items()}, adapted).items():
    found = own[name.replace(".weight", ".default.weight")]
    assert torch.equal(found, tensor.to(found)), name
print("loaded", len(stored))
"""


@pytest.mark.slow
def test_native_classes_win_and_take_adapters_of_ours(theirs: str, tmp_path: Path) -> None:
    """With a stand-in for a transformers that has the model: its classes load, our adapter fits them."""
    module_of(OURS).save_adapter(tmp_path / "adapter")
    command = [sys.executable, "-c", NATIVE, theirs, str(tmp_path / "adapter")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    stored = load_file(tmp_path / "adapter/adapter_model.safetensors")
    assert done.stdout.split() == ["loaded", str(len(stored))]
    assert "transformers' own classes are used for deepseek_ocr" in done.stderr
