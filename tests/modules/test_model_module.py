"""Settings of a module, what they resolve to, and what it says and logs; the model is the tiny one, or none."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.trainer.states import TrainerFn

from deepsynth import PeftModule
from deepsynth.errors import UserError
from deepsynth.models.registry import FAMILIES
from deepsynth.modules import FullModule, model_module
from deepsynth.modules.loading import attention_by_part
from deepsynth.modules.optim import FusedAdamW
from tests.helpers.training import grouped, make_module, make_trainer
from tests.modules.test_text_generator import make_batch


@pytest.mark.parametrize(
    ("dtype", "device", "has_bfloat16", "frozen", "trained"),
    [
        ("auto", "cpu", True, torch.float32, torch.float32),
        ("auto", "cuda", True, torch.bfloat16, torch.float32),
        ("auto", "cuda", False, torch.float16, torch.float32),
        ("bfloat16", "cpu", True, torch.bfloat16, torch.bfloat16),
        ("float16", "cuda", True, torch.float16, torch.float16),
    ],
)
def test_weights_are_as_small_as_the_device_computes_in(
    dtype: Any, device: str, has_bfloat16: bool, frozen: Any, trained: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **kwargs: (asked.append(kwargs), has_bfloat16)[1])
    assert PeftModule(dtype=dtype).dtype_on(device) == frozen
    assert FullModule(dtype=dtype).dtype_on(device) == trained, "updates of a small learning rate vanish in 16 bits"
    assert asked in ([], [{"including_emulation": False}])


def test_settings_of_a_module_are_plain_in_its_record() -> None:
    module = PeftModule(
        "deepsynth/tiny-random", adapter="a", weights="random", dtype="float16", schedule="linear", warmup_steps=3
    )
    assert (module.warmup_steps, module.schedule, module.weights, module.adapter) == (3, "linear", "random", "a")
    record = dict(module.hparams)
    assert record["model_name"] == "deepsynth/tiny-random"
    assert {name: record[name] for name in ("adapter", "weights", "dtype", "schedule", "warmup_steps")} == {
        "adapter": "a",
        "weights": "random",
        "dtype": "float16",
        "schedule": "linear",
        "warmup_steps": 3,
    }
    assert record["lora"]["rank"] == module.lora.rank
    assert record["generation"]["samples"] == module.generation.samples
    assert "optimizer" not in record


def test_the_default_optimizer_is_adamw_with_its_learning_rate() -> None:
    optimizer = PeftModule().optimizer([torch.nn.Parameter(torch.zeros(1))])
    assert type(optimizer) is FusedAdamW
    assert optimizer.param_groups[0]["lr"] == 2e-4
    assert PeftModule().schedule == "cosine"


@pytest.mark.parametrize(("steps", "refused"), [(-1, True), (0, False), (5, False)])
def test_a_warm_up_has_no_negative_length(steps: int, refused: bool) -> None:
    if refused:
        with pytest.raises(UserError, match=r"^model\.warmup_steps is -1; it must be at least 0"):
            PeftModule(warmup_steps=steps)
    else:
        assert PeftModule(warmup_steps=steps).warmup_steps == steps


KV, TOKENS = "set model.engine.activation_memory=full", "lower model.generation.max_new_tokens (now {})"
NF4, BF16 = "set model.quantization=nf4", "set model.dtype=bfloat16"


@pytest.mark.parametrize(
    ("settings", "phase", "expected"),
    [
        ({}, "forward", [KV, NF4]),
        ({}, None, [KV, NF4]),
        ({}, "load", [NF4]),
        ({}, "validation", [NF4]),
        ({}, "generation", [TOKENS.format("by the longest target"), NF4]),
        ({"max_new_tokens": 70}, "generation", [TOKENS.format(70), NF4]),
        ({"activation_memory": "none"}, "forward", [KV, NF4]),
        ({"activation_memory": "selective"}, "forward", [KV, NF4]),
        ({"activation_memory": "full"}, "forward", [NF4]),
        ({"activation_memory": "offload", "quantization": "nf4"}, "forward", []),
        ({"quantization": "int8", "activation_memory": "full"}, "forward", []),
        ({"dtype": "float32"}, "forward", [KV, BF16, NF4]),
    ],
)
def test_what_would_save_memory_and_is_not_chosen_is_named(settings: Any, phase: Any, expected: list[str]) -> None:
    assert PeftModule(**grouped(**settings)).memory_savings(phase) == expected
    if "quantization" not in settings:
        full = FullModule(**grouped(**settings)).memory_savings(phase)
        assert full == [hint for hint in expected if hint != NF4], "which trains every weight"


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A module without a model that keeps what it logs."""
    module = PeftModule()
    module.trainer = SimpleNamespace()  # type: ignore[assignment]
    logged: list[Any] = []
    monkeypatch.setattr(
        module, "log", lambda name, value, **options: logged.append((name, float(value), options)), raising=False
    )
    module.__dict__["logged"] = logged
    return module


