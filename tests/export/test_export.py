"""Merged models are the unmerged ones, in either format."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText, AutoProcessor
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from deepsynth.__main__ import main
from deepsynth.data import OcrProcessor
from deepsynth.errors import UserError
from deepsynth.export.merge import export_model
from deepsynth.export.verification import Answer, check_answers
from deepsynth.models import register
from deepsynth.models.deepseek_ocr.published import AUTO_MAP
from deepsynth.models.lora import LoraSettings, lora_config
from deepsynth.models.registry import load_pretrained, resolve_model_name
from deepsynth.models.tokens import ImageLayout, image_layout
from tests.helpers.training import make_module
from tests.modules.test_checkpoint_io import disk_with

register()

HAS_LAYERS = pytest.mark.skipif("unlimited_ocr" not in CONFIG_MAPPING, reason="this transformers lacks the layers")
REFERENCE = Path(__file__).parents[1] / "fixtures/deepseek_ocr_v1/model"
SCOPES = {
    "attention": LoraSettings(),
    "all": LoraSettings(mlp=True, experts="all", vision=True, projector=True),
}


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """The published folder, with a file of code as the Hub's has."""
    folder = Path(shutil.copytree(REFERENCE, tmp_path / "base"))
    (folder / "modeling_published.py").write_text("# the published code\n")
    # Pages of 256 pixels, the tiny model's own size, are quicker than the published 1024.
    settings = json.loads((folder / "processor_config.json").read_text())
    (folder / "processor_config.json").write_text(json.dumps({**settings, "candidate_resolutions": [[256, 256]]}))
    return folder


def write_adapter(base: str, folder: Path, scope: str = "all", strength: float = 0.02, **changes: Any) -> Path:
    """Write a peft adapter with random weights."""
    model = AutoModelForImageTextToText.from_pretrained(resolve_model_name(base), dtype=torch.float32)
    lora = replace(SCOPES[scope], rank=4, alpha=8, **changes)
    torch.manual_seed(3)
    adapted = get_peft_model(model, lora_config(model, lora, base_model_name=base))
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=strength)
    adapted.save_pretrained(folder)
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps({**config, "base_model_name_or_path": base}))
    return folder


@pytest.mark.parametrize(
    ("format", "scope"),
    [
        pytest.param(format, scope, marks=[] if scope == "all" else pytest.mark.slow)
        for format in ("native", "published")
        for scope in SCOPES
    ],
)
def test_merged_model_stands_alone(scope: str, format: Any, base: Path, tmp_path: Path) -> None:
    """It loads without peft, with its processor, and says how many weights the adapter changed."""
    adapter = write_adapter(str(base), tmp_path / "adapter", scope)
    report = export_model(adapter, output=tmp_path / "out", format=format)
    model = AutoModelForImageTextToText.from_pretrained(tmp_path / "out")
    assert (report.changed + report.unchanged, report.dtype) == (len(model.state_dict()), "float32")
    # 4 layers, 3 with experts; 4 attention, 3 dense, 3 shared and 2 fused matrices; SAM 4x4, CLIP 3x6, one projector.
    assert report.changed == {"attention": 16, "all": 16 + 3 + 9 + 6 + 16 + 18 + 1}[scope]
    found = report.agreement
    assert found.mean_difference < 5e-5
    assert found.max_difference < 1e-3
    assert found.same_tokens == found.new_tokens > 0
    assert AutoProcessor.from_pretrained(tmp_path / "out").tokenizer.encode("page") is not None
    stored = load_file(tmp_path / "out/model.safetensors")
    original = load_file(base / "model.safetensors")
    if format == "published":
        assert {key: tensor.shape for key, tensor in stored.items()} == {k: t.shape for k, t in original.items()}
        for name in ("config.json", "processor_config.json", "tokenizer.json", "modeling_published.py"):
            assert (tmp_path / "out" / name).exists(), name
        config = json.loads((base / "config.json").read_text())
        assert json.loads((tmp_path / "out/config.json").read_text()) == {**config, "auto_map": AUTO_MAP}
    assert not torch.equal(
        model.state_dict()["model.language_model.layers.0.self_attn.q_proj.weight"],
        original["model.layers.0.self_attn.q_proj.weight"],
    )
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_a_native_base_gives_published_files_too_and_what_it_lacks_is_named(base: Path, tmp_path: Path) -> None:
    named = json.loads((base / "config.json").read_text()) | {"auto_map": {"AutoModel": "modeling_published.Model"}}
    (base / "config.json").write_text(json.dumps(named))
    native = tmp_path / "native"
    AutoModelForImageTextToText.from_pretrained(base, dtype=torch.float32).save_pretrained(native)
    AutoProcessor.from_pretrained(base).save_pretrained(native)
    adapter = write_adapter(str(native), tmp_path / "adapter", "attention")
    report = export_model(adapter, output=tmp_path / "out", format="published")
    config = json.loads((tmp_path / "out/config.json").read_text())
    assert config == json.loads((base / "config.json").read_text())
    assert "missing: modeling_published.py. " in str(report)
    processor = json.loads((tmp_path / "out/processor_config.json").read_text())
    assert processor["candidate_resolutions"] == [[256, 256]]  # as the original processor and vLLM's have it
    assert {key: t.shape for key, t in load_file(tmp_path / "out/model.safetensors").items()} == {
        key: t.shape for key, t in load_file(base / "model.safetensors").items()
    }


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{"rslora": True}, {"dora": True}], ids=lambda changes: next(iter(changes)))
def test_variants_of_lora(changes: dict[str, bool], base: Path, tmp_path: Path) -> None:
    """Another scaling, or magnitudes of their own."""
    adapter = write_adapter(str(base), tmp_path / "adapter", "attention", **changes)
    assert export_model(adapter, output=tmp_path / "out").changed == 16


