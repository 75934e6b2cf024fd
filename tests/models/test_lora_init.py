"""Adapters that begin from the frozen weights: what they begin with, and what is left of it in files."""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn
from transformers import AutoModelForImageTextToText

from deepsynth import PeftModule
from deepsynth.errors import UserError
from deepsynth.export.merge import export_model
from deepsynth.models.lora_init import adapted_layers, frozen_weight, plain_lora, restore_start
from deepsynth.models.quantization.nf4_experts import Nf4Experts
from deepsynth.models.quantization.quantize import Quantization, quantize
from deepsynth.models.registry import load_pretrained
from deepsynth.modules.adapter import adapter_settings
from deepsynth.types import Batch
from tests.helpers.training import make_data, make_module, make_trainer

needs_bitsandbytes = pytest.mark.skipif(
    importlib.util.find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed (extra gpu)"
)
NAME = "deepsynth/tiny-random"
ALL = {"experts": "all", "mlp": True, "rank": 4, "activation_memory": "none"}


@pytest.fixture
def batch(jsonl: Path) -> Batch:
    data = make_data(jsonl)
    data.setup("fit")
    found: Batch = next(iter(data.train_dataloader()))
    return found


def loaded(**settings: Any) -> PeftModule:
    module = make_module(**{**ALL, **settings})
    module.configure_model()
    return module


def base_model() -> Any:
    return load_pretrained(AutoModelForImageTextToText, NAME, dtype=torch.float32)


@torch.no_grad()
def logits(model: nn.Module, batch: Batch) -> torch.Tensor:
    inputs = {name: tensor for name, tensor in batch.inputs.items() if name != "labels"}
    return model.eval()(**inputs).logits


def trained(folder: Path, jsonl: Path, **settings: Any) -> PeftModule:
    module = make_module(**{**ALL, **settings})
    make_trainer(folder, max_steps=2).fit(module, make_data(jsonl))
    return module


def delta(layer: Any) -> torch.Tensor:
    """Return peft's own sum of an adapter (peft adds it to weights of this shape)."""
    change: torch.Tensor = layer.get_delta_weight("default")
    return change.detach().float()


@needs_bitsandbytes
@pytest.mark.parametrize("rslora", [False, True])
def test_loftq_begins_as_the_best_approximation_of_what_nf4_lost(rslora: bool) -> None:
    module = loaded(quantization="nf4", init="loftq", rslora=rslora)
    weights = dict(base_model().named_parameters())
    layers = dict(adapted_layers(module.model))
    assert {name.rpartition("layers.1.")[2] for name in layers} > {
        "self_attn.q_proj.weight", "mlp.shared_experts.up_proj.weight", "mlp.experts.gate_up_proj",
        "mlp.experts.down_proj",
    }  # fmt: skip
    for name, layer in layers.items():
        error = weights[name].detach().float() - frozen_weight(layer).float()
        assert error.norm() > 0.01 * weights[name].norm()
        best = torch.linalg.svdvals(error.double())[..., 4:].square().sum().sqrt()
        assert float((error - delta(layer)).norm()) == pytest.approx(float(best), rel=0.01), name
        assert best < 0.97 * error.norm()


@needs_bitsandbytes
def test_loftq_leaves_weights_and_the_adapters_of_exact_ones_as_they_were() -> None:
    plain = loaded(quantization="nf4", projector=True)
    module = loaded(quantization="nf4", projector=True, init="loftq")
    before = dict(plain.model.named_parameters())
    for name, parameter in module.model.named_parameters():
        exact = "lora_" not in name or "multi_modal_projector" in name
        assert torch.equal(parameter, before[name]) is exact, name


@needs_bitsandbytes
def test_a_loftq_adapter_in_plain_peft_on_the_same_base(tmp_path: Path, jsonl: Path, batch: Batch) -> None:
    module = trained(tmp_path, jsonl, quantization="nf4", init="loftq", experts="shared")
    module.save_adapter(tmp_path / "adapter")
    base = base_model()
    quantize(base, Quantization("nf4", True, torch.float32, True), torch.device("cpu"))
    plain = PeftModel.from_pretrained(base, str(tmp_path / "adapter"))
    torch.testing.assert_close(logits(plain, batch), logits(module.model, batch))
    with plain.disable_adapter():
        assert not torch.allclose(logits(plain, batch), logits(module.model, batch), atol=1e-3)


