"""Memory by phase, the line at the end, and the line when memory runs out."""

from __future__ import annotations

import csv
import gc
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.strategies import SingleDeviceStrategy

from deepsynth import PeftModule
from deepsynth.callbacks import VramMonitor, vram_monitor
from deepsynth.callbacks.out_of_memory import remedies
from deepsynth.profiling.memory import GIB, DeviceMemory, Memory, ProcessMemory, Usage, is_out_of_memory, memory_of
from deepsynth.types import Batch
from tests.helpers.training import LoggingModule, RankOf, make_data, make_module, make_trainer


class ScriptedMemory(Memory):
    """A memory whose peak the test sets, in GiB."""

    key = "vram"

    def __init__(self) -> None:
        self.allocated = self.peak = 0.0

    def usage(self) -> Usage:
        return Usage(int(self.allocated * GIB), int((self.allocated + 1) * GIB), int(self.peak * GIB))

    def restart_peak(self) -> None:
        self.peak = self.allocated

    def limit(self) -> int:
        return 80 * GIB


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is printed."""
    printed: list[str] = []
    monkeypatch.setattr(vram_monitor, "rank_zero_info", printed.append)
    return printed


def trainer_of(ranks: int = 1, batch_size: int = 4, eval_batch_size: int = 8, **settings: Any) -> Any:
    trainer = make_trainer(Path("unused"), strategy=RankOf(0, ranks), log_every_n_steps=1, **settings)
    sizes = {"batch_size": batch_size, "eval_batch_size": eval_batch_size}
    trainer.datamodule = make_data(Path("unused.jsonl"), **sizes)  # type: ignore[attr-defined]  # as fit sets it
    return trainer


def fake_batch() -> Batch:
    tokens = {"input_ids": torch.zeros(2, 7), "labels": torch.zeros(2, 7)}
    images = {"pixel_values": torch.zeros(2, 3, 4, 4)}
    names, none = ["a", "b"], [None, None]
    return Batch(tokens, {}, images, ["", ""], names, names, [0, 0], [*none], [*none], ["<image>"] * 2)


class PhasedModule(PeftModule):
    """A module that says what the test has it say to its listeners."""

    def __init__(self) -> None:
        super().__init__(optimizer=lambda params: torch.optim.SGD(params, lr=0.1))
        self.listeners: list[Any] = []

    def add_phase_listener(self, listener: Any) -> None:
        self.listeners.append(listener)

    def announce(self, phase: str | None) -> None:
        for listener in self.listeners:
            listener(phase)


def monitor_with(
    memory: Memory, trainer: Any, monkeypatch: pytest.MonkeyPatch, module: LightningModule | None = None
) -> VramMonitor:
    monkeypatch.setattr(vram_monitor, "memory_of", lambda device: memory)
    monitor = VramMonitor()
    monitor.setup(trainer, module or LoggingModule(), "fit")
    return monitor


def test_each_phase_gets_its_own_peak(monkeypatch: pytest.MonkeyPatch, lines: list[str]) -> None:
    memory, trainer, module, batch = ScriptedMemory(), trainer_of(), LoggingModule(), fake_batch()
    generating = PhasedModule()
    monitor = monitor_with(memory, trainer, monkeypatch, generating)
    memory.allocated, memory.peak = 6, 9
    monitor.on_validation_batch_start(trainer, module, batch, 0)
    memory.peak = 10
    generating.announce("generation")
    memory.peak = 30
    generating.announce(None)
    memory.peak = 11
    monitor.on_validation_batch_end(trainer, module, None, batch, 0)
    monitor.on_train_start(trainer, module)
    for forward, backward, step in ((20, 40, 25), (22, 38, 26)):
        monitor.on_train_batch_start(trainer, module, batch, 0)
        memory.peak = forward
        monitor.on_before_backward(trainer, module, torch.zeros(()))
        memory.peak = backward
        monitor.on_after_backward(trainer, module)
        memory.peak = step
        monitor.on_train_batch_end(trainer, module, None, batch, 0)
    expected = {"load": 9, "forward": 22, "backward": 40, "step": 26, "validation": 11, "generation": 30}
    totals = {"peak": 40, "allocated": 6, "reserved": 7, "limit": 80, "headroom": 40}
    assert module.logged == {
        **{f"vram/{name}_gib": size for name, size in totals.items()},
        **{f"vram/peak_{phase}_gib": size for phase, size in expected.items()},
    }
    monitor.on_train_end(trainer, module)
    assert lines == [
        "VRAM: peak 40.00 GiB (load 9.00, forward 22.00, backward 40.00, step 26.00, validation 11.00, "
        "generation 30.00), limit 80.0 GiB, headroom 40.0 GiB"
    ]


class RisingMemory(ScriptedMemory):
    """A memory whose peak falls only when it is restarted, as an allocator's does."""

    def reach(self, gib: float) -> None:
        self.peak = max(self.peak, gib)


