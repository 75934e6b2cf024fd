"""Samples, tokens and FLOPs a second, against a clock that the test holds."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from deepsynth.callbacks import Throughput, throughput
from deepsynth.profiling.flops import _grouped_mm_flop, flop_counter, peak_flops
from tests.helpers.training import make_data, make_module, make_trainer


class Clock:
    """Time passes when the test says so."""

    def __init__(self) -> None:
        self.now = 100.0

    def perf_counter(self) -> float:
        return self.now


class Step:
    """Two samples of 10 positions, 14 of them tokens."""

    def __init__(self) -> None:
        self.inputs = {"attention_mask": torch.tensor([[1] * 10, [1] * 4 + [0] * 6])}

    def __len__(self) -> int:
        return 2


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(throughput, "time", clock)
    return clock


def fake_trainer(**kwargs: Any) -> Any:
    strategy = SimpleNamespace(root_device=torch.device("cpu"))
    return SimpleNamespace(**{"world_size": 1, "log_every_n_steps": 2, "strategy": strategy, **kwargs})


def fake_module() -> Any:
    logged: dict[str, float] = {}
    return SimpleNamespace(log=lambda name, value, **_: logged.update({name: float(value)}), logged=logged)


def train(
    callback: Throughput, clock: Clock, trainer: Any, module: Any, *, wait: float, step: float, work: Any
) -> None:
    clock.now += wait
    callback.on_train_batch_start(trainer, module, Step(), 0)
    clock.now += step
    work()
    callback.on_train_batch_end(trainer, module, None, Step(), 0)


def nothing() -> None:
    pass


def test_rates_leave_out_warm_up_validation_and_checkpoints(clock: Clock) -> None:
    callback, trainer, module = Throughput(warmup_steps=2), fake_trainer(world_size=2), fake_module()
    callback.on_train_start(trainer, module)
    callback.on_train_epoch_start(trainer, module)
    for _ in range(2):
        train(callback, clock, trainer, module, wait=50, step=90, work=nothing)
    assert module.logged == {}
    train(callback, clock, trainer, module, wait=1, step=3, work=nothing)
    clock.now += 1000  # a validation
    callback.on_validation_end(trainer, module)
    clock.now += 500  # a gallery is written
    callback.on_save_checkpoint(trainer, module, {})
    clock.now += 500  # a checkpoint is written
    train(callback, clock, trainer, module, wait=9, step=4, work=nothing)
    assert module.logged == {
        "train/samples_per_s": 2 * 2 * 2 / 8,
        "train/tokens_per_s": 2 * 2 * 14 / 8,
        "train/data_wait": 1 / 8,
    }


def test_utilisation_is_the_counted_work_over_the_peak(clock: Clock) -> None:
    callback, trainer, module = Throughput(warmup_steps=1, peak_tflops=1e-6), fake_trainer(), fake_module()
    layer = nn.Linear(8, 16, bias=False)
    frozen = nn.Linear(16, 4, bias=False).requires_grad_(False)

    def work() -> None:
        frozen(layer(torch.ones(5, 8))).sum().backward()

    callback.on_train_start(trainer, module)
    callback.on_train_epoch_start(trainer, module)
    for _ in range(2):
        train(callback, clock, trainer, module, wait=1, step=3, work=work)
    # Two forward products, the gradient of the trained weight, and the gradient through the frozen layer.
    flops = 2 * 5 * 8 * 16 + 2 * 5 * 16 * 4 + 2 * 5 * 8 * 16 + 2 * 5 * 16 * 4
    assert module.logged["train/mfu"] == pytest.approx(flops / 4 / 1e6)


def test_without_a_warm_up_or_a_known_peak_there_is_no_utilisation(clock: Clock) -> None:
    for callback in (Throughput(warmup_steps=0, peak_tflops=1.0), Throughput(warmup_steps=1)):
        trainer, module = fake_trainer(), fake_module()
        callback.on_train_start(trainer, module)
        for _ in range(4):
            train(callback, clock, trainer, module, wait=1, step=3, work=nothing)
        assert set(module.logged) == {"train/samples_per_s", "train/tokens_per_s", "train/data_wait"}


def test_an_error_in_the_counted_batch_leaves_no_counter_behind(clock: Clock) -> None:
    from torch.utils._python_dispatch import _get_current_dispatch_mode

    callback, trainer, module = Throughput(peak_tflops=1.0), fake_trainer(), fake_module()
    callback.on_train_start(trainer, module)
    callback.on_train_batch_start(trainer, module, Step(), 0)
    assert _get_current_dispatch_mode() is not None
    callback.on_exception(trainer, module, RuntimeError())
    assert _get_current_dispatch_mode() is None


@pytest.mark.parametrize(
    ("name", "tflops"),
    [
        ("NVIDIA H200", 989.4),
        ("NVIDIA H100 80GB HBM3", 989.4),
        ("NVIDIA H100 PCIe", 756.0),
        ("NVIDIA A100-SXM4-80GB", 312.0),
        ("NVIDIA L4", 121.0),
        ("NVIDIA L40S", 362.0),
        ("NVIDIA A10G", 70.0),
        ("NVIDIA GeForce RTX 4090", 165.2),
        ("Tesla T4", 65.0),
        ("NVIDIA GeForce GTX 1080", None),
    ],
)
def test_peaks_are_found_by_the_name_of_the_device(name: str, tflops: float | None) -> None:
    assert peak_flops(name, torch.bfloat16) == (None if tflops is None else tflops * 1e12)
    assert peak_flops(name, torch.float32) is None


@pytest.mark.parametrize(
    ("a", "b", "flops"),
    [
        ((10, 8), (3, 8, 4), 2 * 10 * 8 * 4),
        ((8, 10), (10, 4), 2 * 8 * 10 * 4),
        ((3, 5, 8), (3, 8, 4), 2 * 3 * 5 * 8 * 4),
        ((3, 5, 8), (8, 10), 2 * 5 * 8 * 10),
    ],
)
def test_grouped_products_count_their_rows_once(a: tuple[int, ...], b: tuple[int, ...], flops: int) -> None:
    assert _grouped_mm_flop(a, b) == flops


def test_grouped_products_are_counted_where_pytorch_has_them() -> None:
    if not hasattr(torch, "_grouped_mm"):
        pytest.skip("this PyTorch has no grouped product")
    a, b = torch.zeros(10, 16, dtype=torch.bfloat16), torch.zeros(2, 16, 8, dtype=torch.bfloat16)
    with flop_counter() as counter:
        torch._grouped_mm(a, b, offs=torch.tensor([4, 10], dtype=torch.int32))
    assert counter.get_total_flops() == 2 * 10 * 16 * 8


@pytest.mark.parametrize("activations", ["none", "full"])
def test_a_run_logs_all_of_it(activations: str, tmp_path: Path, jsonl: Path) -> None:
    callback = Throughput(warmup_steps=1, peak_tflops=1.0)
    trainer = make_trainer(tmp_path, callbacks=[callback], max_steps=2, log_every_n_steps=1)
    trainer.fit(make_module(activation_memory=activations), make_data(jsonl))
    metrics = trainer.callback_metrics
    assert 0 < metrics["train/mfu"] < 1
    assert metrics["train/tokens_per_s"] > metrics["train/samples_per_s"] > 0
    assert 0 <= metrics["train/data_wait"] < 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"warmup_steps": -1}, "Throughput.warmup_steps is -1; it must be at least 0"),
        ({"peak_tflops": 0.0}, "Throughput.peak_tflops is 0.0; it must be above 0"),
    ],
)
def test_mistakes(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Throughput(**options)
