"""PeftModule with frozen weights in 4 and 8 bits: the same function, trained, stored, read back and exported."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from deepsynth import PeftModule
from deepsynth.export.merge import export_model
from deepsynth.models.engine.layer_runner import keep
from deepsynth.models.quantization.nf4_experts import Nf4Experts, dequantize_nf4
from deepsynth.types import Batch
from tests.helpers.training import make_data, make_module, make_trainer

needs_bitsandbytes = pytest.mark.skipif(
    importlib.util.find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed (extra gpu)"
)
ALL = {"experts": "all", "mlp": True, "activation_memory": "none"}


def loaded(**kwargs: Any) -> PeftModule:
    module = make_module(**{**ALL, **kwargs})
    module.configure_model()
    return module


def batch_of(jsonl: Path) -> Batch:
    data = make_data(jsonl)
    data.setup("fit")
    batch: Batch = next(iter(data.train_dataloader()))
    return batch


def adapters(module: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    return ((name, p) for name, p in module.named_parameters() if p.requires_grad)


def randomize(module: nn.Module) -> None:
    """Give every adapter weights that matter, B included."""
    torch.manual_seed(5)
    with torch.no_grad():
        for _, parameter in adapters(module):
            parameter.normal_(std=0.02)


def dequantized_twin(module: PeftModule) -> PeftModule:
    """Return the module without quantization, with the weights that the quantized ones stand for."""
    twin = loaded()
    own = dict(twin.model.named_modules())
    with torch.no_grad():
        for path, quantized in module.model.named_modules():
            if isinstance(quantized, Nf4Experts):
                for name in Nf4Experts.PARAMETERS:
                    getattr(own[path], name).copy_(quantized.quantized(name).dequantize())
            elif isinstance(quantized, nn.Linear) and hasattr(quantized.weight, "quant_state"):
                own[path].weight.copy_(dequantize_nf4(quantized.weight.data, quantized.weight.quant_state))
    return twin


@needs_bitsandbytes
def test_loss_and_gradients_are_those_of_the_dequantized_model_for_every_adapter(jsonl: Path) -> None:
    module = loaded(quantization="nf4")
    twin, batch = dequantized_twin(module), batch_of(jsonl)
    losses, gradients = [], []
    for each in (module, twin):
        randomize(each)
        loss = each.compute_loss(batch)
        loss.backward()
        losses.append(float(loss))
        gradients.append({name: p.grad for name, p in adapters(each)})
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    ours, reference = gradients
    assert ours.keys() == reference.keys()
    routed = [name for name in ours if ".mlp.experts." in name]
    assert {name.partition(".mlp.")[2] for name in routed} == {
        f"experts.{layer}lora_{side}.default.weight" for layer in ("", "base_layer.") for side in "AB"
    }
    for name, gradient in ours.items():
        assert bool(gradient.any()), name
        torch.testing.assert_close(gradient, reference[name], rtol=2e-3, atol=2e-6, msg=name)


@needs_bitsandbytes
@pytest.mark.parametrize("quantization", ["nf4", "int8"])
def test_every_adapter_trains_and_frozen_weights_stay(tmp_path: Path, jsonl: Path, quantization: Any) -> None:
    experts = "all" if quantization == "nf4" else "shared"
    module = make_module(**{**ALL, "experts": experts}, quantization=quantization)
    module.configure_model()
    before = {name: p.detach().clone() for name, p in module.named_parameters()}
    make_trainer(tmp_path, max_steps=2).fit(module, make_data(jsonl))
    for name, parameter in module.named_parameters():
        assert torch.equal(parameter, before[name]) is not parameter.requires_grad, name
    trained = dict(adapters(module))
    assert {name: p.shape for name, p in trained.items()} == {
        name: p.shape for name, p in adapters(loaded(experts=experts))
    }
    assert {p.dtype for p in trained.values()} == {torch.float32}


@needs_bitsandbytes
def test_sixteen_bit_weights_are_left_in_sixteen_bits(jsonl: Path) -> None:
    module = loaded(quantization="nf4", dtype="bfloat16")
    for name, parameter in module.named_parameters():
        if not parameter.requires_grad and not name.rpartition(".")[2].startswith("scale"):
            assert parameter.dtype in (torch.bfloat16, torch.uint8), name
    assert module.compute_loss(batch_of(jsonl)).isfinite()


@needs_bitsandbytes
@pytest.mark.parametrize("quantization", ["nf4", "int8"])
def test_the_table_is_printed_at_the_start(caplog: pytest.LogCaptureFixture, quantization: Any) -> None:
    with caplog.at_level("INFO"):
        loaded(quantization=quantization, experts="shared")
    table = next(r.getMessage() for r in caplog.records if r.getMessage().startswith("weights "))
    rows = {line.split("  ")[0]: line.split()[-1] for line in table.splitlines()[1:]}
    assert {"vision", "embeddings", "attention", "dense MLP", "shared experts", "routed experts", "head", "all"} <= set(
        rows
    )
    assert float(rows["routed experts"]) == (pytest.approx(4.3, abs=0.1) if quantization == "nf4" else 32.0)


@needs_bitsandbytes
def test_a_checkpoint_and_an_adapter_bring_back_what_was_trained(tmp_path: Path, jsonl: Path) -> None:
    module = make_module(**ALL, quantization="nf4")
    trainer = make_trainer(tmp_path, max_steps=2)
    trainer.fit(module, make_data(jsonl))
    trainer.save_checkpoint(tmp_path / "run.ckpt")
    module.save_adapter(tmp_path / "adapter")
    batch = batch_of(jsonl)
    expected = float(module.compute_loss(batch))
    checkpoint = torch.load(tmp_path / "run.ckpt", weights_only=True)
    assert all("lora_" in name for name in checkpoint["state_dict"])
    again = make_module(**ALL, quantization="nf4")
    again.on_load_checkpoint(checkpoint)
    again.load_state_dict(checkpoint["state_dict"], strict=False)
    assert float(again.compute_loss(batch)) == pytest.approx(expected, rel=1e-6)
    other = loaded(quantization="none", adapter=str(tmp_path / "adapter"))  # what 4 bits trained fits 16 bits
    assert {n: p.tolist() for n, p in adapters(other)} == {n: p.tolist() for n, p in adapters(module)}

    report = export_model(tmp_path / "adapter", output=tmp_path / "merged")
    assert report.changed == len({name.partition(".lora_")[0] for name, _ in adapters(module)})
    settings = json.loads((tmp_path / "adapter" / "deepsynth.json").read_text())
    assert settings["quantization"] == "nf4"


@needs_bitsandbytes
def test_merging_into_four_bits_is_refused() -> None:
    module = loaded(quantization="nf4")
    with pytest.raises(ValueError, match="deepsynth export merges it into the model's own 16-bit weights"):
        module.model.merge_and_unload()


@needs_bitsandbytes
def test_reading_after_training_and_training_after_reading(tmp_path: Path, jsonl: Path) -> None:
    module, batch = loaded(quantization="nf4"), batch_of(jsonl)
    expected = float(module.compute_loss(batch))
    module.eval()
    assert module.generate(batch)
    module.train()
    assert float(module.compute_loss(batch)) == pytest.approx(expected, rel=1e-6)


def gradients(module: PeftModule, batch: Batch) -> dict[str, torch.Tensor]:
    """Return the gradients of all adapters."""
    module.zero_grad()
    module.compute_loss(batch).backward()
    return {name: p.grad.clone() for name, p in adapters(module) if p.grad is not None}


@needs_bitsandbytes
def test_recomputed_layers_train_the_same(jsonl: Path) -> None:
    module, batch = loaded(quantization="nf4"), batch_of(jsonl)
    runners = module.training_engine.layers
    expected = gradients(module, batch)
    for level in ("selective", "full", "offload"):
        keep(runners, level)
        torch.testing.assert_close(gradients(module, batch), expected)


@needs_bitsandbytes
@pytest.mark.slow
def test_a_compiled_layer_trains_the_same(jsonl: Path) -> None:
    module, batch = loaded(quantization="nf4"), batch_of(jsonl)
    runners, expected = module.training_engine.layers, gradients(module, batch)
    sparse = next(runner for runner in runners if hasattr(getattr(runner.layer, "mlp", None), "experts"))
    sparse.fast = torch.compile(sparse.plain, backend="eager")
    torch.testing.assert_close(gradients(module, batch), expected)


def test_what_cannot_be_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"model\.quantization is 'nf3'; it must be none, nf4, int8"):
        make_module(quantization="nf3")
    monkeypatch.setitem(__import__("sys").modules, "bitsandbytes", None)
    with pytest.raises(ValueError, match=r"needs bitsandbytes .*pip install 'deepsynth-ocr\[gpu\]'"):
        loaded(quantization="nf4")
