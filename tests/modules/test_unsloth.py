"""UnslothModule: what it asks of Unsloth, when, and what it says where that cannot be."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForImageTextToText

from deepsynth.data import JsonlSource
from deepsynth.errors import UserError
from deepsynth.models.lora_init import adapted_layers, frozen_weight
from deepsynth.models.quantization.quantize import Quantization, quantize
from deepsynth.models.registry import FAMILIES, load_pretrained
from deepsynth.modules import UnslothModule
from deepsynth.unsloth_import import prepare_environment
from tests.helpers import unsloth_stand_in
from tests.helpers.tiny_models import find_makers
from tests.helpers.training import grouped, make_data, make_module, make_trainer
from tests.helpers.unsloth_stand_in import FastVisionModel
from tests.models.families.runs import batch_of, data_of

needs_bitsandbytes = pytest.mark.skipif(
    importlib.util.find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed (extra gpu)"
)


@pytest.fixture
def unsloth(monkeypatch: pytest.MonkeyPatch) -> type[FastVisionModel]:
    return unsloth_stand_in.install(monkeypatch)


def make(**kwargs: Any) -> UnslothModule:
    settings: dict[str, Any] = {"max_new_tokens": 4, "schedule": "constant", **kwargs}
    return UnslothModule(optimizer=lambda params: torch.optim.AdamW(params, lr=2e-3), **grouped(**settings))


def test_without_a_gpu_one_line_names_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deepsynth.modules.unsloth.has_accelerator", lambda: False)
    with pytest.raises(ValueError, match=r"needs a GPU.*pip install 'deepsynth-ocr\[unsloth\]'.*PeftModule") as caught:
        make().configure_model()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("error", [ImportError("no module"), NotImplementedError("You need a GPU")])
def test_an_unsloth_that_does_not_load_is_one_line(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    class Broken:
        def find_spec(self, name: str, *args: Any) -> None:
            if name == "unsloth":
                raise error

    monkeypatch.setattr("deepsynth.modules.unsloth.has_accelerator", lambda: True)
    monkeypatch.delitem(sys.modules, "unsloth", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Broken(), *sys.meta_path])
    with pytest.raises(ValueError, match=rf"{type(error).__name__}: {error}.*pip install 'deepsynth-ocr\[unsloth\]'"):
        make().configure_model()


@pytest.mark.parametrize(
    ("quantization", "flags", "activations", "checkpointing"),
    [
        ("none", (False, False, True), "auto", "unsloth"),
        ("nf4", (True, False, False), "offload", "unsloth"),
        ("int8", (False, True, False), "full", True),
        ("none", (False, False, True), "none", False),
    ],
)
def test_settings_become_unsloths_arguments(
    unsloth: Any, quantization: Any, flags: tuple[bool, ...], activations: Any, checkpointing: Any
) -> None:
    module = make(quantization=quantization, activation_memory=activations, max_seq_length=99, rslora=True, rank=4)
    module.configure_model()
    load, adapt = unsloth.calls[0][1], unsloth.calls[1][1]
    assert (load["load_in_4bit"], load["load_in_8bit"], load["load_in_16bit"]) == flags
    assert load["use_gradient_checkpointing"] == adapt["use_gradient_checkpointing"] == checkpointing
    assert (load["max_seq_length"], load["use_exact_model_name"], load["dtype"]) == (99, True, torch.float32)
    assert load["device_map"] == {"": "cpu"}, "the device of its process"
    assert (adapt["r"], adapt["lora_alpha"], adapt["use_rslora"]) == (4, 8, True)
    assert adapt["target_parameters"] == []  # None would let Unsloth choose experts by itself
    assert module.model.peft_config["default"].base_model_name_or_path == "deepsynth/tiny-random"


@pytest.mark.gpu
def test_the_stand_in_takes_no_argument_that_unsloth_does_not() -> None:
    from deepsynth.modules.unsloth import import_unsloth

    assert unsloth_stand_in.unknown_arguments(import_unsloth().FastVisionModel) == []


def test_an_argument_that_unsloth_drops_is_found() -> None:
    class Later:
        @staticmethod
        def from_pretrained(model_name: str, max_seq_length: int, dtype: Any = None, **kwargs: Any) -> None:
            load_in_4bit = kwargs.pop("load_in_4bit", True)
            assert load_in_4bit, 'no "load_in_8bit" = any more'

        @staticmethod
        def get_peft_model(model: Any, r: int, random_state: int, **kwargs: Any) -> None: ...

        @staticmethod
        def for_training(model: Any) -> None: ...

    found = unsloth_stand_in.unknown_arguments(Later)
    assert {"from_pretrained.auto_model", "from_pretrained.use_exact_model_name", "for_inference"} <= set(found)
    assert not {"from_pretrained.load_in_4bit", "from_pretrained.dtype", "get_peft_model.use_dora"} & set(found)
    assert "get_peft_model.finetune_vision_layers" in found
    assert unsloth_stand_in.unknown_arguments(FastVisionModel) == []


def test_automatic_targets_leave_the_choice_to_unsloth(unsloth: Any) -> None:
    make(lora_targets="auto", vision=True).configure_model()
    adapt = unsloth.calls[1][1]
    assert adapt["target_modules"] is None
    assert adapt["target_parameters"] is None
    assert adapt["finetune_vision_layers"] is True


@pytest.mark.parametrize(
    "setting",
    [
        {"loss": "chunked"}, {"activation_memory": "selective"}, {"vision_cache": "memory"}, {"compile": "decoder"},
        {"experts_implementation": "eager"}, {"attn_implementation": "eager"}, {"memory_budget_gib": 3.0},
    ],
)  # fmt: skip
def test_what_unsloth_replaces_is_refused(setting: dict[str, Any]) -> None:
    (name,) = setting
    with pytest.raises(ValueError, match=rf"model\.engine\.{name} is .*but Unsloth .*PeftModule"):
        make(**setting)


@needs_bitsandbytes
def test_loftq_begins_as_what_unsloths_four_bits_lost(
    monkeypatch: pytest.MonkeyPatch, unsloth: type[FastVisionModel]
) -> None:
    load = unsloth.from_pretrained

    def in_four_bits(**kwargs: Any) -> Any:
        model, rest = load(**kwargs)
        quantize(model, Quantization("nf4", True, torch.float32, vision=False), torch.device("cpu"))
        return model, rest

    monkeypatch.setattr(unsloth, "from_pretrained", in_four_bits)
    ours, modules = make_module(quantization="nf4", init="loftq", mlp=True, vision=True), []
    ours.quantize_vision = False
    for module in (ours, make(quantization="nf4", init="loftq", mlp=True, vision=True)):
        module.configure_model()
        modules.append({name: p for name, p in module.model.named_parameters() if p.requires_grad})
    assert unsloth.calls[1][1]["init_lora_weights"] is True  # Unsloth itself starts them in the plain way
    first, second = modules
    assert first.keys() == second.keys()
    for name in (name for name in first if "language_model" in name):
        assert torch.equal(first[name], second[name])
        assert bool(first[name].any())
    assert not any(bool(p.any()) for name, p in second.items() if "vision_tower" in name and "lora_B" in name)


@pytest.mark.parametrize("init", ["pissa", "olora"])
def test_inits_that_change_the_base_change_unsloths(unsloth: Any, init: str) -> None:
    module = make(init=init)
    module.configure_model()
    base = load_pretrained(AutoModelForImageTextToText, "deepsynth/tiny-random", dtype=torch.float32)
    weights = dict(base.named_parameters())
    layers = dict(adapted_layers(module.model))
    assert layers
    for name, layer in layers.items():
        assert not torch.allclose(frozen_weight(layer), weights[name], atol=1e-3)
        torch.testing.assert_close(
            frozen_weight(layer) + layer.get_delta_weight("default"), weights[name], rtol=1e-4, atol=1e-5
        )


def test_random_weights_are_loaded_from_a_folder_that_is_gone_afterwards(unsloth: Any) -> None:
    torch.manual_seed(0)
    module = make(weights="random")
    module.configure_model()
    folder = Path(unsloth.calls[0][1]["model_name"])
    assert folder.name.startswith("deepsynth-")
    assert not folder.exists()


def test_reading_is_in_inference_mode_and_goes_back_to_the_mode_there_was(
    unsloth: Any, tmp_path: Path, jsonl: Path
) -> None:
    module = make(samples=2)
    trainer = make_trainer(tmp_path, max_steps=2, val_check_interval=1, limit_val_batches=1)
    trainer.fit(module, make_data(jsonl, val_source=JsonlSource(str(jsonl))))
    names = [name for name, _ in unsloth.calls]
    assert names[:3] == ["from_pretrained", "get_peft_model", "for_training"]
    assert names[3:] == ["for_inference", "for_training"] * (len(names[3:]) // 2)
    assert len(names) > 3
    data = make_data(jsonl)
    data.setup("fit")
    batch = next(iter(data.train_dataloader()))
    for training in (True, False):
        module.model.train(training)
        module.generate(batch)
        assert module.model.training is training


def test_packed_rows_are_refused(unsloth: Any, jsonl: Path) -> None:
    module = make()
    module.configure_model()
    data = make_data(jsonl)
    data.setup("fit")
    batch = next(iter(data.train_dataloader()))
    batch.tokens["position_ids"] = torch.zeros_like(batch.tokens["input_ids"])
    with pytest.raises(ValueError, match="packed"):
        module.compute_loss(batch)


def test_without_a_gpu_no_document_is_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, jsonl: Path) -> None:
    monkeypatch.setattr("deepsynth.modules.unsloth.has_accelerator", lambda: False)
    monkeypatch.setattr(JsonlSource, "__iter__", lambda self: pytest.fail("a document was read"))
    with pytest.raises(ValueError, match="UnslothModule needs a GPU"):
        make_trainer(tmp_path, max_steps=1).fit(make(), make_data(jsonl))


def test_a_model_that_stays_in_sixteen_bits_is_refused(
    monkeypatch: pytest.MonkeyPatch, unsloth: type[FastVisionModel]
) -> None:
    load = unsloth.from_pretrained

    def without_bitsandbytes(**kwargs: Any) -> Any:
        return load(**{**kwargs, "load_in_4bit": False, "load_in_16bit": True})

    monkeypatch.setattr(unsloth, "from_pretrained", without_bitsandbytes)
    with pytest.raises(ValueError, match=r"model.quantization is nf4, but Unsloth loaded 16 bits.*bitsandbytes"):
        make(quantization="nf4").configure_model()


@pytest.mark.parametrize("family", ["idefics3", "paddleocr_vl", pytest.param("glm_ocr", marks=pytest.mark.slow)])
def test_other_families_are_loaded_if_the_installed_version_loads_them(
    family: str, unsloth: type[FastVisionModel], tmp_path: Path, jsonl: Path
) -> None:
    """No list of ours says which: Unsloth gets the model, and its loss is trained."""
    maker = find_makers()[family]
    folder = maker.make(tmp_path / "model")
    module = make(model_name=str(folder), quantization="nf4")
    trainer = make_trainer(tmp_path / "run", max_steps=2, limit_val_batches=0)
    data = data_of(folder, maker.PAGES, batch_size=2)
    trainer.fit(module, data)
    assert trainer.global_step == 2
    assert [name for name, _ in unsloth.calls][:2] == ["from_pretrained", "get_peft_model"]
    assert unsloth.calls[0][1]["load_in_4bit"]
    adapted = [name for name, parameter in module.named_parameters() if parameter.requires_grad]
    assert adapted
    assert all("lora_" in name for name in adapted)
    assert module.generate(batch_of(folder, maker.PAGES)) is not None


@pytest.mark.parametrize(
    "fault",
    [RuntimeError("Unsloth: no such\nmodel"), NotImplementedError("not yet"), ImportError("too old"), KeyError("x")],
    ids=lambda fault: type(fault).__name__,
)
def test_a_family_that_unsloth_does_not_load_is_one_line(
    fault: Exception, unsloth: type[FastVisionModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unsloth, "fault", fault)
    with pytest.raises(UserError, match=r"the installed Unsloth does not load DeepSeek-OCR-2 \(.*PeftModule") as caught:
        make().configure_model()
    assert "\n" not in str(caught.value)
    assert type(fault).__name__ in str(caught.value)


def test_memory_that_is_full_is_no_matter_of_the_family(
    unsloth: type[FastVisionModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unsloth, "fault", torch.OutOfMemoryError("full"))
    with pytest.raises(torch.OutOfMemoryError):
        make().configure_model()


def test_a_family_without_unsloth_is_refused_before_it_is_asked(
    unsloth: type[FastVisionModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    family = replace(FAMILIES["deepseek_ocr2"], unsupported={"unsloth": "it has other layers"})
    monkeypatch.setitem(FAMILIES, "deepseek_ocr2", family)
    with pytest.raises(
        UserError, match=r"UnslothModule, which does not work for DeepSeek-OCR-2 \(it has other layers\)"
    ):
        make().configure_model()
    assert unsloth.calls == []


def test_unsloth_writes_into_the_cache_and_asks_nobody() -> None:
    variables = {"XDG_CACHE_HOME": "/caches"}
    prepare_environment(variables)
    assert variables["UNSLOTH_COMPILE_LOCATION"] == "/caches/deepsynth/unsloth"
    assert variables["UNSLOTH_DISABLE_STATISTICS"] == "1"
    chosen = {"UNSLOTH_COMPILE_LOCATION": "here", "UNSLOTH_DISABLE_STATISTICS": ""}
    prepare_environment(chosen)
    assert chosen == {"UNSLOTH_COMPILE_LOCATION": "here", "UNSLOTH_DISABLE_STATISTICS": ""}
