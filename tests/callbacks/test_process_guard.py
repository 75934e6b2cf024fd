"""Signals to a run of one process, and to one of several processes without the other ones."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities.exceptions import SIGTERMException

from deepsynth.callbacks import PredictionWriter, ProcessGuard
from tests.helpers.training import make_data, make_module, make_trainer

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


class Sends(Callback):
    """Sends a signal to this process in a hook of one step."""

    def __init__(self, number: signal.Signals, hook: str = "on_before_optimizer_step", step: int = 1) -> None:
        def send(trainer: Trainer, *args: Any) -> None:
            if trainer.global_step == step and not trainer.sanity_checking:
                signal.raise_signal(number)

        setattr(self, hook, send)


def fit(folder: Path, jsonl: Path, *callbacks: Callback, **kwargs: Any) -> Trainer:
    last = ModelCheckpoint(folder / "checkpoints", filename="last", save_on_exception=True)
    trainer = make_trainer(
        folder,
        callbacks=[ProcessGuard(), last, *callbacks],
        enable_checkpointing=True,
        max_epochs=1,
        **kwargs,
    )
    trainer.fit(make_module(max_new_tokens=2), make_data(jsonl, **({"val_fraction": 0.5} if kwargs else {})))
    return trainer


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_ends_a_run_after_its_step_with_a_checkpoint(
    number: signal.Signals, tmp_path: Path, jsonl: Path
) -> None:
    """Python would raise an error at any line: in the midst of the optimizer's step, or where errors are dropped."""
    with pytest.raises(SIGTERMException):
        fit(tmp_path, jsonl, Sends(number))
    assert torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 2


def test_a_validation_under_way_ends_without_more_text(tmp_path: Path, jsonl: Path) -> None:
    generated: list[int] = []

    class Counts(Callback):
        def on_validation_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, *args: Any) -> None:
            generated.append(len(outputs["rows"]))

    with pytest.raises(SIGTERMException):
        fit(tmp_path, jsonl, Sends(signal.SIGUSR1, "on_validation_batch_end"), Counts(), val_check_interval=1)
    assert generated == [2, 0, 0]
    assert (tmp_path / "checkpoints" / "last.ckpt").exists()


@pytest.mark.parametrize("hook", ["on_fit_start", "on_train_start", "on_train_epoch_start"])
def test_ctrl_c_before_the_first_step_ends_at_once(hook: str, tmp_path: Path, jsonl: Path) -> None:
    with pytest.raises(SystemExit):  # Lightning's answer to KeyboardInterrupt
        fit(tmp_path, jsonl, Sends(signal.SIGINT, hook, step=0))
    assert not (tmp_path / "checkpoints" / "last.ckpt").exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
@pytest.mark.parametrize("hook", ["on_fit_start", "on_train_start", "on_train_epoch_start"])
def test_a_fit_that_has_not_begun_has_nothing_to_save_and_ends_at_once(
    hook: str, number: signal.Signals, tmp_path: Path, jsonl: Path
) -> None:
    begun: list[int] = []

    class Begins(Callback):
        def on_train_batch_start(self, trainer: Any, *args: Any) -> None:
            begun.append(trainer.global_step)

    with pytest.raises(SIGTERMException):
        fit(tmp_path, jsonl, Sends(number, hook, step=0), Begins())
    assert begun == []
    assert not (tmp_path / "checkpoints" / "last.ckpt").exists()


class Loses(Sends):
    """Sends a signal where exceptions are dropped: in a destructor."""

    def __init__(self, number: signal.Signals) -> None:
        class Dropped:
            def __del__(self) -> None:
                signal.raise_signal(number)

        def lose(*args: Any) -> None:
            Dropped()

        self.on_predict_batch_end = lose  # type: ignore[assignment]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
@pytest.mark.parametrize("lost", [False, True])
def test_prediction_ends_at_once_and_keeps_what_it_has_done(
    lost: bool, number: signal.Signals, tmp_path: Path, jsonl: Path
) -> None:
    sends = Loses(number) if lost else Sends(number, "on_predict_batch_end", 0)
    writer = PredictionWriter(str(tmp_path / "read.jsonl"))
    trainer = make_trainer(tmp_path, callbacks=[ProcessGuard(), writer, sends])
    with pytest.raises(SIGTERMException):
        trainer.predict(make_module(max_new_tokens=2), make_data(jsonl, batch_size=2), return_predictions=False)
    done = (tmp_path / "read.jsonl.partial").read_text().count("\n")
    assert 1 <= done < 8, "it ended in the midst of the documents"


