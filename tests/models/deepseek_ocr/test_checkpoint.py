"""The published checkpoint and configuration: in, out, and refused when something is wrong."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor

from deepsynth.models.deepseek_ocr import DeepseekOcrConfig, DeepseekOcrForConditionalGeneration
from deepsynth.models.deepseek_ocr.checkpoint import check_folder, draft_keys, published_state
from deepsynth.models.deepseek_ocr.configuration import TEXT
from deepsynth.models.deepseek_ocr.registration import register
from tests.helpers.tiny_config import tiny_config


@pytest.fixture
def folder(tmp_path: Path, reference: Path) -> Path:
    """A copy of the published checkpoint, to be damaged."""
    return Path(shutil.copytree(reference / "model", tmp_path / "model"))


def _edit(file: Path, change: Callable[[dict[str, Any]], None]) -> None:
    content = json.loads(file.read_text(encoding="utf-8"))
    change(content)
    file.write_text(json.dumps(content), encoding="utf-8")


def _shard(folder: Path) -> list[str]:
    """Split the weights into two files with an index."""
    state = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    keys = sorted(state)
    parts = keys[: len(keys) // 2], keys[len(keys) // 2 :]
    for name, part in zip(names, parts, strict=True):
        save_file({key: state[key] for key in part}, folder / name, metadata={"format": "pt"})
    weight_map = {key: name for name, part in zip(names, parts, strict=True) for key in part}
    index = {"metadata": {"total_size": sum(t.nbytes for t in state.values())}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return names


def test_auto_classes_load_the_published_folder(reference: Path) -> None:
    """One call each, native classes, nothing of the published code."""
    folder = reference / "model"
    assert type(AutoConfig.from_pretrained(folder)).__module__ == "deepsynth.models.deepseek_ocr.configuration"
    model = AutoModelForImageTextToText.from_pretrained(folder)
    assert isinstance(model, DeepseekOcrForConditionalGeneration)
    assert AutoProcessor.from_pretrained(folder).image_processor.size.height == 1024
    register()  # again, as a second import in another order would


def test_full_size_keys_and_shapes(reference: Path) -> None:
    """On the meta device: 2,710 keys, 3,336,106,240 parameters."""
    expected = json.loads((reference / "fullsize_keys.json").read_text())
    with torch.device("meta"):
        model = DeepseekOcrForConditionalGeneration(DeepseekOcrConfig())
    found = {key: list(tensor.shape) for key, tensor in published_state(model).items()}
    assert found == expected["tensors"]
    assert sum(parameter.numel() for parameter in model.parameters()) == expected["total_params"] == 3_336_106_240


@pytest.mark.parametrize("through_native", [False, True], ids=["direct", "by way of native"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_published_out_as_it_came_in(through_native: bool, dtype: torch.dtype, folder: Path, tmp_path: Path) -> None:
    """The same keys, bits and configuration, also after a stop in the native format."""
    original = {key: tensor.to(dtype) for key, tensor in load_file(folder / "model.safetensors").items()}
    save_file(original, folder / "model.safetensors", metadata={"format": "pt"})
    name = str(dtype).removeprefix("torch.")
    _edit(folder / "config.json", lambda c: (c.update(torch_dtype=name), c["language_config"].update(torch_dtype=name)))
    model = AutoModelForImageTextToText.from_pretrained(folder)
    assert model.dtype == dtype
    if through_native:
        model.save_pretrained(tmp_path / "native")
        assert "model.language_model.layers.1.mlp.experts.gate_up_proj" in load_file(
            tmp_path / "native/model.safetensors"
        )
        model = AutoModelForImageTextToText.from_pretrained(tmp_path / "native")
    model.save_pretrained(tmp_path / "out", format="published")
    found = load_file(tmp_path / "out/model.safetensors")
    assert found.keys() == original.keys()
    assert all(torch.equal(found[key], tensor) and found[key].dtype == dtype for key, tensor in original.items())
    configs = [json.loads((place / "config.json").read_text()) for place in (tmp_path / "out", folder)]
    assert configs[0] == configs[1]
    assert list(configs[0]) == list(configs[1])


def test_published_in_shards(folder: Path, tmp_path: Path) -> None:
    """Reads shards, writes shards."""
    original = load_file(folder / "model.safetensors")
    _shard(folder)
    model = AutoModelForImageTextToText.from_pretrained(folder)
    model.save_pretrained(tmp_path / "out", format="published", max_shard_size="1MB")
    index = json.loads((tmp_path / "out/model.safetensors.index.json").read_text())
    assert index["weight_map"].keys() == original.keys()
    assert len(set(index["weight_map"].values())) > 1
    again = AutoModelForImageTextToText.from_pretrained(tmp_path / "out")
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), again.state_dict().values(), strict=True))


def test_a_model_made_here_is_published_too(tmp_path: Path) -> None:
    """Without a published configuration to give back, one is written."""
    torch.manual_seed(0)
    config = tiny_config(page_size=128, patch_size=8)
    config.vision_config.sam_config.mlp_dim = 100
    config.vision_config.encoder_config.intermediate_size = 72
    model = DeepseekOcrForConditionalGeneration(config).eval()
    model.save_pretrained(tmp_path, format="published")
    width = json.loads((tmp_path / "config.json").read_text())["vision_config"]["width"]
    assert (width["sam_vit_b"]["patch_size"], width["sam_vit_b"]["mlp_dim"]) == (8, 100)
    assert width["clip-l-14-224"]["intermediate_size"] == 72
    again = AutoModelForImageTextToText.from_pretrained(tmp_path).eval()
    ids = torch.tensor([[0] + [3] * 21 + [7, 8]])
    views = torch.rand(1, 3, 128, 128)
    with torch.no_grad():
        torch.testing.assert_close(model(ids, pixel_values=views).logits, again(ids, pixel_values=views).logits)


def test_the_published_configuration_of_a_full_size_model() -> None:
    """As its authors publish it: https://huggingface.co/deepseek-ai/DeepSeek-OCR."""
    written = DeepseekOcrConfig().to_published()
    text = {
        "bos_token_id": 0, "eos_token_id": 1, "first_k_dense_replace": 1, "hidden_size": 1280,
        "intermediate_size": 6848, "kv_lora_rank": None, "lm_head": True, "max_position_embeddings": 8192,
        "moe_intermediate_size": 896, "n_group": 1, "n_routed_experts": 64, "n_shared_experts": 2,
        "num_attention_heads": 10, "num_experts_per_tok": 6, "num_hidden_layers": 12, "num_key_value_heads": 10,
        "q_lora_rank": None, "qk_nope_head_dim": 0, "qk_rope_head_dim": 0, "rm_head": False, "topk_group": 1,
        "topk_method": "greedy", "use_mla": False, "v_head_dim": 0, "vocab_size": 129280,
    }  # fmt: skip
    inner = written["language_config"]
    assert inner.pop("architectures") == ["DeepseekV2ForCausalLM"]
    assert inner.pop("torch_dtype") == "float32"
    assert inner == text
    assert {name: written[name] for name in text} == text
    assert written["candidate_resolutions"] == [[1024, 1024]]
    assert written["projector_config"] == {
        "input_dim": 2048, "model_type": "mlp_projector", "n_embed": 1280, "projector_type": "linear",
    }  # fmt: skip
    assert written["vision_config"] == {
        "image_size": 1024,
        "mlp_ratio": 3.7362,
        "model_name": "deeplip_b_l",
        "model_type": "vision",
        "width": {
            "clip-l-14-224": {"heads": 16, "image_size": 224, "layers": 24, "patch_size": 14, "width": 1024},
            "sam_vit_b": {
                "downsample_channels": [512, 1024], "global_attn_indexes": [2, 5, 8, 11], "heads": 12, "layers": 12,
                "width": 768,
            },
        },
    }  # fmt: skip
    assert "image_token_id" not in written
    assert DeepseekOcrConfig(image_token_id=7).to_published()["image_token_id"] == 7