@pytest.mark.parametrize("dtype", ["bfloat16", pytest.param("float16", marks=pytest.mark.slow)])
def test_sixteen_bits(dtype: Any, base: Path, tmp_path: Path) -> None:
    """Rounded once, by no more than rounding."""
    adapter = write_adapter(str(base), tmp_path / "adapter", strength=0.05)
    report = export_model(adapter, output=tmp_path / "out", dtype=dtype, format="published")
    assert report.dtype == dtype
    assert {t.dtype for t in load_file(tmp_path / "out/model.safetensors").values()} == {getattr(torch, dtype)}
    assert json.loads((tmp_path / "out/config.json").read_text())["torch_dtype"] == dtype


def answer(*tokens: int, noise: float = 0.0, wrong: float = 0.0) -> Answer:
    """Return logits of 40 prompt tokens and of these, with noise everywhere, and more at the last of these."""
    prompt = 2 * torch.randn(40, 50, generator=torch.Generator().manual_seed(0))
    steps = 4 * torch.nn.functional.one_hot(torch.tensor(tokens), 50).float() + noise
    steps[-1] += wrong
    return Answer(prompt + noise, torch.tensor(tokens), steps)


def test_a_router_that_decides_otherwise_at_one_token_is_rounding_in_sixteen_bits() -> None:
    """The logits of that token differ by more than any of the prompt's; the mean tells a wrong merge."""
    other = answer(3, 4, 6, noise=0.01, wrong=0.5)
    assert check_answers(answer(3, 4, 5), other, "float16")[2:4] == (2, 3)
    with pytest.raises(ValueError, match=r"logits differ by 1.0e-01 on average"):
        check_answers(answer(3, 4, 5), answer(3, 4, 5, noise=0.1), "float16")
    with pytest.raises(ValueError, match=r"logits differ by .* on average and 9.9e\+01 at most"):
        check_answers(answer(3, 4, 5), answer(3, 4, 5, wrong=99.0), "float16")


def test_in_thirty_two_bits_every_token_is_the_same() -> None:
    assert check_answers(answer(3, 4, 5), answer(3, 4, 5), "float32")[:4] == (0.0, 0.0, 3, 3)
    near = replace(answer(3, 4, 5), tokens=torch.tensor([3, 4, 6]))
    with pytest.raises(ValueError, match=r"writes \[3, 4, 6\] where the unmerged one writes \[3, 4, 5\]"):
        check_answers(answer(3, 4, 5), near, "float32")


def test_second_version_through_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """DeepSeek-OCR-2's classes, the base by its built-in name."""
    adapter = write_adapter("deepsynth/tiny-random", tmp_path / "adapter", "attention", strength=0.2)
    assert main(["export", str(adapter), f"--output={tmp_path / 'out'}", "--dtype=float32"]) == 0
    said = capsys.readouterr().out
    assert "\nPASS: " in said
    assert re.search(r"logits differ by \S+ on average \(tolerance for float32 \S+\), at most \S+ \(tolerance", said)
    assert "the greedy text is the same, 16 tokens" in said
    assert type(AutoModelForImageTextToText.from_pretrained(tmp_path / "out")).__name__.startswith("DeepseekOcr2")


