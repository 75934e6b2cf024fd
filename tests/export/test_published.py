"""Published folders hold what the original code, vLLM, SGLang and llama.cpp's converter read."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from packaging.version import Version
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor, PreTrainedTokenizerFast

from deepsynth.compat.transformers import convert_back
from deepsynth.errors import UserError
from deepsynth.export.merge import export_model
from deepsynth.export.published import ORIGINAL_CODE, write_processor
from deepsynth.models.deepseek_ocr.checkpoint import register_conversion
from deepsynth.models.deepseek_ocr.published import AUTO_MAP
from deepsynth.models.registry import load_pretrained, resolve_model_name
from deepsynth.modules import FullModule
from tests.export.test_export import REFERENCE, write_adapter
from tests.helpers.engine_rules import built_shapes, complaints, in_sglang, in_vllm
from tests.helpers.local_hub import local_hub, run_python

FULL_SIZE = {"deepseek_ocr": "deepsynth/full-size-ocr", "deepseek_ocr2": "deepsynth/full-size-ocr-2"}


def published_base(folder: Path) -> Path:
    """Write a folder as the Hub has it: the original code, and the tokenizer under its published class."""
    shutil.copytree(REFERENCE, folder)
    for name in ORIGINAL_CODE["deepseek_ocr"][1]:
        (folder / name).write_text(f"# {name}\n")
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**settings, "tokenizer_class": "LlamaTokenizerFast"}))
    processor = json.loads((folder / "processor_config.json").read_text())
    (folder / "processor_config.json").write_text(json.dumps({**processor, "candidate_resolutions": [[256, 256]]}))
    return folder


def native_base(folder: Path) -> Path:
    """Write the same model in transformers' format."""
    source = published_base(folder.parent / f"{folder.name}-published")
    load_pretrained(AutoModelForImageTextToText, str(source), dtype=torch.float32).save_pretrained(folder)
    load_pretrained(AutoProcessor, str(source)).save_pretrained(folder)
    return folder


def full_model(folder: Path, base: str) -> Path:
    """Write what ``FullModule`` leaves, with a weight that training has changed."""
    module = FullModule(base, dtype="float32")
    module.configure_model()
    with torch.no_grad():
        module.model.lm_head.weight[0] += 1
    module.save_adapter(folder)
    return folder


@pytest.mark.parametrize(
    ("family", "kind"),
    [
        ("deepseek_ocr", "adapter of a published base"),
        ("deepseek_ocr", "adapter of a native base"),
        pytest.param("deepseek_ocr", "whole model", marks=pytest.mark.slow),
        ("deepseek_ocr2", "adapter of a native base"),
        ("deepseek_ocr2", "whole model"),
    ],
)
def test_the_engines_find_all_that_they_read(family: str, kind: str, tmp_path: Path) -> None:
    if family == "deepseek_ocr2":
        base = "deepsynth/tiny-random"
    else:
        base = str((published_base if "published" in kind else native_base)(tmp_path / "base"))
    source = tmp_path / "trained"
    if kind == "whole model":
        full_model(source, base)
    else:
        write_adapter(base, source, "attention", strength=0.2)
    report = export_model(source, output=tmp_path / "out", format="published")
    assert report.changed == (0 if kind == "whole model" else len(load_file(source / "adapter_model.safetensors")) / 2)
    stored = load_file(tmp_path / "out/model.safetensors")
    assert complaints(tmp_path / "out", family, set(stored)) == []
    code = [name for name in ORIGINAL_CODE[family][1] if not (tmp_path / "out" / name).exists()]
    assert code == ([] if "published" in kind else list(ORIGINAL_CODE[family][1]))
    said = str(report)
    assert ("missing: configuration_deepseek_v2.py, " in said) == bool(code)
    assert "cannot load this model: they build the published encoders" in said  # it is a tiny one
    text = "Grüße, 你好 <image>\n  x"
    if Version(transformers.__version__) >= Version("5.24"):  # 5.17 cannot load special tokens that are dictionaries
        again = PreTrainedTokenizerFast.from_pretrained(tmp_path / "out")
        own = load_pretrained(AutoProcessor, base).tokenizer
        assert again.encode(text) == [own.bos_token_id, *own.encode(text, add_special_tokens=False)]
    if kind == "whole model":
        trained = load_file(source / "model.safetensors")["lm_head.weight"]
        assert torch.equal(stored["lm_head.weight"], trained)
        assert not torch.equal(trained, load_pretrained(AutoModelForImageTextToText, base).lm_head.weight.float())


