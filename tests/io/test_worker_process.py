"""The protocol of child processes: replies, time-outs, ends, and parents that are killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from deepsynth.io.worker_process import WorkerEnded, WorkerProcess

ECHO = """
import os, sys, time
from deepsynth.io.worker_process import serve

def answer(request):
    print("a library prints this")
    time.sleep(request.get("sleep_s", 0))
    if request.get("exit"):
        print("the last words", file=sys.stderr)
        os._exit(7)
    return {"pid": os.getpid(), "modules": sorted({"torch", "numpy"} & set(sys.modules)), **request}

def main():
    serve(answer, grace_s=0.0)
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "echo_worker.py").write_text(ECHO)
    monkeypatch.syspath_prepend(tmp_path)
    return "echo_worker"


@pytest.fixture
def worker(module: str, tmp_path: Path) -> Iterator[WorkerProcess]:
    worker = WorkerProcess(module, log=tmp_path / "log.txt")
    yield worker
    worker.close()


def is_running(pid: int) -> bool:
    try:
        return (Path("/proc") / str(pid) / "stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def ends_soon(pid: int) -> bool:
    end = time.monotonic() + 20
    while time.monotonic() < end:
        if not is_running(pid):
            return True
        time.sleep(0.05)
    return False


def test_one_process_answers_all_requests(worker: WorkerProcess, tmp_path: Path) -> None:
    first = worker.ask({"text": "ä\n"}, timeout_s=30)
    assert first["text"] == "ä\n"
    assert first["modules"] == [], "only what it needs is imported"
    assert worker.ask({}, timeout_s=30)["pid"] == first["pid"] != os.getpid()
    worker.close()
    assert not is_running(first["pid"])
    assert "a library prints this" in (tmp_path / "log.txt").read_text(), "not among the replies"


def test_the_environment_is_the_one_that_is_given(module: str) -> None:
    worker = WorkerProcess(module, environment={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"})
    assert worker.ask({"n": 1}, timeout_s=30)["n"] == 1
    worker.close()


def test_a_process_that_hangs_is_killed(worker: WorkerProcess) -> None:
    pid = worker.ask({}, timeout_s=30)["pid"]
    with pytest.raises(TimeoutError, match=r"within 0\.1 s"):
        worker.ask({"sleep_s": 60}, timeout_s=0.1)
    worker.close(grace_s=0.0)
    assert not is_running(pid)


def test_a_request_can_be_canceled(worker: WorkerProcess) -> None:
    asked: list[bool] = []

    def second_time() -> bool:
        asked.append(len(asked) == 1)
        return asked[-1]

    with pytest.raises(TimeoutError):
        worker.ask({"sleep_s": 60}, timeout_s=30, canceled=second_time)
    assert asked == [False, True]


def test_signals_of_a_terminal_do_not_reach_it(worker: WorkerProcess) -> None:
    assert os.getsid(worker.ask({}, timeout_s=30)["pid"]) != os.getsid(0)


def test_the_log_is_appended_to(module: str, tmp_path: Path) -> None:
    (tmp_path / "log.txt").write_text("of an earlier process\n")
    worker = WorkerProcess(module, log=tmp_path / "log.txt")
    worker.ask({}, timeout_s=30)
    worker.close()
    assert (tmp_path / "log.txt").read_text() == "of an earlier process\na library prints this\n"


def ended(tmp_path: Path, main: str) -> WorkerEnded:
    """Return how a process ends whose ``main`` has these lines."""
    (tmp_path / "ending_worker.py").write_text(f"import os\ndef main():\n    {main}\n")
    worker = WorkerProcess("ending_worker")
    with pytest.raises(WorkerEnded) as found:
        worker.ask({}, timeout_s=30)
    worker.close()
    return found.value


@pytest.mark.usefixtures("module")
def test_half_a_reply_is_none_and_a_user_s_file_hides_no_library(tmp_path: Path) -> None:
    (tmp_path / "json.py").write_text("raise SystemExit(9)\n")
    half = ended(tmp_path, """import json; os.write(1, b'{"n": 1}'); os._exit(3)""")
    assert (half.code, half.last_line) == (3, "")
    assert str(half) == "the process ended with code 3: it printed nothing"


@pytest.mark.usefixtures("module")
def test_the_last_words_are_the_last_line_that_is_not_blank_whatever_its_bytes(tmp_path: Path) -> None:
    killed = ended(tmp_path, r"""os.write(2, b'first\n \xff last \n\n  \n'); os.kill(os.getpid(), 9)""")
    assert (killed.code, killed.last_line) == (-signal.SIGKILL, "\ufffd last")
    assert str(killed) == "the process ended with code -9: \ufffd last"


def test_an_end_without_a_reply_has_its_code_and_last_words(worker: WorkerProcess) -> None:
    for _ in range(2):
        with pytest.raises(WorkerEnded) as ended:
            worker.ask({"exit": True}, timeout_s=30)
        assert (ended.value.code, ended.value.last_line) == (7, "the last words")


PARENT = """
import sys
from deepsynth.io.worker_process import WorkerProcess
worker = WorkerProcess("echo_worker")
print(worker.ask({}, timeout_s=30)["pid"], flush=True)
worker.ask({"sleep_s": 600}, timeout_s=600)
"""


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_a_busy_process_ends_when_its_parent_is_killed(module: str, tmp_path: Path) -> None:
    path = os.pathsep.join([str(tmp_path), *sys.path])
    command = [sys.executable, "-c", PARENT]
    with subprocess.Popen(command, env={**os.environ, "PYTHONPATH": path}, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        parent.send_signal(signal.SIGKILL)
    assert ends_soon(pid)