@needs_bitsandbytes
def test_a_loftq_adapter_of_routed_experts_in_plain_peft(tmp_path: Path, jsonl: Path, batch: Batch) -> None:
    module = trained(tmp_path, jsonl, quantization="nf4", init="loftq")
    module.save_adapter(tmp_path / "adapter")
    base = base_model()
    experts = {name: m for name, m in base.named_modules() if hasattr(m, "gate_up_proj")}
    quantize(base, Quantization("nf4", True, torch.float32, True), torch.device("cpu"))
    dequantized = {name: frozen_weight(layer) for name, layer in adapted_layers(module.model)}
    for (
        name,
        whole,
    ) in experts.items():  # plain peft adapts no routed experts in 4 bits
        assert isinstance(base.get_submodule(name), Nf4Experts)
        base.set_submodule(name, whole)
        for parameter in Nf4Experts.PARAMETERS:
            getattr(whole, parameter).data.copy_(dequantized[f"{name}.{parameter}"])
    plain = PeftModel.from_pretrained(base, str(tmp_path / "adapter"))
    torch.testing.assert_close(logits(plain, batch), logits(module.model, batch), rtol=1e-4, atol=1e-4)


@needs_bitsandbytes
def test_export_of_a_loftq_adapter_is_the_trained_model(tmp_path: Path, jsonl: Path, batch: Batch) -> None:
    module = trained(tmp_path, jsonl, quantization="nf4", init="loftq", vision=True)
    module.save_adapter(tmp_path / "adapter")
    export_model(tmp_path / "adapter", output=tmp_path / "merged", dtype="float32")
    merged = load_pretrained(AutoModelForImageTextToText, str(tmp_path / "merged"), dtype=torch.float32)
    torch.testing.assert_close(logits(merged, batch), logits(module.model, batch), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("init", ["pissa", "olora"])
def test_the_model_computes_the_same_at_the_start(init: Any, batch: Batch) -> None:
    module = loaded(init=init)
    torch.testing.assert_close(logits(module.model, batch), logits(base_model(), batch), rtol=1e-4, atol=1e-4)
    for name, layer in adapted_layers(module.model):
        assert delta(layer).norm() > 0.1 * frozen_weight(layer).norm(), name


def test_pissa_takes_the_largest_singular_values_and_olora_the_first_columns() -> None:
    weights = dict(base_model().named_parameters())
    for name, layer in adapted_layers(loaded(init="pissa").model):
        left, values, right = torch.linalg.svd(weights[name].detach(), full_matrices=False)
        rest = torch.linalg.norm(values[..., 4:])
        assert float(frozen_weight(layer).norm()) == pytest.approx(float(rest), rel=0.01), name
    for name, layer in adapted_layers(loaded(init="olora").model):
        left, right = torch.linalg.qr(weights[name].detach())
        torch.testing.assert_close(delta(layer), 2 * left[..., :4] @ right[..., :4, :], rtol=1e-3, atol=1e-4, msg=name)


@pytest.mark.parametrize(("init", "rslora"), [("pissa", False), ("pissa", True), ("olora", False)])
def test_what_is_written_is_plain_lora_for_the_base_as_it_was(
    init: Any, rslora: bool, tmp_path: Path, jsonl: Path, batch: Batch
) -> None:
    module = trained(tmp_path, jsonl, init=init, rslora=rslora)
    module.save_adapter(tmp_path / "adapter")
    expected = logits(module.model, batch)
    plain = PeftModel.from_pretrained(base_model(), str(tmp_path / "adapter"))
    config = plain.peft_config["default"]
    alpha = 8 * math.sqrt(2) if rslora else 16
    assert (config.r, config.lora_alpha, config.init_lora_weights) == (8, pytest.approx(alpha), True)
    torch.testing.assert_close(logits(plain, batch), expected, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(logits(base_model(), batch), expected, atol=1e-3)

    found = adapter_settings(tmp_path / "adapter")
    assert (found["lora.rank"], found["lora.init"]) == (8, "default")
    again = loaded(rank=8, alpha=found["lora.alpha"], rslora=rslora, adapter=str(tmp_path / "adapter"))
    torch.testing.assert_close(logits(again.model, batch), expected, rtol=1e-4, atol=1e-4)


def test_a_checkpoint_brings_its_own_start_along(tmp_path: Path, jsonl: Path, batch: Batch) -> None:
    module = make_module(**ALL, init="pissa")
    trainer = make_trainer(tmp_path, max_steps=2)
    trainer.fit(module, make_data(jsonl))
    trainer.save_checkpoint(tmp_path / "run.ckpt")
    expected = logits(module.model, batch)
    checkpoint = torch.load(tmp_path / "run.ckpt", weights_only=True)
    again = make_module(**ALL, init="pissa")
    again.on_load_checkpoint(checkpoint)
    again.load_state_dict(checkpoint["state_dict"], strict=False)
    assert torch.equal(logits(again.model, batch), expected)

    other = make_module(**ALL, init="olora")  # the start of another computer, taken far
    other.on_load_checkpoint(checkpoint)
    other.load_state_dict(checkpoint["state_dict"], strict=False)
    torch.testing.assert_close(logits(other.model, batch), expected, rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match=r"began in another way; set model\.lora\.init"):
        make_module(**ALL).on_load_checkpoint(checkpoint)


@needs_bitsandbytes
def test_loftq_draws_no_random_numbers_of_the_run() -> None:
    states = []
    for init in ("default", "loftq"):
        loaded(quantization="nf4", init=init)
        states.append(torch.get_rng_state())
    assert torch.equal(*states)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"init": "loftq"}, r"init is 'loftq', but model\.quantization is none; .*model\.quantization=nf4"),
        ({"init": "loftq", "quantization": "int8"}, r"init is 'loftq', but model\.quantization is int8"),
        ({"init": "loftq", "quantization": "nf4", "weights": "random"}, r"init is 'loftq', but model\.weights is"),
        ({"init": "pissa", "quantization": "nf4"}, r"init is 'pissa', which changes .*set model\.lora\.init=loftq"),
        ({"init": "olora", "adapter": "folder"}, r"init is 'olora', but training starts from the adapter folder"),
        ({"init": "pissa", "dora": True, "experts": "none"}, r"init is 'pissa', but model\.lora\.dora"),
        ({"init": "eva"}, r"init is 'eva'; it must be one of default, gaussian, loftq, pissa, olora"),
    ],
)
def test_what_does_not_go_together_is_one_line(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_module(**{**ALL, **settings})


@needs_bitsandbytes
def test_a_loftq_adapter_is_not_loaded_beside_exact_weights(tmp_path: Path) -> None:
    loaded(quantization="nf4", init="loftq").save_adapter(tmp_path / "adapter")
    found = adapter_settings(tmp_path / "adapter")
    assert found["lora.init"] == "loftq"
    with pytest.raises(ValueError, match=r"set model\.quantization=nf4"):
        make_module(**{**ALL, "init": found["lora.init"]}, adapter=str(tmp_path / "adapter"))


@pytest.mark.parametrize("experts", [1, 3])
def test_plain_lora_is_what_training_added_to_what_it_began_with(experts: int) -> None:
    """Of twice the rank, expert by expert: rows of A (E * r, I) are together, columns of B (O, r * E) apart."""
    torch.manual_seed(0)
    rank, outputs, inputs = 2, 5, 7
    shapes = {"x.lora_A.weight": (experts * rank, inputs), "x.lora_B.weight": (outputs, rank * experts)}
    trained, start = ({name: torch.randn(shape) for name, shape in shapes.items()} for _ in range(2))

    def products(factors: dict[str, torch.Tensor], r: int) -> torch.Tensor:
        a = factors["x.lora_A.weight"].reshape(experts, r, inputs)
        b = factors["x.lora_B.weight"].reshape(outputs, r, experts)
        return torch.einsum("ore,eri->eoi", b, a)

    plain = plain_lora(trained, start, rank)
    assert plain["x.lora_A.weight"].shape == (experts * 2 * rank, inputs)
    torch.testing.assert_close(products(plain, 2 * rank), products(trained, rank) - products(start, rank))


def test_the_frozen_weight_lacks_what_the_checkpoints_adapter_began_with() -> None:
    base = nn.Sequential(nn.Linear(3, 4, bias=False), nn.Linear(4, 2, bias=False))
    model: Any = get_peft_model(base, LoraConfig(r=2, lora_alpha=6, target_modules=["0", "1"]))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.normal_()
    now = {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}
    weights = {name: p.detach().clone() for name, p in model.named_parameters() if not p.requires_grad}
    first, second = ("base_model.model.0", "base_model.model.1")
    stored = {**now, f"{first}.lora_B.default.weight": torch.randn(4, 2)}
    assert restore_start(model, now, now) == now
    assert restore_start(model, now, stored) == stored
    found = dict(model.named_parameters())
    a, names = now[f"{first}.lora_A.default.weight"], f"{first}.lora_B.default.weight"
    expected = weights[f"{first}.base_layer.weight"] + 3.0 * (now[names] - stored[names]) @ a  # alpha over r is 3
    torch.testing.assert_close(found[f"{first}.base_layer.weight"].data, expected)
    assert torch.equal(found[f"{second}.base_layer.weight"], weights[f"{second}.base_layer.weight"])
    with pytest.raises(UserError, match="adapters began in another way"):
        restore_start(model, now, {})