@pytest.mark.parametrize(("dtype", "name"), [(None, "float32"), (torch.bfloat16, "bfloat16")])
def test_a_published_configuration_comes_back_with_the_dtype_of_the_weights(
    dtype: Any, name: str, reference: Path
) -> None:
    original = json.loads((reference / "model/config.json").read_text())
    assert original["torch_dtype"] == "float32"
    config = AutoConfig.from_pretrained(reference / "model")
    config.dtype = dtype
    inner = {**original["language_config"], "torch_dtype": name}
    assert config.to_published() == {**original, "torch_dtype": name, "language_config": inner}


def test_what_the_published_format_cannot_say_is_refused(tmp_path: Path) -> None:
    """Its code has this as a literal; a model that differs is not written wrongly."""
    config = tiny_config()
    config.vision_config.sam_config.layer_norm_eps = 0.5
    with torch.device("meta"):
        model = DeepseekOcrForConditionalGeneration(config)
    with pytest.raises(ValueError, match=r"represent vision_config.sam_config.layer_norm_eps 0.5; save .* native"):
        model.save_pretrained(tmp_path / "out", format="published")
    assert not (tmp_path / "out").exists()


def test_another_format_is_refused(tiny_model: Any, tmp_path: Path) -> None:
    """A typo does not write the native one."""
    with pytest.raises(ValueError, match="format is 'publised'; want 'native' or 'published'"):
        tiny_model.save_pretrained(tmp_path, format="publised")