def test_the_bar_has_a_loss_at_first_and_where_it_is_logged(module: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for index in range(7):
        monkeypatch.setattr(model_module, "logs_after_batch", lambda trainer, index=index: index in (2, 5))
        module.log_training_loss(torch.tensor(index + 0.5), make_batch(), index)
    kept = [(value, options) for name, value, options in module.logged if name == "train/loss"]
    assert kept == [(index + 0.5, {"batch_size": 2}) for index in range(7)]
    bar = [(value, options) for name, value, options in module.logged if name == "loss"]
    assert bar == [(index + 0.5, {"prog_bar": True, "logger": False, "batch_size": 2}) for index in (0, 2, 5)]


def test_numbers_are_logged_as_tensors_of_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    logged: list[Any] = []
    monkeypatch.setattr(LightningModule, "log", lambda self, name, value, *args, **kwargs: logged.append(value))
    module = PeftModule()
    averaged, tensor = 0.25, torch.tensor(3.0)
    module.log("a", 1 / 3, prog_bar=True)
    module.log("b", averaged, sync_dist=True)
    module.log("c", tensor)
    assert logged[0].dtype == torch.float64
    assert logged[0].device.type == "cpu"
    assert logged[0].item() == 1 / 3
    assert logged[1] is averaged
    assert logged[2] is tensor


def test_pixels_alone_are_cast_to_the_dtype_of_the_weights() -> None:
    batch = make_batch(images={"pixel_values": torch.ones(2, 3), "num_local_patches": torch.ones(2, dtype=torch.long)})
    batch.tokens = {"input_ids": torch.zeros(2, 3, dtype=torch.long)}
    table = torch.rand(3, 256, generator=torch.Generator().manual_seed(0))
    pages = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    of_bytes = replace(make_batch(images={"pixel_values": pages}), pixel_table=table)
    values = PeftModule(dtype="float16").in_weights_dtype(of_bytes)
    assert values.pixel_table is None
    assert torch.equal(values.images["pixel_values"], table.half().view(1, 3, 16, 16))
    found = PeftModule(dtype="float16").in_weights_dtype(batch)
    assert found.images["pixel_values"].dtype == torch.float16
    assert found.images["num_local_patches"].dtype == found.tokens["input_ids"].dtype == torch.long
    assert batch.images["pixel_values"].dtype == torch.float32


def test_a_model_stays_where_it_is_at_the_end_of_a_command(monkeypatch: pytest.MonkeyPatch) -> None:
    moved: list[Any] = []
    monkeypatch.setattr("lightning.pytorch.LightningModule.cpu", lambda self: (moved.append(self), self)[1])
    module = PeftModule()
    module.stays_on_device = True
    assert module.cpu() is module
    assert moved == []
    module.stays_on_device = False
    assert module.cpu() is module
    assert moved == [module]


@pytest.mark.parametrize(
    ("fits", "expected"),
    [
        (None, "deepsynth/tiny-random: {frozen} frozen parameters in bfloat16, {trained} trainable ({share})"),
        (TrainerFn.FITTING, "deepsynth/tiny-random: {frozen} frozen parameters in bfloat16, {trained} trainable"),
        (TrainerFn.PREDICTING, "deepsynth/tiny-random: {all} parameters in bfloat16"),
    ],
)
def test_the_model_is_loaded_once_and_its_size_is_told(fits: Any, expected: str, tmp_path: Path, caplog: Any) -> None:
    caplog.set_level(logging.INFO)
    module = make_module(dtype="bfloat16")
    if fits is not None:
        module.trainer = make_trainer(tmp_path)
        module.trainer.state.fn = fits
    module.configure_model()
    model = module.model
    module.configure_model()
    assert module.model is model
    frozen, trained = (
        sum(p.numel() for p in model.parameters() if p.requires_grad == needed) for needed in (False, True)
    )
    assert frozen > trained > 0
    figures = {"frozen": f"{frozen:,}", "trained": f"{trained:,}", "all": f"{frozen + trained:,}"}
    wanted = expected.format(**figures, share=f"{trained / (frozen + trained):.2%}")
    told = [record.getMessage() for record in caplog.records if " parameters in " in record.getMessage()]
    assert len(told) == 1
    assert told[0].startswith(wanted)
    assert {p.dtype for p in model.parameters() if not p.requires_grad} == {torch.bfloat16}
    assert module.resolved_dtype == torch.bfloat16
    module.weights_dtype = "float16"
    assert module.resolved_dtype == torch.bfloat16, "of the weights that it has"


FAMILY = FAMILIES["deepseek_ocr"]


@pytest.mark.parametrize("version", [2, 3, 4])
@pytest.mark.parametrize("there", [True, False])
def test_flash_attention_is_for_the_decoder_where_its_package_is_installed(
    version: int, there: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    name: Any = f"flash_attention_{version}"
    for one in (2, 3, 4):
        available = there if one == version else not there
        monkeypatch.setattr(f"transformers.utils.is_flash_attn_{one}_available", lambda available=available: available)
    if there:
        assert attention_by_part(name, FAMILY) == {"": "sdpa", "vision_config": "sdpa", "text_config": name}
        return
    package, how = {
        2: ("flash-attn", "pip install flash-attn"),
        3: ("flash-attn-3", "build it from flash-attention's folder hopper"),
        4: ("flash-attn-4", "pip install flash-attn-4"),
    }[version]
    with pytest.raises(UserError) as caught:
        attention_by_part(name, FAMILY)
    assert str(caught.value).startswith(
        f"model.engine.attn_implementation is {name}, but {package} is not installed or there is no GPU; {how}, or use"
    )


@pytest.mark.parametrize(
    ("name", "has_sdpa", "expected"),
    [("sdpa", True, "sdpa"), ("eager", True, "eager"), ("eager", False, "eager"), ("sdpa", False, None)],
)
def test_attention_that_needs_no_package_is_for_all_parts(name: Any, has_sdpa: bool, expected: str | None) -> None:
    assert attention_by_part(name, replace(FAMILY, has_sdpa=has_sdpa)) == expected


def test_random_weights_are_random_and_told_and_the_same_by_the_seed(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    weights = []
    for seed in (1, 1, 2):
        module = make_module(seed, weights="random")
        module.configure_model()
        weights.append(module.model.get_base_model().lm_head.weight.detach().clone())
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    assert "deepsynth/tiny-random: random weights (model.weights=random)" in caplog.text


def test_an_adapter_is_where_training_begins(tmp_path: Path) -> None:
    first = make_module(1)
    first.configure_model()
    with torch.no_grad():
        for parameter in first.parameters():
            if parameter.requires_grad:
                parameter.normal_()
    first.save_adapter(tmp_path / "adapter")
    second = make_module(2, adapter=str(tmp_path / "adapter"))
    second.configure_model()
    own = dict(second.named_parameters())
    assert all(torch.equal(own[name], value) for name, value in first.named_parameters() if value.requires_grad)