def test_a_high_phase_leaves_nothing_to_the_phases_after_it(monkeypatch: pytest.MonkeyPatch) -> None:
    memory, trainer, module, batch = RisingMemory(), trainer_of(), LoggingModule(), fake_batch()
    memory.allocated = memory.peak = 6
    memory.reach(70)  # before the run
    monitor = monitor_with(memory, trainer, monkeypatch)
    memory.reach(9)
    monitor.on_train_start(trainer, module)
    for forward, backward, step in ((20, 40, 25), (22, 38, 26)):
        monitor.on_train_batch_start(trainer, module, batch, 0)
        memory.reach(forward)
        monitor.on_before_backward(trainer, module, torch.zeros(()))
        memory.reach(backward)
        monitor.on_after_backward(trainer, module)
        memory.reach(step)
        monitor.on_train_batch_end(trainer, module, None, batch, 0)
    peaks = {"load": 9, "forward": 22, "backward": 40, "step": 26}
    assert {name: module.logged[f"vram/peak_{name}_gib"] for name in peaks} == peaks
    assert module.logged["vram/peak_gib"] == 40


class Gathered:
    """Those of this rank, when they were sent, and of one that holds 1 GiB more."""

    def __init__(self, own: dict[str, float], device: torch.device) -> None:
        self.own = {name: value for name, value in own.items() if value == value}

    def read(self) -> list[dict[str, float]]:
        return [self.own, {name: value + 1 for name, value in self.own.items()} | {"peak_forward_gib": 5.0}]


def test_of_several_ranks_the_fullest_counts_and_each_is_named(
    monkeypatch: pytest.MonkeyPatch, lines: list[str]
) -> None:
    monkeypatch.setattr(vram_monitor, "GatheredFigures", Gathered)
    memory, trainer, module = ScriptedMemory(), trainer_of(ranks=2), LoggingModule()
    memory.allocated = memory.peak = 10
    monitor = monitor_with(memory, trainer, monkeypatch)
    monitor.on_train_batch_end(trainer, module, None, fake_batch(), 0)
    assert module.logged["vram/peak_gib"] == 11
    assert module.logged["vram/peak_forward_gib"] == 5
    assert module.logged["vram/headroom_gib"] == 70
    assert not any("rank" in key for key in module.logged), "those of each rank are for the end"
    kept: dict[str, float] = {}
    monkeypatch.setattr(type(trainer), "loggers", [SimpleNamespace(log_metrics=lambda row, step: kept.update(row))])
    monitor.on_train_end(trainer, module)
    assert [line.partition(":")[0] for line in lines] == ["VRAM of rank 0", "VRAM of rank 1"]
    assert (kept["vram/rank0/peak_gib"], kept["vram/rank1/peak_gib"], kept["vram/peak_gib"]) == (10, 11, 11)
    assert kept["vram/rank1/peak_forward_gib"] == 5
    assert "vram/rank0/peak_forward_gib" not in kept


def test_ranks_send_their_figures_a_batch_before_they_are_logged(
    monkeypatch: pytest.MonkeyPatch, lines: list[str]
) -> None:
    """Otherwise a logging step would wait for all that the GPU has to do."""
    monkeypatch.setattr(vram_monitor, "GatheredFigures", Gathered)
    memory, trainer, module = ScriptedMemory(), trainer_of(ranks=2), LoggingModule()
    trainer.log_every_n_steps = 3
    monitor = monitor_with(memory, trainer, monkeypatch)
    peaks = []
    for batch in range(7):
        memory.allocated = memory.peak = batch + 1
        monitor.on_train_batch_end(trainer, module, None, fake_batch(), batch)
        peaks.append(module.logged.get("vram/peak_gib"))
    assert peaks == [None, None, 3, 3, 3, 6, 6]
    monitor.on_train_end(trainer, module)
    assert lines[0].startswith("VRAM of rank 0: peak 7.00 GiB")