def test_keys_that_do_not_fit_are_listed(folder: Path) -> None:
    """Missing, unexpected and misshaped, at once."""
    state = load_file(folder / "model.safetensors")
    del state["model.layers.2.mlp.experts.5.up_proj.weight"], state["model.view_seperator"]
    state["model.layers.9.norm.weight"] = torch.zeros(3)
    state["model.projector.layers.bias"] = torch.zeros(7)
    state["model.vision_model.embeddings.position_ids"] = torch.arange(17)[None]  # computed, so it may be there
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError) as caught:
        AutoModelForImageTextToText.from_pretrained(folder)
    text = str(caught.value)
    assert "2 missing (model.layers.2.mlp.experts.5.up_proj.weight, model.view_seperator)" in text
    assert "1 unexpected (model.layers.9.norm.weight)" in text
    assert "1 misshaped (model.projector.layers.bias (7,) (want (72,)))" in text


@pytest.mark.parametrize("count", [8, 9])
def test_eight_keys_are_listed(count: int, folder: Path) -> None:
    state = load_file(folder / "model.safetensors")
    state |= {f"model.layers.9.x{number}": torch.zeros(1) for number in range(count)}
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    more = ", …" if count > 8 else ""
    with pytest.raises(ValueError, match=rf"{count} unexpected \(model.layers.9.x0, .*, model.layers.9.x7{more}\)$"):
        check_folder(folder, DeepseekOcrForConditionalGeneration)


def test_a_layer_is_a_draft_where_one_of_its_parts_says_so() -> None:
    draft = {"model.layers.12.eh_proj.weight", "model.layers.12.mlp.gate.weight", "mtp_module.x", "model.mtp.y"}
    inner = {"model.language_model.layers.3.enorm.weight", "model.language_model.layers.3.norm.weight"}
    other = {"model.layers.1.mlp.gate.weight", "model.layers.3.norm.weight", "model.mtpx", "x.mtp_module"}
    assert draft_keys(draft | inner | other) == draft | inner


@pytest.mark.parametrize(
    "names",
    [
        pytest.param(["mtp_module.0.enorm.weight", "mtp_embed_tokens.weight", "model.mtp.head.weight"], id="jina-ocr"),
        pytest.param(["model.layers.9.eh_proj.weight", "model.layers.9.mlp.gate.weight"], id="a layer behind the last"),
    ],
)
def test_draft_weights_are_named_and_left_out(names: list[str], folder: Path, caplog: Any) -> None:
    """A file with what drafts tokens ahead is the same model, and one line says what was not taken."""
    state = load_file(folder / "model.safetensors")
    save_file({**state, **{n: torch.ones(3) for n in names}}, folder / "model.safetensors", metadata={"format": "pt"})
    model = AutoModelForImageTextToText.from_pretrained(folder)
    assert {key: t.shape for key, t in published_state(model).items()} == {key: t.shape for key, t in state.items()}
    said = [record.getMessage() for record in caplog.records if record.name.endswith("deepseek_ocr.checkpoint")]
    assert len(said) == 1
    assert f"{len(names)} weights that only draft tokens ahead are left out" in said[0]
    state["model.layers.9.norm.weight"] = torch.zeros(3)  # no part of a draft says that this layer is one
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"1 unexpected \(model.layers.9.norm.weight\)"):
        AutoModelForImageTextToText.from_pretrained(folder)


