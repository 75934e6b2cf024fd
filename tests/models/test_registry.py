"""Names, families and registration of the supported models."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor, DeepseekOcr2Config

from deepsynth.errors import UserError
from deepsynth.models.deepseek_ocr import DeepseekOcrConfig
from deepsynth.models.deepseek_ocr.configuration import TEXT
from deepsynth.models.lora import LoraSettings, lora_config
from deepsynth.models.registry import BUILTIN, FAMILIES, family_of, load_pretrained, resolve_model_name
from deepsynth.modules import EngineSettings
from tests.helpers.lora_counts import lora_parameters
from tests.helpers.tiny_models import byte_tokenizer

SCOPES = {
    "attention": LoraSettings(),
    "mlp": LoraSettings(attention=False, mlp=True),
    "experts=shared": LoraSettings(attention=False, experts="shared"),
    "experts=routed": LoraSettings(attention=False, experts="routed"),
}
#: Of the published decoder at rank 16, the same in both versions.
PUBLISHED = {"attention": 1_966_080, "mlp": 390_144, "experts=shared": 1_622_016, "experts=routed": 59_113_472}


def published_second() -> DeepseekOcr2Config:
    small = {"encoder_config": {"hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}}
    return DeepseekOcr2Config(text_config=TEXT, vision_config=small)


@pytest.mark.parametrize(
    ("make_config", "family", "expected"),
    [
        (DeepseekOcrConfig, "deepseek_ocr", PUBLISHED),
        (published_second, "deepseek_ocr2", PUBLISHED),
        (lambda: load_pretrained(AutoConfig, "deepsynth/tiny"), "deepseek_ocr", None),
        (lambda: load_pretrained(AutoConfig, "deepsynth/tiny-random"), "deepseek_ocr2", None),
    ],
    ids=["v1", "v2", "tiny", "tiny-random"],
)
def test_families_and_lora_parameters(make_config: Any, family: str, expected: dict[str, int] | None) -> None:
    """What peft trains at rank 16 is all in the decoder, and as many parameters as counted by hand."""
    from peft import get_peft_model

    config = make_config()
    assert family_of(config).name == family
    found = {}
    for name, scope in SCOPES.items():
        if lora_parameters(config)[name] == 0:  # a decoder without experts
            found[name] = 0
            continue
        with torch.device("meta"):
            model = AutoModelForImageTextToText.from_config(config)
            adapter = lora_config(model, scope, base_model_name="base")
            trained = [(n, p.numel()) for n, p in get_peft_model(model, adapter).named_parameters() if p.requires_grad]
        assert all(".language_model.layers." in parameter for parameter, _ in trained)
        found[name] = sum(size for _, size in trained)
    assert found == lora_parameters(config)
    assert expected in (None, found)


def test_adapters_for_vllm_are_for_the_models_whose_names_there_are_known() -> None:
    """A new family says that it has none, until a test has loaded one."""
    assert {name for name, each in FAMILIES.items() if each.supports("vllm_lora")} == {"deepseek_ocr", "deepseek_ocr2"}


def test_other_architectures_are_refused_with_the_list() -> None:
    with pytest.raises(
        UserError, match=r"'llama' \(no architectures\);.*deepseek-ai/DeepSeek-OCR .*DeepSeek-OCR-2 .*tiny-random"
    ):
        family_of(SimpleNamespace(model_type="llama"))


def test_a_model_of_the_package_is_loaded_without_a_bar_and_others_with_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    load_pretrained(AutoModelForImageTextToText, "deepsynth/tiny-random")
    assert "Loading weights" not in capsys.readouterr().err
    shutil.copytree(resolve_model_name("deepsynth/tiny-random"), tmp_path / "model")
    load_pretrained(AutoModelForImageTextToText, str(tmp_path / "model"))
    assert "Loading weights" in capsys.readouterr().err


def test_names_are_folders_or_repositories(tmp_path: Path) -> None:
    assert resolve_model_name("owner/repository") == "owner/repository"
    assert all(resolve_model_name(name) != name for name in BUILTIN)
    with pytest.raises(UserError, match=r"'deepsynth/huge'; it must be one of deepsynth/full-size-glm-ocr, .*tiny"):
        resolve_model_name("deepsynth/huge")
    for name in ("./nowhere", "/nowhere/at-all", "~/nowhere", "nowhere", "a/b/c"):
        with pytest.raises(UserError, match=rf"^model_name is '{name}', which is not a folder"):
            resolve_model_name(name)
    with pytest.raises(
        UserError, match=r"^model_name is '', which is not a folder; it must be a folder with config\.json"
    ):
        resolve_model_name("")  # as a path it is the current folder
    with pytest.raises(UserError, match=rf"^model_name is '{tmp_path}', a folder without config.json; it must be a fo"):
        resolve_model_name(str(tmp_path))
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(UserError, match="an adapter's folder; give that as --ckpt_path; it must be a folder with"):
        resolve_model_name(str(tmp_path))
    with pytest.raises(UserError, match=r"'owner/no such name' cannot be loaded: .*Repo id must"):
        load_pretrained(AutoConfig, "owner/no such name", local_files_only=True)


REMOTE = {
    "model_type": "evil",
    "architectures": ["Evil"],
    "auto_map": dict.fromkeys(("AutoConfig", "AutoModelForImageTextToText", "AutoProcessor"), "evil.Evil"),
}


@pytest.mark.parametrize("answer", ["y", ""])
def test_the_code_of_a_model_is_never_run_and_nobody_is_asked(
    answer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(REMOTE))
    (tmp_path / "processor_config.json").write_text(json.dumps(REMOTE))
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Evil: pass\n")
    monkeypatch.setattr("builtins.input", lambda prompt="": answer)
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n" * 9))
    for auto_class in (AutoConfig, AutoProcessor, AutoModelForImageTextToText):
        with pytest.raises(UserError, match=r"a model with remote code, which DeepSynth never runs; it must be"):
            load_pretrained(auto_class, str(tmp_path))
    assert not (tmp_path / "ran").exists()


def test_a_published_model_needs_none_of_the_code_that_it_names(tmp_path: Path) -> None:
    """Published folders name code for transformers without the classes; these are there, and the code is not run."""
    config = DeepseekOcrConfig().to_published() | {"auto_map": REMOTE["auto_map"]}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Evil: pass\n")
    assert type(load_pretrained(AutoConfig, str(tmp_path))) is DeepseekOcrConfig
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("key", ["attn_implementation", "_attn_implementation", "_experts_implementation_internal"])
@pytest.mark.parametrize("part", [None, "text_config", "vision_config"])
def test_a_model_chooses_no_kernel_of_the_hub(part: str | None, key: str, tmp_path: Path) -> None:
    """transformers takes the choice from the file, also over the one that it is given, and runs what it downloads."""
    folder = tmp_path / "model"
    shutil.copytree(resolve_model_name("deepsynth/tiny-random"), folder)
    config = json.loads((folder / "config.json").read_text())
    (config[part] if part else config)[key] = "evil/kernel" if part else {"text_config": "evil/kernel"}
    (folder / "config.json").write_text(json.dumps(config))
    for auto_class in (AutoConfig, AutoModelForImageTextToText):
        with pytest.raises(UserError, match=rf"config.json has {key}.* 'evil/kernel': a kernel, which is code"):
            load_pretrained(auto_class, str(folder))


@pytest.mark.parametrize(("auto_class", "file"), [(AutoConfig, "config.json"), (AutoProcessor, "tokenizer.json")])
def test_files_are_read_once_until_they_change(
    auto_class: Any, file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(resolve_model_name("deepsynth/tiny-random"), folder)
    read: list[str] = []
    from_pretrained = auto_class.from_pretrained
    monkeypatch.setattr(auto_class, "from_pretrained", lambda *a, **k: read.append(a[0]) or from_pretrained(*a, **k))
    first = load_pretrained(auto_class, str(folder))
    kept = first.to_dict()
    first.own = "changed by one caller"
    second = load_pretrained(auto_class, str(folder))
    assert not hasattr(second, "own")
    assert second.to_dict() == kept
    assert len(read) == 1
    (folder / file).write_text((folder / file).read_text() + "\n")
    load_pretrained(auto_class, str(folder))
    assert len(read) == 2


def test_weights_are_read_from_safetensors_alone(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(resolve_model_name("deepsynth/tiny-random"), folder)
    (folder / "model.safetensors").unlink()
    torch.save({}, folder / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"cannot be loaded: .*model.safetensors"):
        load_pretrained(AutoModelForImageTextToText, str(folder))


def test_kernels_of_the_hub_cannot_be_asked_for() -> None:
    with pytest.raises(UserError, match=r"experts_implementation is 'evil/kernel'; it must be eager, grouped_mm"):
        EngineSettings(experts_implementation="evil/kernel")


@pytest.mark.slow
def test_a_spawned_worker_loads_its_processor_by_itself(tmp_path: Path) -> None:
    """Nothing registers the classes for it but the processor's own loading."""
    code = """
import multiprocessing
from deepsynth.data import OcrProcessor

def load(processor):
    return type(processor.hf_processor).__name__

if __name__ == "__main__":
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        print(pool.apply(load, [OcrProcessor("deepsynth/tiny")]))
"""
    (tmp_path / "program.py").write_text(code)
    found = subprocess.run([sys.executable, str(tmp_path / "program.py")], capture_output=True, text=True)
    assert found.stdout.strip() == "DeepseekOcrProcessor", found.stderr


