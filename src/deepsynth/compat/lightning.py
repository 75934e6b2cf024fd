"""Private parts of Lightning that the package relies on, and why no public one serves."""

from __future__ import annotations

from types import FrameType
from typing import Any

from lightning.fabric.utilities.apply_func import convert_tensors_to_scalars
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


def leave_out_sigterm_broadcast(trainer: Trainer) -> None:
    """Keep Lightning from asking all processes before every batch whether one of them was told to end.

    It waits for the answer, and so for all that the GPU has been given to do. Whoever agrees on the end by other means
    does not need it; the method is private, and no option leaves it out.
    """
    vars(trainer.fit_loop.epoch_loop)["_broadcast_sigterm_tensor"] = _ask_nobody


def _ask_nobody() -> None:
    """Do nothing before a batch."""


def _do_nothing(number: int, frame: FrameType | None) -> None:
    """Handle a signal by doing nothing."""


def set_received_sigterm(trainer: Trainer, received: bool) -> None:
    """Raise or lower the flag at which Lightning ends a fit after the batch, with ``SIGTERMException``.

    The property ``Trainer.received_sigterm`` has no setter. ``Trainer.should_stop`` is no substitute: it ends the fit
    as if it were complete, so the exit code and the saved checkpoint would not say that it was interrupted.
    """
    trainer._signal_connector.received_sigterm = received


def is_last_predict_batch(trainer: Trainer) -> bool:
    """Return whether the batch of a predict step is the last one.

    Of a source that streams the number of batches is not known; only the loop, which fetches a batch in advance, is
    told. Its progress is an attribute without documentation.
    """
    last: bool = trainer.predict_loop.batch_progress.is_last_batch  # type: ignore[attr-defined]
    return last


def gradients_wait(trainer: Trainer) -> bool:
    """Return whether batches were accumulated since the last optimizer step.

    A checkpoint may be written in the middle of an accumulation; Lightning keeps the gradients nowhere, and its
    counters of batches are attributes of the loop without documentation.
    """
    progress = trainer.fit_loop.epoch_loop.batch_progress
    return not (progress.is_last_batch or progress.current.ready % trainer.accumulate_grad_batches == 0)


def logs_after_batch(trainer: Trainer) -> bool:
    """Return whether Lightning logs when the training batch under way is done."""
    return trainer._logger_connector.should_update_logs and not gradients_wait(trainer)


def pending_metrics(trainer: Trainer) -> tuple[dict[str, float], int] | None:
    """Return the values of a training step that Lightning is about to log, and the step it gives them, or ``None``.

    Lightning saves checkpoints in the hooks of a batch and logs its values after them. No hook comes later, and whether
    a step is logged, and under which number, is known to its private counters alone.
    """
    loop, connector = trainer.fit_loop.epoch_loop, trainer._logger_connector
    current: Any = loop.batch_progress.current
    if not (trainer.training and current.processed > current.completed):  # in no batch, or before its end
        return None
    if trainer.fit_loop._should_accumulate() or not (connector.should_update_logs and trainer.loggers):
        return None
    metrics: dict[str, float] = convert_tensors_to_scalars(connector.metrics["log"])
    if not metrics:
        return None
    if (step := metrics.pop("step", None)) is not None:
        return metrics, int(step)
    return {"epoch": trainer.current_epoch, **metrics}, loop._batches_that_stepped


def restore_loader(trainer: Trainer) -> None:
    """Restore the position in the training data when the loader was made before there was one.

    ``Trainer.estimated_stepping_batches``, which a learning-rate schedule needs, makes the loader before Lightning
    restores the state of the loops, and Lightning restores a loader's own state only while it makes it.
    """
    loop = trainer.fit_loop
    if loop.restarting and loop._combined_loader_states_to_load:
        loop._load_combined_loader_states()
        iter(loop._data_fetcher)  # type: ignore[arg-type]  # begins again, from there


def set_batches_done(trainer: Trainer, batches: int) -> None:
    """Set the number of batches of this epoch that are done.

    Lightning restores the number of the checkpoint, which counts batches of the size that they had then.
    """
    current: Any = trainer.fit_loop.epoch_loop.batch_progress.current
    more = batches - current.ready
    current.ready, current.started = batches, current.started + more
    current.processed, current.completed = current.processed + more, current.completed + more
