"""The callbacks on a CUDA device: ``pytest -m gpu tests/callbacks/test_on_gpu.py``; some of it on the CPU as well."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.loggers import CSVLogger

from deepsynth.callbacks import TextMetrics, Throughput, VramMonitor, vram_monitor
from deepsynth.callbacks.vram_monitor import PHASES
from deepsynth.profiling.memory import GIB, DeviceMemory, memory_of
from tests.helpers.training import make_data, make_module, make_trainer

ACCELERATORS = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
HELD_MIB = 512


class Holds(Callback):
    """Asks for memory in one phase and gives it back: its peak, and no other's, must show it."""

    def __init__(self, phase: str) -> None:
        self.phase = phase

    def _take(self, device: torch.device) -> None:
        torch.empty(HELD_MIB * 2**20, dtype=torch.uint8, device=device).fill_(1)

    def on_train_batch_start(self, trainer: Any, *args: Any) -> None:
        if self.phase == "forward":
            self._take(trainer.strategy.root_device)

    def on_before_backward(self, trainer: Any, *args: Any) -> None:
        if self.phase == "backward":
            self._take(trainer.strategy.root_device)

    def on_before_optimizer_step(self, trainer: Any, *args: Any) -> None:
        if self.phase == "step":
            self._take(trainer.strategy.root_device)

    def on_validation_batch_start(self, trainer: Any, *args: Any, **kwargs: Any) -> None:
        if self.phase == "validation":
            self._take(trainer.strategy.root_device)


def run(folder: Path, jsonl: Path, accelerator: str, *callbacks: Callback) -> tuple[dict[str, float], list[str]]:
    """Train and validate, and return the newest value of each logged key, and what was printed."""
    lines: list[str] = []
    trainer = make_trainer(
        folder,
        accelerator=accelerator,
        devices=1,
        callbacks=list(callbacks),
        logger=CSVLogger(folder, name="", version=""),
        max_steps=4,
        val_check_interval=2,
        check_val_every_n_epoch=None,
        log_every_n_steps=1,
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vram_monitor, "rank_zero_info", lines.append)
        module = make_module(max_new_tokens=8, samples=2)
        trainer.fit(module, make_data(jsonl, val_fraction=0.3))
    with (folder / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    return {name: float(value) for row in rows for name, value in row.items() if value}, lines


@pytest.mark.parametrize("accelerator", ACCELERATORS)
def test_every_key_is_logged_and_makes_sense(tmp_path: Path, jsonl: Path, accelerator: str) -> None:
    callbacks = [VramMonitor(), Throughput(1, peak_tflops=1000.0), TextMetrics(["none", "case"], resamples=20)]
    logged, lines = run(tmp_path, jsonl, accelerator, *callbacks)
    key = "vram" if accelerator == "cuda" else "ram"
    names = ("allocated", "reserved", "peak", "limit", "headroom", *(f"peak_{phase}" for phase in PHASES))
    sizes = {name: logged[f"{key}/{name}_gib"] for name in names}
    assert not any(name.startswith(("vram/", "ram/")) and not name.startswith(f"{key}/") for name in logged)
    assert sizes["allocated"] <= sizes["peak"]
    assert sizes["peak"] >= max(sizes[f"peak_{phase}"] for phase in PHASES)
    assert sizes["headroom"] == pytest.approx(sizes["limit"] - sizes["peak"], abs=1e-3)
    assert all(size > 0 for size in sizes.values())
    if accelerator == "cuda":
        assert sizes["allocated"] <= sizes["reserved"] <= sizes["limit"]
        assert sizes["limit"] <= torch.cuda.get_device_properties(0).total_memory / GIB
    assert [line.partition(":")[0] for line in lines] == [key.upper()]
    assert logged["train/samples_per_s"] > 0
    assert logged["train/tokens_per_s"] > logged["train/samples_per_s"]
    assert 0 <= logged["train/data_wait"] < 1
    assert 0 < logged["train/mfu"] < 1
    assert logged["val/cer/none"] == pytest.approx(logged["val/cer"], abs=1e-6)
    assert logged["val/cer/none/low"] <= logged["val/cer/none"] <= logged["val/cer/none/high"]


@pytest.mark.gpu
@pytest.mark.parametrize("phase", ["forward", "backward", "step", "validation"])
def test_memory_is_booked_in_its_phase(tmp_path: Path, jsonl: Path, phase: str) -> None:
    logged, _ = run(tmp_path, jsonl, "cuda", VramMonitor(), Holds(phase))
    fullest = max(("forward", "backward", "step", "validation"), key=lambda name: logged[f"vram/peak_{name}_gib"])
    assert fullest == phase
    assert logged[f"vram/peak_{phase}_gib"] > HELD_MIB / 1024


@pytest.mark.gpu
def test_the_limit_is_where_an_allocation_fails() -> None:
    memory = memory_of(torch.device("cuda", 0))
    assert isinstance(memory, DeviceMemory)
    torch.cuda.empty_cache()
    free = memory.limit() - memory.usage().allocated
    held = torch.empty(int(free * 0.9), dtype=torch.uint8, device="cuda")
    assert memory.usage().allocated >= held.numel()
    with pytest.raises(torch.OutOfMemoryError):
        torch.empty(int(free * 0.2), dtype=torch.uint8, device="cuda")
    del held
    torch.cuda.empty_cache()


class AsksForAll(Callback):
    """Asks for more than the device has."""

    def on_before_backward(self, trainer: Any, *args: Any) -> None:
        torch.empty(2**44, dtype=torch.uint8, device=trainer.strategy.root_device)


@pytest.mark.gpu
def test_running_out_is_one_line(tmp_path: Path, jsonl: Path) -> None:
    with pytest.raises(torch.OutOfMemoryError) as caught:
        run(tmp_path, jsonl, "cuda", VramMonitor(), AsksForAll())
    message = str(caught.value)
    assert message.startswith("out of memory in the backward pass of step 1 on cuda:0, with 2 samples: input_ids (2, ")
    assert "16384.00 GiB more were asked for" in message
    assert "set data.batch_size to 1 (now 2)" in message
    assert "\n" not in message