def test_state_dict_without_a_folder_is_checked_too(reference: Path) -> None:
    """What transformers itself reports is enough when no file can be looked at."""
    state = load_file(reference / "model/model.safetensors")
    del state["lm_head.weight"]
    config = AutoConfig.from_pretrained(reference / "model")
    with pytest.raises(ValueError, match=r"1 missing \(lm_head.weight\)"):
        DeepseekOcrForConditionalGeneration.from_pretrained(None, config=config, state_dict=state)


def test_missing_shard_is_named(folder: Path) -> None:
    """By its file name."""
    (folder / _shard(folder)[1]).unlink()
    with pytest.raises(ValueError, match=r"model-00002-of-00002.safetensors is missing"):
        AutoModelForImageTextToText.from_pretrained(folder)


@pytest.mark.parametrize("kept", [0, 5, 1000, 3_000_000])
def test_cut_file_is_named(kept: int, folder: Path) -> None:
    """Wherever it ends."""
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:kept])
    with pytest.raises(ValueError, match=r"model.safetensors: is not a complete safetensors file .*download it again"):
        AutoModelForImageTextToText.from_pretrained(folder)


def test_broken_index_is_named(folder: Path) -> None:
    """An index that is no JSON."""
    _shard(folder)
    (folder / "model.safetensors.index.json").write_text("{")
    with pytest.raises(ValueError, match=r"index.json: is not an index of weight files"):
        AutoModelForImageTextToText.from_pretrained(folder)


def _second(config: dict[str, Any]) -> None:
    config["architectures"] = ["DeepseekOCR2ForCausalLM"]
    width = config["vision_config"]["width"]
    width["qwen2-0-5b"] = {"dim": 896}
    del width["clip-l-14-224"]


def _vl2(config: dict[str, Any]) -> None:
    config["architectures"] = ["DeepseekVLV2ForCausalLM"]
    config["vision_config"] = {"model_type": "vision", "model_name": "siglip_so400m_patch14_384"}
    config["projector_config"] = {"model_type": "mlp_projector", "projector_type": "downsample_mlp_gelu"}


DECEPTIVE: list[tuple[Callable[[dict[str, Any]], Any], str]] = [
    (_second, r"DeepSeek-OCR-2 in its original format .*deepseek-community/DeepSeek-OCR-2"),
    (lambda c: (_second(c), c.pop("architectures")), r"DeepSeek-OCR-2 in its original format"),
    (lambda c: (_second(c), c.update(architectures=["DeepseekOCRForCausalLM"])), r"DeepSeek-OCR-2 in its original"),
    (_vl2, r"it is DeepseekVLV2ForCausalLM, not DeepSeek-OCR: .*projector_type is 'downsample_mlp_gelu'"),
    (lambda c: (_vl2(c), c.update(architectures=["DeepseekOCRForCausalLM"])), r"not DeepSeek-OCR: .*no encoders"),
    (lambda c: c.update(architectures=["JanusForCausalLM"]), r"it is JanusForCausalLM, not DeepSeek-OCR"),
    (lambda c: c.pop("vision_config"), r"not DeepSeek-OCR: vision_config.width has no encoders"),
    (lambda c: c.pop("projector_config"), r"projector_type is None, want 'linear'"),
    (lambda c: c.update(use_mla=True), r"says use_mla True, its language_config says False"),
    (
        lambda c: (c.update(use_mla=True), c["language_config"].update(use_mla=True)),
        r"use_mla True; DeepSeek-OCR has F",
    ),
    (lambda c: c.update(scoring_func="sigmoid"), r"scoring_func 'sigmoid'; DeepSeek-OCR has 'softmax'"),
    (lambda c: c.update(norm_topk_prob=True), r"norm_topk_prob True; DeepSeek-OCR has False"),
    (lambda c: c.update(hidden_size=80), r"hidden_size 80, its language_config says 72"),
    (lambda c: (c.pop("n_routed_experts"), c["language_config"].pop("n_routed_experts")), r"has no n_routed_experts"),
    (lambda c: c["projector_config"].update(n_embed=64), r"maps 128 to 64, but .* need 128 to 72"),
]


