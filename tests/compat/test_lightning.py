"""The private parts of Lightning that ``compat.lightning`` relies on exist and behave as assumed, in real trainers."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.demos.boring_classes import BoringModel
from lightning.pytorch.utilities.exceptions import SIGTERMException

from deepsynth.compat.lightning import ignore_sigterm, set_received_sigterm, set_root_folder
from tests.helpers.training import make_trainer


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """Restore the signal handlers, and let a stray SIGTERM not end the tests."""
    before = signal.signal(signal.SIGTERM, lambda *_: None)
    yield
    signal.signal(signal.SIGTERM, before)


class Act(Callback):
    """Calls a function at one hook of a run."""

    def __init__(self, hook: str, action: Any, batch: int = 0) -> None:
        def call(trainer: Trainer, pl_module: Any, *args: Any) -> None:
            if not args or args[-1] == batch:
                action(trainer)

        setattr(self, hook, call)


def test_the_root_folder_of_a_trainer_can_change(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path / "own")
    set_root_folder(trainer, str(tmp_path / "of rank zero"))
    assert trainer.default_root_dir == str(tmp_path / "of rank zero")
    assert trainer.checkpoint_callback is None
    trainer.fit(BoringModel())
    assert not (tmp_path / "own").exists()


def test_the_flag_ends_a_fit_after_the_batch(tmp_path: Path) -> None:
    trainer = make_trainer(
        tmp_path,
        callbacks=[Act("on_train_batch_end", lambda trainer: set_received_sigterm(trainer, True), batch=2)],
        max_epochs=1,
        limit_train_batches=8,
    )
    with pytest.raises(SIGTERMException):
        trainer.fit(BoringModel())
    assert trainer.received_sigterm
    assert trainer.global_step == 3


def test_lightning_reacts_to_sigterm_itself(tmp_path: Path) -> None:
    """Otherwise ``ignore_sigterm`` has nothing to do and can go."""
    raises = Act("on_train_batch_start", lambda _: signal.raise_signal(signal.SIGTERM), batch=1)
    trainer = make_trainer(tmp_path, callbacks=[raises], max_epochs=1, limit_train_batches=8)
    with pytest.raises(SIGTERMException):
        trainer.fit(BoringModel())
    assert trainer.global_step == 2


def test_sigterm_reaches_the_handler_before_lightning_s_alone(tmp_path: Path) -> None:
    received: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: received.append(number))
    trainer = make_trainer(
        tmp_path,
        callbacks=[Act("on_train_batch_start", lambda _: signal.raise_signal(signal.SIGTERM), batch=1)],
        max_epochs=1,
        limit_train_batches=8,
    )
    ignore_sigterm(trainer)
    trainer.fit(BoringModel())
    assert received == [signal.SIGTERM]
    assert not trainer.received_sigterm
    assert trainer.global_step == 8