@pytest.mark.slow
def test_importing_the_package_registers_nothing() -> None:
    code = "import deepsynth, deepsynth.models, sys; print({'torch', 'transformers'} & set(sys.modules))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert found.strip() == "set()"


@pytest.mark.skipif(find_spec("torchvision") is not None, reason="torchvision is installed")
def test_a_library_that_a_processor_needs_is_named_with_the_type_of_the_model(tmp_path: Path) -> None:
    byte_tokenizer(["<image>", "<end>"], eos="<end>", pad="<end>").save_pretrained(tmp_path)
    files = {
        "config.json": {"model_type": "smolvlm", "architectures": ["SmolVLMForConditionalGeneration"]},
        "processor_config.json": {
            "processor_class": "SmolVLMProcessor",
            "image_processor": {"image_processor_type": "SmolVLMImageProcessor"},
        },
        "video_preprocessor_config.json": {"video_processor_type": "SmolVLMVideoProcessor"},
    }
    for name, content in files.items():
        (tmp_path / name).write_text(json.dumps(content))
    with pytest.raises(
        UserError, match=r"\(smolvlm\) cannot be loaded: .*orchvision.*; install that library"
    ) as raised:
        load_pretrained(AutoProcessor, str(tmp_path))
    assert "\n" not in str(raised.value)