def test_adapters_of_another_model_are_refused_with_their_keys(base: Path, tmp_path: Path) -> None:
    """Too many layers, other shapes, other names, a damaged file, an untrained one."""
    adapter = write_adapter(str(base), tmp_path / "adapter", "attention")
    file = adapter / "adapter_model.safetensors"
    whole = load_file(file)
    key = "base_model.model.model.language_model.layers.3.self_attn.q_proj.lora_A.weight"

    save_file({**whole, key.replace("layers.3", "layers.30"): whole[key].clone()}, file)
    with pytest.raises(ValueError, match=r"base cannot serve 1 keys \(.*layers.30.self_attn.q_proj.lora_A"):
        export_model(adapter, output=tmp_path / "out")

    save_file({name: tensor for name, tensor in whole.items() if name != key}, file)
    with pytest.raises(ValueError, match=r"the file lacks 1 keys \(.*layers.3.self_attn.q_proj.lora_A"):
        export_model(adapter, output=tmp_path / "out")

    save_file({**whole, key: torch.ones(4, 80)}, file)
    with pytest.raises(ValueError, match="is not an adapter of"):
        export_model(adapter, output=tmp_path / "out")

    save_file({name: torch.zeros_like(tensor) for name, tensor in whole.items()}, file)
    with pytest.raises(ValueError, match="holds only zeros"):
        export_model(adapter, output=tmp_path / "out")

    file.write_bytes(b"\x10")
    with pytest.raises(ValueError, match="truncated or damaged"):
        export_model(adapter, output=tmp_path / "out")

    LoraConfig(r=4, target_modules=["query_key_value"], base_model_name_or_path=str(base)).save_pretrained(adapter)
    save_file(whole, file)
    with pytest.raises(ValueError, match=r"adapter_config.json: target_modules is .*query_key_value.*; it must be"):
        export_model(adapter, output=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_adapter_as_it_is_before_training_is_refused(tmp_path: Path) -> None:
    """Its A is random and its B zero, so that it changes nothing."""
    module = make_module()
    module.configure_model()
    module.save_adapter(tmp_path / "adapter")
    stored = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    assert all(bool(tensor.any()) == ("lora_A" in name) for name, tensor in stored.items())
    with pytest.raises(UserError, match="holds only zeros: the adapter was not trained"):
        export_model(tmp_path / "adapter", output=tmp_path / "out", base="deepsynth/tiny-random")
    assert not (tmp_path / "out").exists()


def test_folders_that_cannot_be_used(base: Path, tmp_path: Path) -> None:
    """No adapter, no base, an output that is there."""
    with pytest.raises(ValueError, match=r"no adapter_config.json; give a peft folder"):
        export_model(tmp_path, output=tmp_path / "out")
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(ValueError, match="give it with --base"):
        export_model(tmp_path, output=tmp_path / "out")
    with pytest.raises(ValueError, match=r"no adapter_model.safetensors"):
        export_model(tmp_path, output=tmp_path / "out", base=str(base))
    with pytest.raises(ValueError, match="which is there already; name a new folder"):
        export_model(tmp_path, output=base)


def test_a_wrong_merge_is_noticed(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A merge that also touches another weight, one that forgets an adapter, one that scales it, leave no folder."""
    from peft import PeftModel

    adapter = write_adapter(str(base), tmp_path / "adapter", "attention")
    merge = PeftModel.merge_and_unload if "merge_and_unload" in vars(PeftModel) else None
    assert merge is None  # it is the tuner's, found by __getattr__

    def broken(change: Any) -> Any:
        def merge_and_unload(self: Any, **kwargs: Any) -> Any:
            before = {
                n.replace(".base_layer", ""): p.detach().clone() for n, p in self.base_model.model.named_parameters()
            }
            merged = self.base_model.merge_and_unload(**kwargs)
            with torch.no_grad():
                change(dict(merged.named_parameters()), before)
            return merged

        return merge_and_unload

    weight = "model.language_model.layers.2.self_attn.v_proj.weight"

    def touch(after: Any, before: Any) -> None:
        after["lm_head.weight"][0, 0] += 1e-6

    def forget(after: Any, before: Any) -> None:
        after[weight].copy_(before[weight])

    def scale(after: Any, before: Any) -> None:
        after[weight].copy_(2 * after[weight] - before[weight])

    for change, message in (
        (touch, r"does not have: 1 keys \(lm_head.weight\)"),
        (
            forget,
            r"did not change weights that the adapter changes: 1 keys \(model.language_model.layers.2.self_attn.v_proj",
        ),
        (scale, r"is not the unmerged one: logits differ"),
    ):
        monkeypatch.setattr(PeftModel, "merge_and_unload", broken(change), raising=False)
        assert main(["export", str(adapter), "--output", str(tmp_path / "out")]) == 1
        said = capsys.readouterr().err
        assert "\ndeepsynth: FAIL: " in said
        assert re.search(message, said)
        assert not (tmp_path / "out").exists()


def changed_config(adapter: Path, **changes: Any) -> Path:
    """Write settings into an adapter's configuration, and return its file."""
    file = adapter / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))
    return file


