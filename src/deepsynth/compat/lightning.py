"""Private parts of Lightning that the package relies on, and why no public one serves."""

from __future__ import annotations

from types import FrameType

from lightning.pytorch import Trainer
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy


def use_one_mesh(strategy: ModelParallelStrategy, processes: int) -> None:
    """Have a strategy split the data over all processes; its own default splits tensors within a machine.

    The constructor takes both sizes, but the number of processes is only known when the environment is set up.
    """
    strategy._data_parallel_size, strategy._tensor_parallel_size = processes, 1


def find_unused_parameters(strategy: DDPStrategy) -> None:
    """Have DDP look for parameters without a gradient.

    The constructor takes the option, but which weights are trained is only known when the model is loaded, long after
    the trainer has made its strategy.
    """
    strategy._ddp_kwargs["find_unused_parameters"] = True


def set_root_folder(trainer: Trainer, folder: str) -> None:
    """Give a trainer another ``default_root_dir``.

    The property has no setter, and the folder of rank zero is only known once the processes can talk to each other,
    long after the constructor.
    """
    vars(trainer)["_default_root_dir"] = folder


def ignore_sigterm(trainer: Trainer) -> None:
    """Keep Lightning from reacting to SIGTERM; a handler that is installed already is still called.

    Lightning's own reaction sends a message to the other processes from within the signal handler, which deadlocks
    when they are waiting for another one. Its handlers are registered after every hook in which a callback could put
    its own in their place, and no option leaves them out.
    """
    vars(trainer._signal_connector)["_sigterm_notifier_fn"] = _do_nothing


def _do_nothing(number: int, frame: FrameType | None) -> None:
    """Handle a signal by doing nothing."""


def set_received_sigterm(trainer: Trainer, received: bool) -> None:
    """Raise or lower the flag at which Lightning ends a fit after the batch, with ``SIGTERMException``.

    The property ``Trainer.received_sigterm`` has no setter. ``Trainer.should_stop`` is no substitute: it ends the fit
    as if it were complete, so the exit code and the saved checkpoint would not say that it was interrupted.
    """
    trainer._signal_connector.received_sigterm = received