@pytest.mark.parametrize("family", FULL_SIZE)
def test_a_full_size_model_has_the_names_and_shapes_that_the_engines_build(family: str) -> None:
    register_conversion()
    config = load_pretrained(AutoConfig, FULL_SIZE[family])
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(config)
    shapes = {name: tuple(tensor.shape) for name, tensor in convert_back(model, model.state_dict()).items()}
    assert shapes == built_shapes(family)
    for rename in (in_vllm, in_sglang):
        assert len({rename(name) for name in shapes}) == len(shapes)


def test_the_processors_settings_are_the_published_ones(tmp_path: Path) -> None:
    processor = load_pretrained(AutoProcessor, str(REFERENCE))
    write_processor(processor, tmp_path)
    written = json.loads((tmp_path / "processor_config.json").read_text())
    assert written == json.loads((REFERENCE / "processor_config.json").read_text())
    described = json.loads((tmp_path / "tokenizer_config.json").read_text())
    assert described["tokenizer_class"] == "LlamaTokenizerFast"
    assert described["pad_token"] == written["pad_token"] == processor.tokenizer.pad_token
    assert not {"extra_special_tokens", "backend"} & described.keys(), "transformers 4 does not know them"


@pytest.mark.slow
def test_the_built_in_model_of_the_quickstart_is_published_too(tmp_path: Path) -> None:
    """Its encoders are others than the published ones, in sizes that the original configuration does not name."""
    report = export_model(Path(resolve_model_name("deepsynth/tiny")), output=tmp_path / "out", format="published")
    assert (report.changed, report.agreement.max_difference) == (0, 0.0)


def test_a_whole_model_has_no_base_and_no_adapter(tmp_path: Path) -> None:
    source = full_model(tmp_path / "trained", "deepsynth/tiny-random")
    with pytest.raises(UserError, match=r"base is deepsynth/tiny, but .*trained is a whole model"):
        export_model(source, output=tmp_path / "out", base="deepsynth/tiny")
    with pytest.raises(UserError, match=r"trained is a whole model; use --format published"):
        export_model(source, output=tmp_path / "out", format="vllm-lora")
    assert not (tmp_path / "out").exists()


def test_a_tokenizer_that_is_written_otherwise_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder of the second model is not loaded whole, as transformers reads its own form alone."""
    source = full_model(tmp_path / "trained", "deepsynth/tiny-random")
    load = PreTrainedTokenizerFast.from_pretrained

    def other(folder: str, **options: Any) -> Any:
        tokenizer = load(folder, **options)
        if not options:  # as the folder is read back
            tokenizer.add_tokens(["another"])
        return tokenizer

    monkeypatch.setattr(PreTrainedTokenizerFast, "from_pretrained", other)
    with pytest.raises(UserError, match="FAIL: the tokenizer that was written is not the base model's"):
        export_model(source, output=tmp_path / "out", format="published")
    assert not (tmp_path / "out").exists()


ADD_CODE = """
import sys
from pathlib import Path
from huggingface_hub import HfApi
from deepsynth.export import published

folder, source, names = Path(sys.argv[1]), sys.argv[2], tuple(sys.argv[3].split(","))
published.ORIGINAL_CODE["deepseek_ocr"] = ("alice/original", names)
print(*published.add_code(folder, "deepseek_ocr"))  # there is no such repository yet
HfApi().create_repo("alice/original")
HfApi().upload_folder(repo_id="alice/original", folder_path=source)
print(*published.add_code(folder, "deepseek_ocr"))
"""


@pytest.mark.slow
def test_the_original_code_is_fetched_and_what_the_hub_lacks_is_named(tmp_path: Path) -> None:
    folder, source = tmp_path / "out", tmp_path / "source"
    folder.mkdir()
    source.mkdir()
    (folder / "config.json").write_text(json.dumps({"auto_map": AUTO_MAP}))
    for name in ("modeling_deepseekocr.py", "deepencoder.py", "LICENSE", "config.json", "stray.py"):
        (source / name).write_text(f"theirs: {name}")
    names = "modeling_deepseekocr.py,deepencoder.py,conversation.py"
    with local_hub(tmp_path) as hub:
        said = run_python(hub, ADD_CODE, folder, source, names).stdout.splitlines()
    assert said == ["conversation.py deepencoder.py modeling_deepseekocr.py", "conversation.py"]
    assert sorted(file.name for file in folder.iterdir()) == [
        "LICENSE", "config.json", "deepencoder.py", "modeling_deepseekocr.py",
    ]  # fmt: skip
    assert (folder / "config.json").read_text() == json.dumps({"auto_map": AUTO_MAP})