@pytest.mark.parametrize(("change", "message"), DECEPTIVE, ids=[str(number) for number in range(len(DECEPTIVE))])
def test_other_models_configurations_are_refused(change: Callable[..., Any], message: str, folder: Path) -> None:
    """The type that several models share is not enough; model, configuration and processor all say so."""
    _edit(folder / "config.json", change)
    for load in (AutoConfig, AutoModelForImageTextToText, AutoProcessor, DeepseekOcrForConditionalGeneration):
        with pytest.raises(ValueError, match=message):
            load.from_pretrained(folder)


def test_what_the_configuration_does_not_say_is_what_the_published_code_has(folder: Path) -> None:
    def silence(config: dict[str, Any]) -> None:
        for name in ("neck_channels", "window_size", "patch_size"):
            config["vision_config"]["width"]["sam_vit_b"].pop(name, None)

    _edit(folder / "config.json", silence)
    sam = AutoConfig.from_pretrained(folder).vision_config.sam_config
    assert (sam.output_channels, sam.window_size, sam.patch_size) == (256, 14, 16)


def test_missing_text_fields_come_from_the_other_place(folder: Path, reference: Path) -> None:
    """The top level or language_config may be silent, and architectures may be absent."""
    whole = AutoConfig.from_pretrained(reference / "model").text_config.to_dict()

    def change(config: dict[str, Any]) -> None:
        del config["architectures"], config["hidden_size"], config["language_config"]["vocab_size"]

    _edit(folder / "config.json", change)
    assert AutoConfig.from_pretrained(folder).text_config.to_dict() == whole


def test_other_types_are_refused_by_the_class(folder: Path) -> None:
    """A Llama folder is not read as if it were DeepSeek-OCR."""
    _edit(folder / "config.json", lambda c: c.update(model_type="llama"))
    with pytest.raises(ValueError, match="model_type 'llama'; DeepseekOcrConfig reads 'deepseek_ocr'"):
        DeepseekOcrForConditionalGeneration.from_pretrained(folder)


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Register stand-ins for what a later transformers may bring, for one test."""
    from transformers import PreTrainedConfig
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    from deepsynth.models.deepseek_ocr import registration

    def bring(name: str) -> Any:
        native = type("Later", (PreTrainedConfig,), {"model_type": name, "__annotations__": {}})
        monkeypatch.setitem(CONFIG_MAPPING._extra_content, name, native)
        monkeypatch.setattr(registration.PublishedDeepseekConfig, "others", None)
        registration.name_classes_once.cache_clear()
        return native

    return bring


def _said(caplog: Any) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name.endswith("registration")]


@pytest.mark.parametrize("name", ["deepseek_ocr", "deepseek_vl_v2"])
def test_names_that_transformers_has_are_its_own(name: str, later: Any, tmp_path: Path, caplog: Any) -> None:
    """Its class is loaded, whatever was registered first, and one line says so."""
    native = later(name)
    register()
    register()
    (tmp_path / "config.json").write_text(json.dumps({"model_type": name}))
    assert type(AutoConfig.from_pretrained(tmp_path)) is native
    assert _said(caplog) == [f"transformers' own classes are used for {name}; DEEPSYNTH_OWN_CLASSES=1 uses DeepSynth's"]


def test_the_published_format_does_not_load_behind_the_back_of_transformers(later: Any, reference: Path) -> None:
    """Its classes stand for the model, and do not know this format: the way to ours is named."""
    later("deepseek_ocr")
    register()
    with pytest.raises(ValueError, match=r"published format, .* set DEEPSYNTH_OWN_CLASSES=1"):
        AutoConfig.from_pretrained(reference / "model")


def test_own_classes_replace_those_of_transformers_when_asked(
    later: Any, monkeypatch: pytest.MonkeyPatch, reference: Path, tmp_path: Path, caplog: Any
) -> None:
    """Both names are DeepSeek-OCR's then, but for other models of the type that several share."""
    later("deepseek_ocr")
    native = later("deepseek_vl_v2")
    monkeypatch.setenv("DEEPSYNTH_OWN_CLASSES", "1")
    register()
    register()
    assert isinstance(AutoConfig.from_pretrained(reference / "model"), DeepseekOcrConfig)
    tiny_config().save_pretrained(tmp_path)
    assert isinstance(AutoConfig.from_pretrained(tmp_path), DeepseekOcrConfig)
    config = json.loads((reference / "model/config.json").read_text())
    _vl2(config)
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert type(AutoConfig.from_pretrained(tmp_path)) is native
    assert len(_said(caplog)) == 1
    assert "DeepSynth's classes replace those that transformers has" in _said(caplog)[0]


