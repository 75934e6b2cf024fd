"""How a run ends: all processes together, saved when it is asked to, at once when one of them fails."""

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
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.exceptions import SIGTERMException

from deepsynth.compat.lightning import (
    ignore_sigterm,
    leave_out_sigterm_broadcast,
    set_received_sigterm,
    set_root_folder,
)
from deepsynth.distributed.ranks import is_lost_connection
from deepsynth.distributed.vote import Vote
from deepsynth.io.text import visible
from deepsynth.modules import DeepSynthModule

log = logging.getLogger(__name__)

#: Seconds that a failed process may take to clean up: it may wait for messages that never come.
_CLEANUP_S = 20.0

#: Ends a process at once; Windows has no SIGKILL.
_KILL = getattr(signal, "SIGKILL", signal.SIGTERM)


class ProcessGuard(Callback):
    """Ends all processes of a run together.

    SIGTERM, SIGUSR1 (the notice of a cluster) and Ctrl-C ask for an end: every process finishes its step, a validation
    under way generates no more text, the checkpoint is saved, and the exit code is 143. Before the first step, and when
    nothing is trained, the run ends at once; predictions that were written stay. A second Ctrl-C ends the run at
    once. Lightning's own handler sends messages between processes from within the signal handler, wherever a process
    happens to be, which can deadlock. Python's own answer to Ctrl-C, an exception at the line being run, can interrupt
    the optimizer's step that the checkpoint should hold, or get lost where exceptions are dropped, as in a destructor.

    A process that fails says why, saves nothing, since that would need the others, and ends those it has started; the
    last checkpoint stays. This callback also gives all processes the run folder of the first. The command line adds it
    by itself.

    Example::

        callbacks+:
          - class_path: ProcessGuard
    """

    def __init__(self) -> None:
        self._asked = False
        self._agreed = False
        self._trains = False
        self._handlers: dict[int, Any] = {}
        self._vote = Vote()

    # ------------------------------------------------------------------ signals

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Install the signal handlers."""
        self._asked = self._agreed = self._trains = False
        self._vote = Vote()
        if trainer.world_size > 1:
            # Each process looked for a free folder by itself, and the first may have made its own by then.
            set_root_folder(trainer, trainer.strategy.broadcast(trainer.default_root_dir))
        if threading.current_thread() is not threading.main_thread() or os.name != "posix":
            return
        numbers = [signal.SIGUSR1, signal.SIGTERM] + ([signal.SIGINT] if trainer.world_size > 1 else [])
        for number in numbers:
            self._install(number, trainer, stage)
        ignore_sigterm(trainer)
        leave_out_sigterm_broadcast(trainer)

    def on_train_batch_start(self, trainer: Trainer, *args: Any) -> None:
        """Install the handler of Ctrl-C in a run of one process: before its first step there is nothing to save.

        The first batch is there: what waited for the workers to start could be ended at once.
        """
        if not self._trains and self._handlers and trainer.world_size == 1:
            self._install(signal.SIGINT, trainer, "fit")
        self._trains = True

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Restore the handler of Ctrl-C: work after the last step may be interrupted."""
        if trainer.world_size == 1 and signal.SIGINT in self._handlers:
            signal.signal(signal.SIGINT, self._handlers.pop(signal.SIGINT))

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Restore the signal handlers."""
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._handlers = {}

    def _install(self, number: int, trainer: Trainer, stage: str) -> None:
        """Handle a signal, unless the run was started to ignore it, as a background job of a shell ignores Ctrl-C."""
        if signal.getsignal(number) is not signal.SIG_IGN:
            self._handlers[number] = signal.signal(number, self._handler(trainer, stage))

    def _handler(self, trainer: Trainer, stage: str) -> Callable[[int, FrameType | None], None]:
        def handle(number: int, frame: FrameType | None) -> None:
            if self._asked and number == signal.SIGINT:
                signal_started_processes(trainer, _KILL)
                os._exit(130)
            if not self._asked and number != signal.SIGINT:  # a terminal sends Ctrl-C to all processes by itself
                signal_started_processes(trainer, number)
            if stage != "fit" or not self._trains:
                self._asked = True
                raise SIGTERMException  # nothing needs saving
            if not self._asked and trainer.is_global_zero:
                name = "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name
                log.info("%s: the run ends after this step, with a checkpoint; Ctrl-C (again) ends it at once", name)
            self._asked = True

        return handle

    def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
        """Have all processes end after this batch when one was asked to; GPUs of several after the next one."""
        if trainer.world_size == 1:
            self._agreed = self._asked
        elif self._vote.cast(self._asked, trainer.strategy.root_device):
            self._agreed = True
        set_received_sigterm(trainer, self._agreed)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Let validation run to its end: processes have different numbers of batches, and gather at its end."""
        if trainer.world_size > 1:
            set_received_sigterm(trainer, False)

    def on_validation_batch_start(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        """Keep the rest of a validation short once the run was asked to end."""
        if (self._asked or self._agreed) and isinstance(pl_module, DeepSynthModule):
            pl_module.stop_generation()

        if trainer.state.fn != TrainerFn.FITTING:
            self._raise_again()

    def on_test_batch_start(self, *args: Any) -> None:
        """End a test whose signal was lost."""
        self._raise_again()

    def on_predict_batch_start(self, *args: Any) -> None:
        """End a prediction whose signal was lost."""
        self._raise_again()

    def _raise_again(self) -> None:
        """Raise what the handler has raised where exceptions are dropped, as in a destructor."""
        if self._asked:
            raise SIGTERMException

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """End the run after the validation if it was asked to end."""
        set_received_sigterm(trainer, self._agreed)

    # ------------------------------------------------------------------ failures

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """End the run when this process alone failed; its exception propagates."""
        if trainer.world_size == 1:
            return
        if isinstance(exception, SIGTERMException):
            if not self._asked:  # the signal came before this callback's handler, and only to this process
                signal_started_processes(trainer, signal.SIGTERM)
            return
        for callback in trainer.checkpoint_callbacks:
            if isinstance(callback, ModelCheckpoint):
                callback.save_on_exception = False
        signal_started_processes(trainer, _KILL)
        timer = threading.Timer(_CLEANUP_S, _give_up, (trainer.global_rank, exception))
        timer.daemon = True
        timer.start()
        if self._asked and is_lost_connection(exception):  # one that was asked too, and had not begun its first step
            raise SIGTERMException from exception


def signal_started_processes(trainer: Trainer, number: int) -> None:
    """Send a signal to the processes that this one has started; a cluster or torchrun does that by itself."""
    launcher = trainer.strategy.launcher
    if launcher is not None:
        launcher.kill(number)


def _give_up(rank: int, exception: BaseException) -> None:
    """End a process that cannot clean up."""
    sys.stderr.write(f"deepsynth: rank {rank}: {type(exception).__name__}: {visible(str(exception))}\n")
    sys.stderr.flush()
    os._exit(1)
