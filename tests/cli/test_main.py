"""How a command ends: its exit code, the one line that it says, and what it leaves running."""

from __future__ import annotations

import errno
import multiprocessing
import signal
import threading
import time
from collections.abc import Callable, Iterator

import pytest
import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException, SIGTERMException

from deepsynth.cli import main as main_module
from deepsynth.cli.commands import COMMANDS
from deepsynth.cli.errors import ParserError
from deepsynth.cli.main import OUTPUT_NOT_READ, SAVED_AND_ENDED, run
from deepsynth.errors import UserError

Command = Callable[[list[str]], None]


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> Callable[[Command], None]:
    """Put a function in the place of ``deepsynth serve``."""
    return lambda function: monkeypatch.setitem(COMMANDS, "serve", function)


def raising(error: BaseException) -> Command:
    def fail(args: list[str]) -> None:
        raise error

    return fail


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (UserError("data.x is 0;\n it must be 1"), 1, "deepsynth: data.x is 0; it must be 1\n"),
        (MisconfigurationException("no such device"), 1, "deepsynth: no such device\n"),
        (MemoryError(), 1, "deepsynth: MemoryError\n"),
        (
            OSError(errno.ENOSPC, "No space left on device"),
            1,
            "deepsynth: No space left on device on a disk of the run folder, TMPDIR or HF_HOME\n",
        ),
        (torch.OutOfMemoryError("CUDA out of memory."), 1, "deepsynth: CUDA out of memory.\n"),
        (ParserError("something odd"), 2, "deepsynth: something odd\n"),
        (SIGTERMException(), SAVED_AND_ENDED, ""),
        (SystemExit(3), 3, ""),
        (SystemExit(0), 0, ""),
        (SystemExit("a text"), 1, ""),
        (
            RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. "),
            1,
            "deepsynth: a worker of the data loader was killed (Killed), most often because memory ran out; set "
            "data.num_workers lower, and continue from the last checkpoint\n",
        ),
        (
            torch.distributed.DistNetworkError("timed out\nafter 5 s"),
            1,
            "deepsynth: another process has ended or cannot be reached (timed out after 5 s); it says why itself\n",
        ),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
def test_what_a_user_can_mend_is_one_line_and_a_code(
    error: BaseException, code: int, said: str, command: Callable[[Command], None], capsys: pytest.CaptureFixture[str]
) -> None:
    command(raising(error))
    assert run(["serve"]) == code
    assert capsys.readouterr().err == said


@pytest.mark.parametrize("error", [RuntimeError("a bug"), ValueError("a bug"), KeyboardInterrupt(), BrokenPipeError()])
def test_anything_else_shows_its_traceback(error: BaseException, command: Callable[[Command], None]) -> None:
    """A pipe of the terminal's, which is read, is not the one that broke."""
    command(raising(error))
    with pytest.raises(type(error)):
        run(["serve"])


@pytest.mark.parametrize("error", [UserError("a mistake"), ParserError("a mistake")])
def test_debug_is_taken_out_and_shows_the_traceback_of_a_mistake(
    error: Exception, command: Callable[[Command], None], capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(args: list[str]) -> None:
        assert args == ["--port", "1"]
        raise error

    command(fail)
    assert run(["serve", "--port", "1"]) > 0
    assert "Traceback" not in capsys.readouterr().err
    assert run(["serve", "--port", "1", "--debug"]) > 0
    said = capsys.readouterr().err
    assert said.startswith("Traceback")
    assert said.endswith("deepsynth: a mistake\n")


def test_of_several_processes_one_tells_that_the_run_has_ended(
    command: Callable[[Command], None], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What started them takes any other code than 0 for a failure, and the next error for the cause."""
    monkeypatch.setattr(main_module, "rank", lambda: 1)
    monkeypatch.setattr(main_module, "world_size", lambda: 2)
    command(raising(SIGTERMException()))
    assert run(["serve"]) == 0
    command(raising(torch.distributed.DistNetworkError("timed out")))
    assert run(["serve"]) == 1
    assert capsys.readouterr().err == "deepsynth: another process has ended; it says why itself\n"


@pytest.mark.parametrize("asked", [["--help"], ["-h"], []])
def test_the_examples_follow_the_help_alone(
    asked: list[str], command: Callable[[Command], None], capsys: pytest.CaptureFixture[str]
) -> None:
    command(raising(SystemExit(0)))
    assert run(["serve", *asked]) == 0
    assert capsys.readouterr().out.startswith("\nexamples:\n  deepsynth serve ") == bool(asked)
    command(raising(SystemExit(2)))
    assert run(["serve", *asked]) == 2
    assert capsys.readouterr().out == ""


def test_the_codes_are_those_of_shells() -> None:
    assert (128 + signal.SIGTERM, 128 + signal.SIGPIPE) == (SAVED_AND_ENDED, OUTPUT_NOT_READ)


@pytest.fixture
def default_handler() -> Iterator[None]:
    before = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.mark.usefixtures("default_handler")
def test_sigterm_lets_a_command_clean_up(command: Callable[[Command], None]) -> None:
    cleaned = []

    def work(args: list[str]) -> None:
        try:
            signal.raise_signal(signal.SIGTERM)
        finally:
            cleaned.append(args)

    command(work)
    assert run(["serve"]) == SAVED_AND_ENDED
    assert cleaned == [[]]
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


@pytest.mark.usefixtures("default_handler")
def test_a_handler_of_the_caller_s_and_other_threads_stay_as_they_are(command: Callable[[Command], None]) -> None:
    seen: list[object] = []
    command(lambda _: seen.append(signal.getsignal(signal.SIGTERM)))
    thread = threading.Thread(target=run, args=(["serve"],))
    thread.start()
    thread.join()
    assert seen == [signal.SIG_DFL]
    chosen: list[int] = []

    def own(number: int, frame: object) -> None:
        chosen.append(number)

    signal.signal(signal.SIGTERM, own)
    command(lambda _: signal.raise_signal(signal.SIGTERM))
    assert run(["serve"]) == 0
    assert chosen == [signal.SIGTERM]
    assert signal.getsignal(signal.SIGTERM) is own


def test_a_command_leaves_no_process_of_its_own(command: Callable[[Command], None]) -> None:
    context = multiprocessing.get_context("fork")
    before = context.Process(target=time.sleep, args=(600,), daemon=True)
    before.start()
    started: list[multiprocessing.process.BaseProcess] = []

    def work(args: list[str]) -> None:
        started.append(context.Process(target=time.sleep, args=(600,), daemon=True))
        started[0].start()
        raise UserError("a mistake")

    command(work)
    assert run(["serve"]) == 1
    assert not started[0].is_alive()
    assert before.is_alive()
    before.kill()
    before.join()
