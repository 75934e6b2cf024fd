"""How a run of several processes ends: together and saved when it is asked to, at once when one of them fails."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.strategies.launchers import _SubprocessScriptLauncher
from lightning.pytorch.utilities.exceptions import SIGTERMException

log = logging.getLogger(__name__)

#: Seconds that a failed process may take to clean up: what it waits for may never come.
_CLEANUP_S = 20.0


class ProcessGuard(Callback):
    """Lets all processes of a run end together.

    SIGTERM, SIGUSR1 (a cluster's notice) and Ctrl-C ask for an end: every process finishes its step, a validation that
    is under way generates no more text, the checkpoint is saved, and the exit code is 143. A second Ctrl-C ends at
    once. Lightning's own handling sends messages between processes from within the signal's handler, wherever a process
    happens to be, and they may then wait for each other for ever; and Python's own answer to Ctrl-C, an error at
    whatever line is being run, may tear the optimizer's step that the checkpoint is to hold, or be lost in a place
    whose errors are dropped, such as a destructor.

    A process that fails says why, saves nothing, since that would need the others, and ends those it has started; the
    last checkpoint stays. It also gives all processes the run folder of the first. The command line adds this callback
    by itself.

    Example::

        callbacks+:
          - class_path: ProcessGuard
    """

    def __init__(self) -> None:
        self._asked = False
        self._agreed = False
        self._handlers: dict[int, Any] = {}

    # ------------------------------------------------------------------ signals

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Take over the signals."""
        self._asked = self._agreed = False
        if trainer.world_size > 1:
            # Each process looked for a free folder by itself, and the first may have made its own by then.
            vars(trainer)["_default_root_dir"] = trainer.strategy.broadcast(trainer.default_root_dir)
        if threading.current_thread() is not threading.main_thread() or os.name != "posix":
            return
        numbers = [signal.SIGUSR1] if trainer.world_size == 1 else [signal.SIGUSR1, signal.SIGTERM, signal.SIGINT]
        for number in numbers:
            self._take_over(number, trainer, stage)
        if trainer.world_size > 1:
            # Lightning puts its own handler of SIGTERM before this one when the fit begins.
            vars(trainer._signal_connector)["_sigterm_notifier_fn"] = _leave_it

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take over Ctrl-C in a run of one process: before its first step there is nothing to save."""
        if self._handlers and trainer.world_size == 1:
            self._take_over(signal.SIGINT, trainer, "fit")

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Give it back: what comes after the last step may be cut."""
        if trainer.world_size == 1 and signal.SIGINT in self._handlers:
            signal.signal(signal.SIGINT, self._handlers.pop(signal.SIGINT))

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Give the signals back."""
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._handlers = {}

    def _take_over(self, number: int, trainer: Trainer, stage: str) -> None:
        """Answer a signal, unless the run was started to ignore it, as a shell's background job ignores Ctrl-C."""
        if signal.getsignal(number) is not signal.SIG_IGN:
            self._handlers[number] = signal.signal(number, self._handler(trainer, stage))

    def _handler(self, trainer: Trainer, stage: str) -> Callable[[int, FrameType | None], None]:
        def handle(number: int, frame: FrameType | None) -> None:
            if self._asked and number == signal.SIGINT:
                end_started(trainer, signal.SIGKILL)
                os._exit(130)
            if not self._asked and number != signal.SIGINT:  # a terminal tells all processes by itself
                end_started(trainer, number)
            if stage != "fit":
                raise SIGTERMException  # nothing is to be saved
            if not self._asked and trainer.is_global_zero:
                name = "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name
                log.info("%s: the run ends after this step, with a checkpoint; Ctrl-C (again) ends it at once", name)
            self._asked = True

        return handle

    def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
        """Have all processes end after this batch when one was asked to."""
        if trainer.world_size == 1:
            self._agreed = self._asked
        elif trainer.strategy.reduce_boolean_decision(self._asked, all=False):
            self._agreed = True
        self._tell(trainer, self._agreed)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Let a validation go to its end: processes have different numbers of batches, and gather at its end."""
        self._tell(trainer, False)

    def on_validation_batch_start(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        """Keep it short."""
        if self._asked or self._agreed:
            vars(pl_module)["_generation_cut"] = True

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """End afterwards."""
        self._tell(trainer, self._agreed)

    def _tell(self, trainer: Trainer, end: bool) -> None:
        """Raise or lower the flag at which Lightning ends the fit when a batch is over."""
        if end or trainer.world_size > 1:  # one process has Lightning's own handler of SIGTERM besides
            trainer._signal_connector.received_sigterm = end

    # ------------------------------------------------------------------ failures

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """End the run when this process alone failed; its error goes on."""
        if trainer.world_size == 1 or isinstance(exception, SIGTERMException):
            return
        for callback in trainer.checkpoint_callbacks:
            if isinstance(callback, ModelCheckpoint):
                callback.save_on_exception = False
        end_started(trainer, signal.SIGKILL)
        timer = threading.Timer(_CLEANUP_S, _give_up, (trainer.global_rank, exception))
        timer.daemon = True
        timer.start()


def _leave_it(number: int, frame: FrameType | None) -> None:
    """Stand where Lightning would send a message."""


def end_started(trainer: Trainer, number: int) -> None:
    """Send a signal to the processes that this one has started; a cluster or torchrun has its own way."""
    if isinstance(trainer.strategy.launcher, _SubprocessScriptLauncher):
        for process in trainer.strategy.launcher.procs:
            process.send_signal(number)


def _give_up(rank: int, exception: BaseException) -> None:
    """End a process that cannot clean up."""
    sys.stderr.write(f"deepsynth: rank {rank}: {type(exception).__name__}: {exception}\n")
    sys.stderr.flush()
    os._exit(1)