@pytest.mark.slow
@pytest.mark.parametrize(
    "first",
    [
        "import transformers, deepsynth.models; deepsynth.models.register()",
        "from deepsynth.models import register; register(); register()",
        "from deepsynth.data import OcrProcessor; OcrProcessor('deepsynth/tiny').hf_processor",
    ],
)
def test_registered_in_any_order_without_training_libraries(first: str, reference: Path) -> None:
    """Models alone need transformers and torch, and do not care who imports what first."""
    code = f"""
import sys
{first}
from transformers import AutoConfig
print(type(AutoConfig.from_pretrained({str(reference / "model")!r})).__name__)
print({{"peft", "lightning", "torchvision", "unsloth"}} & set(sys.modules))
"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert found.split() == ["DeepseekOcrConfig", "set()"]


_PEAK = """
import re, sys
import torch, deepsynth.models
deepsynth.models.register()
from transformers import AutoModelForImageTextToText
import transformers.models.deepseek_ocr2.modeling_deepseek_ocr2

def kilobytes(key):
    return int(re.search(key + r":\\s+(\\d+)", open("/proc/self/status").read()).group(1))

before = kilobytes("VmRSS")
model = AutoModelForImageTextToText.from_pretrained(sys.argv[1])
for parameter in model.parameters():  # what was not read yet is still in the file
    parameter.view(-1)[::512].sum()
print((kilobytes("VmHWM") - before) * 1024, kilobytes("RssAnon") * 1024, {str(p.dtype) for p in model.parameters()})
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_loading_holds_the_weights_once(tmp_path: Path) -> None:
    """A quarter of the published size, 12 layers, experts one by one in shards.

    Experts are stacked into new memory while the file's own pages, which the system may drop, are mapped beside them.
    """
    text = {**TEXT, "moe_intermediate_size": 224, "vocab_size": 32320}
    config = DeepseekOcrConfig(
        text_config=text, image_token_id=100, vision_config={"encoder_config": {"num_hidden_layers": 6}}
    )
    with torch.device("meta"):
        model = DeepseekOcrForConditionalGeneration(config).to(torch.bfloat16)
    model.to_empty(device="cpu")
    for parameter in model.parameters():
        parameter.data.fill_(0.01)
    model.save_pretrained(tmp_path, format="published", max_shard_size="500MB")
    size = sum(file.stat().st_size for file in tmp_path.glob("*.safetensors"))
    assert size > 3_336_106_240 * 2 / 4
    del model
    command = [sys.executable, "-c", _PEAK, str(tmp_path)]
    found = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    peak, own, dtypes = found.split(maxsplit=2)
    assert "bfloat16" in dtypes
    assert int(own) < size
    assert int(peak) < 1.8 * size
