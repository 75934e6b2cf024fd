"""Child processes that answer requests: one JSON object a line in, one JSON object a line out.

The parent holds a :class:`WorkerProcess`; the child's ``main`` calls :func:`serve`. A child is a fresh interpreter that
imports nothing but its own module, so what it needs decides how fast it starts, and whatever hangs in it can be killed.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

#: Seconds between two checks whether a request was canceled.
_CANCEL_POLL_S = 0.5
#: The child finds what its parent finds. The paths are appended: a user's file must not hide the standard library.
_PROGRAM = "import sys; sys.path += {path!r}; from {module} import main; main()"


class WorkerEnded(Exception):
    """The process ended without a reply.

    Attributes:
        code: exit status; negative for the signal that killed it.
        last_line: the last line that it printed, or an empty string.
    """

    def __init__(self, code: int, last_line: str) -> None:
        super().__init__(f"the process ended with code {code}: {last_line or 'it printed nothing'}")
        self.code = code
        self.last_line = last_line


class WorkerProcess:
    """A child process that runs ``main`` of a module and answers requests.

    Ctrl-C and a scheduler's signals do not reach it. It ends when it is closed and when this process ends.

    Args:
        module: its dotted name; ``main`` calls :func:`serve`.
        log: file that what it prints is appended to; by default a temporary one.
        environment: of the process; by default that of this one.
    """

    def __init__(self, module: str, *, log: Path | None = None, environment: Mapping[str, str] | None = None) -> None:
        self._log = tempfile.TemporaryFile() if log is None else open(log, "ab+")  # noqa: SIM115 - see close
        program = _PROGRAM.format(path=[path or os.getcwd() for path in sys.path], module=module)
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-c", program],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env=environment,
            start_new_session=True,
        )
        self._replies: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        threading.Thread(target=self._receive, daemon=True).start()

    def _receive(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as lines:
            for line in lines:
                if line.endswith(b"\n"):  # else it was killed in the middle of a reply
                    self._replies.put(line)
        self._replies.put(None)

    def ask(
        self, request: Mapping[str, Any], *, timeout_s: float, canceled: Callable[[], bool] = lambda: False
    ) -> dict[str, Any]:
        """Send a request and return the reply.

        Args:
            request: values that JSON has.
            timeout_s: longest wait for the reply.
            canceled: asked twice a second; when it returns true, the wait ends.

        Raises:
            TimeoutError: when there was no reply in time or the request was canceled; close the process then.
            WorkerEnded: when the process ended.
        """
        end = time.monotonic() + timeout_s
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it has ended, which the missing reply shows
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
            self._process.stdin.flush()
        while True:
            left = end - time.monotonic()
            if left <= 0 or canceled():
                raise TimeoutError(f"no reply within {timeout_s:g} s")
            try:
                reply = self._replies.get(timeout=min(left, _CANCEL_POLL_S))
            except queue.Empty:
                continue
            if reply is None:
                self._replies.put(None)  # for the next request
                raise WorkerEnded(self._process.wait(), self._last_line())
            answer: dict[str, Any] = json.loads(reply)
            return answer

    def _last_line(self) -> str:
        self._log.seek(0)
        lines = self._log.read().decode(errors="replace").split("\n")
        return next((line.strip() for line in reversed(lines) if line.strip()), "")

    def close(self, *, grace_s: float = 5.0) -> None:
        """End the process: kindly at first, by force when it still runs after ``grace_s`` seconds."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(timeout=grace_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
            with contextlib.suppress(subprocess.TimeoutExpired):  # stuck in the kernel: left behind
                self._process.wait(timeout=5)
        self._log.close()


def serve(answer: Callable[[dict[str, Any]], dict[str, Any]], *, grace_s: float) -> None:
    """Answer requests in this process until the parent closes the pipe or ends.

    What is printed goes to the standard error.

    Args:
        answer: makes a reply of a request; both have values that JSON has. An error ends the process.
        grace_s: how long a request that is being answered may still take once the parent is gone.
    """
    requests: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as replies:
        os.dup2(2, 1)
        threading.Thread(target=_watch_parent, args=(requests, grace_s), daemon=True).start()
        while (request := requests.get()) is not None:
            replies.write(json.dumps(answer(json.loads(request))) + "\n")
            replies.flush()


def _watch_parent(requests: queue.SimpleQueue[bytes | None], grace_s: float) -> None:
    # Not sys.stdin, whose lock the interpreter wants at its exit.
    with os.fdopen(os.dup(0), "rb") as lines:
        for line in lines:
            requests.put(line)
    requests.put(None)
    time.sleep(grace_s)
    os._exit(1)  # a thread of a library that hangs must not hold up the exit
