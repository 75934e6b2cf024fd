"""Faults for runs that tests start as commands."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, Trainer

from deepsynth.errors import UserError


class FailOnRank(Callback):
    """Raises on one rank, at one step, and writes when."""

    def __init__(self, rank: int, step: int, marker: str) -> None:
        self.rank, self.step, self.marker = rank, step, marker

    def on_train_batch_start(self, trainer: Trainer, *args: Any) -> None:
        if trainer.global_rank == self.rank and trainer.global_step == self.step:
            Path(self.marker).write_text(str(time.time()))
            raise UserError("planted failure")


class Waits(Callback):
    """Waits in a hook, as for weights that load slowly, and writes when it begins."""

    def __init__(self, hook: str, marker: str) -> None:
        def wait(trainer: Trainer, *args: Any) -> None:
            Path(marker).touch()
            for _ in range(6000):
                time.sleep(0.1)

        setattr(self, hook, wait)