def test_the_allocator_is_read_for_its_device(monkeypatch: pytest.MonkeyPatch) -> None:
    stats = {
        "allocated_bytes": {"all": {"current": 5, "peak": 9}},
        "reserved_bytes": {"all": {"current": 12, "peak": 14}},
    }
    restarted: list[Any] = []
    monkeypatch.setattr(torch.cuda, "memory_stats_as_nested_dict", lambda device: stats)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (100, 200))
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", restarted.append)
    memory = memory_of(torch.device("cuda", 1))
    assert isinstance(memory, DeviceMemory)
    assert memory.usage() == Usage(allocated=5, reserved=12, peak=9)
    assert memory.limit() == 112
    memory.restart_peak()
    assert restarted == [torch.device("cuda", 1)]
    stats.clear()
    assert memory.usage() == Usage(0, 0, 0)


def test_the_process_memory_grows_with_a_tensor() -> None:
    memory = memory_of(torch.device("cpu"))
    assert isinstance(memory, ProcessMemory)
    gc.collect()
    memory.restart_peak()
    before = memory.usage().allocated
    held = torch.ones(256 * 2**20 // 4)  # some of it where earlier tests have left free memory
    assert memory.usage().allocated - before > 48 * 2**20
    del held
    assert memory.usage().peak - before > 48 * 2**20
    assert memory.limit() > memory.usage().allocated


def test_a_run_on_the_cpu_logs_resident_memory(tmp_path: Path, jsonl: Path, lines: list[str]) -> None:
    monitor, module = VramMonitor(), make_module(max_new_tokens=4, samples=1)
    data = make_data(jsonl, val_fraction=0.3, batch_size=1, max_eval_documents=1)
    trainer = make_trainer(
        tmp_path,
        callbacks=[monitor],
        logger=CSVLogger(tmp_path, name="", version=""),
        max_steps=2,
        val_check_interval=1,
        log_every_n_steps=2,
    )
    trainer.fit(module, data)
    with (tmp_path / "metrics.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["ram/peak_gib"]]
    assert len(rows) == 2  # at the logging step, and at the end
    phases = {name for name in rows[-1] if name.startswith("ram/peak_") and name != "ram/peak_gib"}
    assert phases == {f"ram/peak_{phase}_gib" for phase in vram_monitor.PHASES}
    assert 0.1 < float(rows[-1]["ram/peak_load_gib"]) <= float(rows[-1]["ram/peak_gib"])
    assert len(lines) == 1
    assert lines[0].startswith("RAM: peak ")


CUDA_MESSAGE = "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79 GiB of which …\nSee …"


@pytest.mark.parametrize(
    ("phase", "expected"),
    [
        ("load", "while loading the model on cpu; 70.0 GiB of 80.0 were in use and 2.00 GiB more were asked for; "
                 "set model.quantization=nf4, or use a device with more memory"),
        ("forward", "in the forward pass of step 1 on cpu, with 2 samples: input_ids (2, 7), pixel_values "
                    "(2, 3, 4, 4); 70.0 GiB of 80.0 were in use and 2.00 GiB more were asked for; set data.batch_size "
                    "to 2 (now 4) and trainer.accumulate_grad_batches to 2 (now 1), or set "
                    "model.engine.activation_memory=full, or set model.quantization=nf4, or use smaller pages "
                    "(data.mode)"),
        ("generation", "while generating text on cpu, with 2 samples: input_ids (2, 7), pixel_values (2, 3, 4, 4); "
                       "70.0 GiB of 80.0 were in use and 2.00 GiB more were asked for; set data.eval_batch_size to 4 "
                       "(now 8), or lower model.generation.max_new_tokens (now 512), or set model.quantization=nf4, "
                       "or use smaller pages (data.mode)"),
    ],
)  # fmt: skip
def test_out_of_memory_becomes_a_line_with_the_phase_the_shapes_and_a_way_out(
    phase: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory, trainer = ScriptedMemory(), trainer_of()
    memory.allocated = 70
    module = make_module(activation_memory="none", max_new_tokens=512)
    monitor = monitor_with(memory, trainer, monkeypatch)
    if phase == "forward":
        monitor.on_train_batch_start(trainer, module, fake_batch(), 0)
    elif phase == "generation":
        monitor.on_predict_batch_start(trainer, module, fake_batch(), 0)
    error = torch.OutOfMemoryError(CUDA_MESSAGE)
    monitor.on_exception(trainer, module, error)
    assert str(error) == f"out of memory {expected}"


def test_what_is_done_already_is_not_proposed(monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = trainer_of(batch_size=1, eval_batch_size=1)
    module = make_module(activation_memory="full", quantization="nf4")
    monitor = monitor_with(ScriptedMemory(), trainer, monkeypatch)
    monitor.on_before_backward(trainer, module, torch.zeros(()))
    error = torch.OutOfMemoryError(CUDA_MESSAGE)
    monitor.on_exception(trainer, module, error)
    assert str(error).endswith("asked for; use smaller pages (data.mode)")


@pytest.mark.parametrize(
    ("error", "memory_ran_out"),
    [
        (torch.OutOfMemoryError("CUDA out of memory."), True),
        (MemoryError(), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_other_errors_keep_their_text(error: BaseException, memory_ran_out: bool) -> None:
    assert is_out_of_memory(error) is memory_ran_out


def fails_in(phase: str, module: Any, error: BaseException) -> None:
    """Have a phase of a real run raise the error, from where the memory would be asked for."""

    def fail(*args: Any, **kwargs: Any) -> None:
        raise error

    if phase == "load":
        module.load_model = fail
    elif phase in ("forward", "validation"):
        module.configure_model()
        module.training_forward = fail
    elif phase == "backward":
        module.backward = fail
    elif phase == "step":
        module.on_before_optimizer_step = fail
    else:
        module.text_generator.make_decoder = fail


@pytest.mark.parametrize("phase", vram_monitor.PHASES)
def test_a_real_run_ends_with_the_line_of_its_phase_and_its_own_error(phase: str, tmp_path: Path, jsonl: Path) -> None:
    module = make_module(samples=2)
    failing = torch.OutOfMemoryError(CUDA_MESSAGE)
    fails_in(phase, module, failing)
    sanity = int(phase in ("validation", "generation"))
    trainer = make_trainer(tmp_path, callbacks=[VramMonitor()], max_steps=1, num_sanity_val_steps=sanity)
    with pytest.raises(torch.OutOfMemoryError) as caught:
        trainer.fit(module, make_data(jsonl, val_fraction=0.3))
    assert caught.value is failing
    message = str(caught.value)
    where = {
        "load": "while loading the model on cpu; ",
        "step": "in optimizer step 1 on cpu, with 2 samples: input_ids (2, ",
        "validation": "in the forward pass of validation on cpu, with ",
        "generation": "while generating text on cpu, with ",
    }.get(phase, f"in the {phase} pass of step 1 on cpu, with 2 samples: input_ids (2, ")
    assert message.startswith(f"out of memory {where}")
    assert "more were asked for; set model." in message or "more were asked for; set data." in message
    assert "\n" not in message


@pytest.mark.benchmark(group="VramMonitor: hooks of one step")
@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_cost_of_a_step(benchmark: Any, device: str) -> None:
    """To be compared with the time of a training step."""
    trainer = make_trainer(Path("unused"), strategy=SingleDeviceStrategy(torch.device(device)), log_every_n_steps=10)
    monitor, module, batch = VramMonitor(), LoggingModule(), fake_batch()
    monitor.setup(trainer, module, "fit")

    def step() -> None:
        monitor.on_train_batch_start(trainer, module, batch, 0)
        monitor.on_before_backward(trainer, module, torch.zeros(()))
        monitor.on_after_backward(trainer, module)
        monitor.on_train_batch_end(trainer, module, None, batch, 0)

    benchmark(step)


@pytest.mark.parametrize(("size", "accumulated"), [(2, 1), (3, 2), (5, 1), (6, 4), (8, 1)])
def test_the_hint_keeps_the_samples_of_a_step(size: int, accumulated: int) -> None:
    line = remedies("forward", trainer_of(batch_size=size, accumulate_grad_batches=accumulated), [])[0]
    found = re.search(r"batch_size to (\d+) .* trainer.accumulate_grad_batches to (\d+)", line)
    assert found is not None
    smaller, more = map(int, found.groups())
    assert smaller < size
    assert smaller * more == size * accumulated
