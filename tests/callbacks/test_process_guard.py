"""Signals to one of several processes, without the other ones."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch.trainer.connectors.signal_connector import _SignalConnector
from lightning.pytorch.utilities.exceptions import SIGTERMException

from deepsynth.callbacks import ProcessGuard


class Strategy:
    """Stands for two processes, of which the other one is not asked to end."""

    launcher = None
    root_device = torch.device("cpu")

    def broadcast(self, value: Any) -> Any:
        return value

    def reduce_boolean_decision(self, decision: bool, all: bool) -> bool:
        assert not all
        return decision


@pytest.fixture
def trainer() -> Iterator[Any]:
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)}
    found = SimpleNamespace(
        world_size=2, default_root_dir="run", strategy=Strategy(), is_global_zero=True, local_rank=0,
        _accelerator_connector=SimpleNamespace(cluster_environment=None),
    )  # fmt: skip
    found._signal_connector = _SignalConnector(found)
    yield found
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_a_signal_sends_nothing_to_other_processes_until_the_step_is_over(
    number: signal.Signals, trainer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process may be anywhere: a message from the handler would be taken for the one that it waits for."""
    sent: list[Any] = []
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "broadcast", lambda *args, **kwargs: sent.append(args))
    guard: Any = ProcessGuard()
    guard.setup(trainer, None, "fit")
    trainer._signal_connector.register_signal_handlers()  # Lightning's, which come when the fit begins
    signal.raise_signal(number)
    assert not sent
    assert not trainer._signal_connector.received_sigterm
    guard.on_train_batch_end(trainer)
    assert trainer._signal_connector.received_sigterm  # at which Lightning ends the fit


def test_ctrl_c_lets_the_step_of_a_single_process_end(trainer: Any) -> None:
    """Python would raise an error at any line: in the midst of the optimizer's step, or where errors are dropped."""
    trainer.world_size = 1
    guard: Any = ProcessGuard()
    guard.setup(trainer, None, "fit")
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)  # nothing is trained yet
    guard.on_train_start(trainer, None)
    guard.on_train_batch_end(trainer)
    assert not trainer._signal_connector.received_sigterm
    signal.raise_signal(signal.SIGINT)
    guard.on_train_batch_end(trainer)
    assert trainer._signal_connector.received_sigterm
    guard.on_train_end(trainer, None)
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize("processes", [1, 2])
def test_a_run_that_was_started_to_ignore_ctrl_c_does(processes: int, trainer: Any) -> None:
    trainer.world_size = processes
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    guard: Any = ProcessGuard()
    guard.setup(trainer, None, "fit")
    guard.on_train_start(trainer, None)
    signal.raise_signal(signal.SIGINT)
    guard.on_train_batch_end(trainer)
    assert not trainer._signal_connector.received_sigterm
    guard.on_train_end(trainer, None)
    guard.teardown(trainer, None, "fit")
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN


def test_reading_has_nothing_to_save_and_ends_at_once(trainer: Any) -> None:
    guard: Any = ProcessGuard()
    guard.setup(trainer, None, "predict")
    with pytest.raises(SIGTERMException):
        signal.raise_signal(signal.SIGTERM)


def test_signals_are_given_back(trainer: Any) -> None:
    before = signal.getsignal(signal.SIGTERM)
    guard: Any = ProcessGuard()
    guard.setup(trainer, None, "fit")
    assert signal.getsignal(signal.SIGTERM) is not before
    guard.teardown(trainer, None, "fit")
    assert signal.getsignal(signal.SIGTERM) is before
