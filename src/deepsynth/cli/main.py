"""Run a subcommand, and turn its errors into a line and an exit code."""

from __future__ import annotations

import multiprocessing
import os
import select
import signal
import sys
import threading
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

from lightning.pytorch.utilities.exceptions import SIGTERMException

from deepsynth.cli import console
from deepsynth.cli.commands import COMMANDS
from deepsynth.cli.data_commands import DATA_COMMANDS
from deepsynth.cli.errors import ParserError, explain, is_user_error, one_line, what_failed
from deepsynth.cli.help.options import all_options, class_names
from deepsynth.cli.help.page import show_help
from deepsynth.cli.help.subcommands import RUN_COMMANDS, command_of, examples
from deepsynth.cli.predict import PredictCLI
from deepsynth.cli.quickstart import quickstart
from deepsynth.cli.trainer import DeepSynthCLI
from deepsynth.compat.torch import end_compile_workers, end_processes, killed_worker
from deepsynth.distributed.ranks import is_lost_connection, rank, rank_prefix, world_size
from deepsynth.profiling.memory import is_out_of_memory

#: The exit code of a run that was asked to end and has saved its checkpoint: 128 + SIGTERM, as in shells.
SAVED_AND_ENDED = 143
#: The exit code where the reader of the output has left: 128 + SIGPIPE.
OUTPUT_NOT_READ = 141


def run(args: Sequence[str]) -> int:
    """Run a subcommand; see :func:`deepsynth.__main__.main` for the exit codes."""
    console.prepare(trains=args[0] in ("fit", "quickstart"))
    with sigterm_as_exception(), no_child_left():
        return _run(args)


@contextmanager
def no_child_left() -> Iterator[None]:
    """End the processes that the block has started when it ends.

    A loader that is interrupted while it starts its workers is known to nobody, and would wait for each of them.
    """
    before = multiprocessing.active_children()
    try:
        yield
    finally:
        end_processes([child for child in multiprocessing.active_children() if child not in before])
        end_compile_workers()


@contextmanager
def sigterm_as_exception() -> Iterator[None]:
    """Have SIGTERM raise ``SIGTERMException`` within the block, so that what is half written is removed.

    While a model trains, :class:`~deepsynth.callbacks.ProcessGuard` has its own handler.
    """

    def end(number: int, frame: FrameType | None) -> None:
        raise SIGTERMException

    chosen = signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
    if chosen or threading.current_thread() is not threading.main_thread():
        yield
        return
    signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _run(args: Sequence[str]) -> int:
    debug = "--debug" in args
    args = [arg for arg in args if arg != "--debug"]
    try:
        _dispatch(args)
    except ParserError as error:
        if debug:
            traceback.print_exc()
        sys.stderr.write(f"deepsynth: {explain(str(error), args, class_names(), all_options())}\n")
        return 2
    except BrokenPipeError:
        if not reader_has_left():
            raise
        return OUTPUT_NOT_READ
    except Exception as error:
        if is_lost_connection(error):
            met = "has ended" if world_size() > 1 else f"has ended or cannot be reached ({one_line(str(error))})"
            sys.stderr.write(f"deepsynth: {rank_prefix()}another process {met}; it says why itself\n")
            return 1
        if cause := killed_worker(error):
            sys.stderr.write(
                f"deepsynth: {rank_prefix()}a worker of the data loader was killed ({cause}), most often because "
                "memory ran out; set data.num_workers lower, and continue from the last checkpoint\n"
            )
            return 1
        if not is_user_error(error) and not is_out_of_memory(error):
            raise
        if debug:
            traceback.print_exc()
        sys.stderr.write(f"deepsynth: {rank_prefix()}{one_line(what_failed(error, args)) or type(error).__name__}\n")
        return 1
    except SIGTERMException:
        # One code is enough for a cluster; and what started the others must not take it for a failure.
        return SAVED_AND_ENDED if rank() == 0 else 0
    except SystemExit as stop:
        return int(stop.code) if isinstance(stop.code, int) else 1
    return 0


def reader_has_left() -> bool:
    """Return whether nobody reads this process's output any more, as after ``| head``; then drop what is left of it."""
    if not hasattr(select, "poll"):  # Windows
        return False
    output = select.poll()
    output.register(sys.stdout.fileno(), 0)
    if not any(event & select.POLLERR for _, event in output.poll(0)):
        return False
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # nor does the end of the interpreter fail
    return True


def _dispatch(args: list[str]) -> None:
    """Run the command that the first words of the arguments name, or show its help."""
    command = command_of(args)
    if command in RUN_COMMANDS and show_help(command, args):
        return
    try:
        if args[0] == "quickstart":
            quickstart(args[1:])
        elif chosen := (COMMANDS | DATA_COMMANDS).get(args[0]):
            chosen(args[1:])
        else:
            (PredictCLI if args[0] == "predict" else DeepSynthCLI)(args)
    except SystemExit as stop:
        if not stop.code and {"-h", "--help"} & set(args):
            sys.stdout.write("\n" + examples(command))
        raise