def test_an_expression_that_never_ends_is_not_evaluated(base: Path, tmp_path: Path) -> None:
    """Which modules have adapters follows from the tensors."""
    adapter = write_adapter(str(base), tmp_path / "adapter", "attention")
    changed_config(adapter, target_modules="(.*)*(.*)*(.*)*x", exclude_modules="(.*)*(.*)*(.*)*x")
    assert export_model(adapter, output=tmp_path / "out").changed == 16


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(value: float, base: Path, tmp_path: Path) -> None:
    adapter = write_adapter(str(base), tmp_path / "adapter", "attention")
    file = adapter / "adapter_model.safetensors"
    tensors = load_file(file)
    next(iter(tensors.values()))[0, 0] = value
    save_file(tensors, file)
    with pytest.raises(UserError, match=r"adapter_model.safetensors: .* holds numbers that are not finite"):
        export_model(adapter, output=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_weights_that_overflow_when_they_are_merged_are_refused(base: Path, tmp_path: Path) -> None:
    adapter = write_adapter(str(base), tmp_path / "adapter", "attention")
    file = adapter / "adapter_model.safetensors"
    save_file({name: tensor.fill_(1e30) for name, tensor in load_file(file).items()}, file)
    with pytest.raises(UserError, match=r"adapter cannot be merged in float32: "):
        export_model(adapter, output=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_tensor_of_a_module_that_the_configuration_does_not_name_is_refused(base: Path, tmp_path: Path) -> None:
    adapter = write_adapter(str(base), tmp_path / "adapter", "attention")
    changed_config(adapter, target_modules=["q_proj", "k_proj", "v_proj"])
    with pytest.raises(UserError, match=r"target_modules is .*; it must be what .*layers.0.self_attn.o_proj"):
        export_model(adapter, output=tmp_path / "out")
    file = adapter / "adapter_model.safetensors"
    tensors = load_file(file)
    save_file({n: t for n, t in tensors.items() if "o_proj" not in n or "layers.1." in n}, file)
    with pytest.raises(UserError, match=r"target_modules is .* such as [a-z_.]*layers.1.self_attn.o_proj"):
        export_model(adapter, output=tmp_path / "out")


def test_a_full_disk_is_one_line_and_leaves_no_folder(base: Path, tmp_path: Path) -> None:
    adapter = write_adapter(str(base), tmp_path / "adapter", "attention")
    with disk_with(100_000), pytest.raises(UserError, match=r"out: the weights cannot be written \(.*; make room"):
        export_model(adapter, output=tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("format", ["native", pytest.param("transformers", marks=HAS_LAYERS), "published"])
def test_the_written_processor_has_the_resolution_of_the_run(format: Any, base: Path, tmp_path: Path) -> None:
    adapter = write_adapter(str(base), tmp_path / "run/adapter")
    config = {"data": {"init_args": {"mode": "gundam", "processor": None}}}
    (tmp_path / "run/config.yaml").write_text(json.dumps(config))
    export_model(adapter, output=tmp_path / "out", format=format)
    found = image_layout(load_pretrained(AutoProcessor, str(tmp_path / "out")))
    own = image_layout(load_pretrained(AutoProcessor, str(base)))
    trained = OcrProcessor(str(base), mode="gundam").layout
    assert isinstance(trained, ImageLayout)
    assert own.base_size != trained.base_size
    wanted = own if format == "published" else trained
    assert (found.base_size, found.tile_size, found.max_tiles) == (wanted.base_size, wanted.tile_size, wanted.max_tiles)
    if format == "published":
        with pytest.raises(UserError, match="mode is 'gundam', but format is 'published', whose readers"):
            export_model(adapter, output=tmp_path / "again", format=format, mode="gundam")
