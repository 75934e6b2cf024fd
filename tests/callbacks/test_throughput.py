"""Samples, tokens and operations per second, against a clock that the test holds."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from deepsynth.callbacks import Throughput, throughput
from deepsynth.modules import training_engine
from deepsynth.profiling.flops import TrainingFlops
from tests.helpers.live_bytes import peak_bytes
from tests.helpers.training import LoggingModule, RankOf, make_data, make_module, make_trainer


class Clock:
    """Time passes when the test says so."""

    def __init__(self) -> None:
        self.now = 100.0

    def perf_counter(self) -> float:
        return self.now


class Step:
    """Two samples of 10 positions, 14 of them tokens."""

    def __init__(self) -> None:
        self.moved_from = None
        self.tokens = {
            "attention_mask": torch.tensor([[1] * 10, [1] * 4 + [0] * 6]),
            "labels": torch.full((2, 10), -100),
        }

    def __len__(self) -> int:
        return 2


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(throughput, "time", clock)
    return clock


def parts(warmup_steps: int, ranks: int = 1) -> tuple[Throughput, Any, LoggingModule]:
    trainer = make_trainer(Path("unused"), strategy=RankOf(0, ranks), log_every_n_steps=2)
    return Throughput(warmup_steps=warmup_steps), trainer, LoggingModule()


def train(callback: Throughput, clock: Clock, trainer: Any, module: Any, *, wait: float, step: float) -> None:
    clock.now += wait
    callback.on_train_batch_start(trainer, module, Step(), 0)
    clock.now += step
    callback.on_train_batch_end(trainer, module, None, Step(), 0)


def test_rates_leave_out_warm_up_validation_and_checkpoints(clock: Clock) -> None:
    callback, trainer, module = parts(warmup_steps=2, ranks=2)
    callback.on_train_start(trainer, module)
    callback.on_train_epoch_start(trainer, module)
    for _ in range(2):
        train(callback, clock, trainer, module, wait=50, step=90)
    assert module.logged == {}
    train(callback, clock, trainer, module, wait=1, step=3)
    clock.now += 1000  # a validation
    callback.on_validation_end(trainer, module)
    clock.now += 500  # a gallery is written
    callback.on_save_checkpoint(trainer, module, {})
    clock.now += 500  # a checkpoint is written
    train(callback, clock, trainer, module, wait=9, step=4)
    assert module.logged == {
        "train/samples_per_s": 2 * 2 * 2 / 8,
        "train/tokens_per_s": 2 * 2 * 14 / 8,
        "train/data_wait": 1 / 8,
    }


@pytest.mark.parametrize("cause", ["validation", "checkpoint"])
def test_each_cause_of_a_pause_is_left_out_by_itself(clock: Clock, cause: str) -> None:
    callback, trainer, module = parts(warmup_steps=0)
    callback.on_train_start(trainer, module)
    callback.on_train_epoch_start(trainer, module)
    train(callback, clock, trainer, module, wait=1, step=3)
    if cause == "validation":
        clock.now += 1000
        callback.on_validation_end(trainer, module)
    else:
        callback.on_save_checkpoint(trainer, module, {})
        clock.now += 1000
    train(callback, clock, trainer, module, wait=9, step=4)
    assert module.logged["train/samples_per_s"] == 2 * 2 / 8
    assert module.logged["train/data_wait"] == 1 / 8


def test_without_a_pause_the_wait_for_every_batch_counts(clock: Clock) -> None:
    callback, trainer, module = parts(warmup_steps=0)
    callback.on_train_start(trainer, module)
    callback.on_train_epoch_start(trainer, module)
    for wait in (1, 9):
        train(callback, clock, trainer, module, wait=wait, step=5)
    assert module.logged["train/samples_per_s"] == 2 * 2 / 20
    assert module.logged["train/data_wait"] == 10 / 20


def test_of_the_time_between_steps_only_what_the_loader_took_is_waiting(clock: Clock) -> None:
    """The rest is reading values for the progress bar, other callbacks, and what a GPU still has to do."""
    callback, _, module = parts(warmup_steps=0)
    loader = SimpleNamespace(waited_s=7.0)
    trainer = SimpleNamespace(
        log_every_n_steps=2,
        world_size=1,
        train_dataloader=loader,
        strategy=SimpleNamespace(root_device=torch.device("cpu")),
    )
    callback.on_train_start(trainer, module)  # type: ignore[arg-type]
    callback.on_train_epoch_start(trainer, module)  # type: ignore[arg-type]
    for waited in (1, 2):
        loader.waited_s += waited
        train(callback, clock, trainer, module, wait=5, step=10)
    assert module.logged["train/samples_per_s"] == pytest.approx(2 * 2 / 30)
    assert module.logged["train/data_wait"] == pytest.approx(3 / 30)


def test_without_a_known_peak_there_is_no_utilization(clock: Clock) -> None:
    callback, trainer, module = parts(warmup_steps=1)
    callback.on_train_start(trainer, module)
    for _ in range(4):
        train(callback, clock, trainer, module, wait=1, step=3)
    assert set(module.logged) == {"train/samples_per_s", "train/tokens_per_s", "train/data_wait"}


@pytest.mark.parametrize("settings", [{}, {"activation_memory": "full"}, {"memory_budget_gib": 1e-6}])
def test_utilization_is_the_needed_work_over_the_peak(
    settings: dict[str, Any], tmp_path: Path, jsonl: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither recomputed activations nor the trial steps of ``activation_memory=auto`` count."""
    monkeypatch.setattr(training_engine, "peak_bytes", peak_bytes)
    monkeypatch.setattr(clock, "perf_counter", lambda: setattr(clock, "now", clock.now + 1) or clock.now)
    callback = Throughput(warmup_steps=1, peak_tflops=1e-3)
    trainer = make_trainer(tmp_path, callbacks=[callback], max_steps=2, log_every_n_steps=2)
    module, data = make_module(**settings), make_data(jsonl, batch_size=8)
    trainer.fit(module, data)
    flops, inputs = TrainingFlops(module.model), next(iter(data.train_dataloader())).inputs
    needed = flops.of_text(flops.amounts(inputs)) + flops.of_images(inputs)
    assert trainer.callback_metrics["train/mfu"] == pytest.approx(needed / 2 / 1e9, rel=0.01)
    assert trainer.callback_metrics["train/tokens_per_s"] == pytest.approx(int(inputs["attention_mask"].sum()) / 2)


def test_images_from_the_cache_are_no_work(tmp_path: Path, jsonl: Path, clock: Clock) -> None:
    found = []
    for cache in ("none", "memory"):
        clock.perf_counter = lambda: setattr(clock, "now", clock.now + 1) or clock.now  # type: ignore[method-assign]
        callback = Throughput(warmup_steps=1, peak_tflops=1.0)
        trainer = make_trainer(tmp_path, callbacks=[callback], max_steps=2, log_every_n_steps=2)
        trainer.fit(make_module(vision_cache=cache), make_data(jsonl, batch_size=8))
        found.append(float(trainer.callback_metrics["train/mfu"]))
    assert 0 < found[1] < 0.9 * found[0]


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