def one_of_two(folder: Path) -> Trainer:
    """Return the trainer of one of two processes that has not started the other one."""
    return make_trainer(folder, devices=2, strategy="ddp")


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_sends_nothing_to_other_processes_until_the_step_is_over(
    number: signal.Signals, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process may be anywhere: a message from the handler would be taken for the one that it waits for."""
    sent: list[Any] = []
    monkeypatch.setattr(torch.distributed, "broadcast", lambda *args, **kwargs: sent.append(args))
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda *args, **kwargs: sent.append(args))
    trainer, guard, module = one_of_two(tmp_path), ProcessGuard(), make_module()
    guard.setup(trainer, module, "fit")
    guard.on_train_batch_start(trainer, None, 0)
    signal.raise_signal(number)
    assert not sent
    assert not trainer.received_sigterm
    guard.on_train_batch_end(trainer)
    assert trainer.received_sigterm  # at which Lightning ends the fit
    guard.teardown(trainer, module, "fit")


@pytest.fixture
def no_timers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Start none of the timers that would end this process."""
    monkeypatch.setattr(threading.Timer, "start", lambda timer: None)


@pytest.fixture
def started() -> Iterator[subprocess.Popen[bytes]]:
    """A process that takes the place of another rank."""
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]) as process:
        yield process
        process.kill()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_several_processes_end_at_once_before_their_first_step(
    number: signal.Signals, tmp_path: Path, started: subprocess.Popen[bytes]
) -> None:
    """A model may load for minutes, and nothing is there to save."""
    trainer, guard, module = one_of_two(tmp_path), ProcessGuard(), make_module()
    launcher: Any = trainer.strategy.launcher
    launcher.procs = [started]
    guard.setup(trainer, module, "fit")
    with pytest.raises(SIGTERMException):
        signal.raise_signal(number)
    assert started.wait(60) == -number
    guard.teardown(trainer, module, "fit")


def test_a_signal_that_came_before_the_handler_is_passed_on(tmp_path: Path, started: subprocess.Popen[bytes]) -> None:
    """Another process would wait for half an hour for one that it cannot meet."""
    trainer = one_of_two(tmp_path)
    launcher: Any = trainer.strategy.launcher
    launcher.procs = [started]
    ProcessGuard().on_exception(trainer, make_module(), SIGTERMException())
    assert started.wait(60) == -signal.SIGTERM


@pytest.mark.usefixtures("no_timers")
def test_one_that_was_asked_to_end_does_not_fail_when_another_is_gone(tmp_path: Path) -> None:
    """One has begun its first step, which the other one, still without a batch, has left."""
    trainer, guard, module = one_of_two(tmp_path), ProcessGuard(), make_module()
    guard.setup(trainer, module, "fit")
    guard.on_train_batch_start(trainer, None, 0)
    lost = torch.distributed.DistNetworkError("Connection closed by peer")
    guard.on_exception(trainer, module, lost)  # nobody has asked: the error is told
    signal.raise_signal(signal.SIGTERM)
    with pytest.raises(SIGTERMException):
        guard.on_exception(trainer, module, lost)
    guard.on_exception(trainer, module, ValueError("its own"))
    guard.teardown(trainer, module, "fit")


@pytest.mark.parametrize("processes", [1, 2])
def test_a_run_that_was_started_to_ignore_ctrl_c_does(processes: int, tmp_path: Path) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    trainer: Any = make_trainer(tmp_path) if processes == 1 else one_of_two(tmp_path)
    guard, module = ProcessGuard(), make_module()
    guard.setup(trainer, module, "fit")
    guard.on_train_batch_start(trainer, None, 0)
    signal.raise_signal(signal.SIGINT)
    guard.on_train_batch_end(trainer)
    assert not trainer.received_sigterm
    guard.on_train_end(trainer, module)
    guard.teardown(trainer, module, "fit")
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN


def test_signals_are_given_back(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)
    trainer, guard, module = one_of_two(tmp_path), ProcessGuard(), make_module()
    guard.setup(trainer, module, "fit")
    assert signal.getsignal(signal.SIGTERM) is not before
    guard.teardown(trainer, module, "fit")
    assert signal.getsignal(signal.SIGTERM) is before
