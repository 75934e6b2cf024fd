"""Run one push attempt in a process that can be stopped at any moment."""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from deepsynth.hub.client import Outcome
from deepsynth.hub.privacy import redact
from deepsynth.hub.snapshot import Snapshot

#: Slowest uplink that is still waited for, in bytes per second; a safety net behind the time-outs of each request.
_SLOWEST_UPLINK = 50_000
_LONGEST_OVERHEAD_S = 300.0

#: The package may be importable only because of this process's path. It is appended, not put in PYTHONPATH, where it
#: would come before the standard library.
_PROGRAM = "import sys; sys.path.append({path!r}); from deepsynth.hub.push_process import main; main()"


def run_attempt(
    snapshot: Snapshot, *, request_timeout_s: float, use_xet: bool = True, cancelled: Callable[[], bool] | None = None
) -> Outcome:
    """Push a snapshot once, in a process of its own, and wait for the outcome.

    Args:
        snapshot: what to push.
        request_timeout_s: longest silence of the Hub within one request.
        use_xet: whether to upload with Xet where it is installed, else with Git-LFS.
        cancelled: asked a few times a second; when it says yes, the process is killed and the outcome is ``"retry"``.
    """
    limit = time.monotonic() + _LONGEST_OVERHEAD_S + snapshot.size / _SLOWEST_UPLINK
    program = _PROGRAM.format(path=str(Path(__file__).parents[2]))
    with tempfile.TemporaryFile() as complaints:
        process = subprocess.Popen(
            [sys.executable, "-P", "-c", program],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=complaints,
            env=_environment(request_timeout_s, use_xet),
            start_new_session=True,  # Ctrl-C and a scheduler's signals are for the training process
        )
        assert process.stdin is not None
        assert process.stdout is not None
        with process.stdin, process.stdout:  # closing stdin ends the process, should it still be there
            job = {"folder": str(snapshot.folder), "request_timeout_s": request_timeout_s}
            try:
                process.stdin.write(json.dumps(job).encode() + b"\n")
                process.stdin.flush()
            except BrokenPipeError:
                pass  # it died at once: the exit status says how
            # Waiting for the report, not for the process: that would wake this thread, and with it the training's
            # interpreter lock, twenty times a second.
            report = select.poll()  # not select(), which refuses file numbers above 1023
            report.register(process.stdout, select.POLLIN)
            while not report.poll(500):
                if time.monotonic() > limit or (cancelled is not None and cancelled()):
                    _stop(process)
                    return Outcome("retry", "the Hub did not finish in time")
            reply = process.stdout.readline()
            try:
                process.wait(timeout=5)  # it has nothing left to do
            except subprocess.TimeoutExpired:
                _stop(process)
        complaints.seek(0)
        return _outcome(process.returncode, reply, complaints.read())


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    with contextlib.suppress(subprocess.TimeoutExpired):  # stuck in the kernel: left behind
        process.wait(timeout=5)


def _environment(request_timeout_s: float, use_xet: bool) -> dict[str, str]:
    """Return the environment of the process: the user's own settings, with limits where hf_xet has none."""
    env = dict(os.environ)
    seconds = f"{max(1, round(request_timeout_s))}s"
    env.setdefault("HF_XET_CLIENT_READ_TIMEOUT", seconds)
    env.setdefault("HF_XET_CLIENT_CONNECT_TIMEOUT", seconds)
    env.setdefault("HF_XET_CLIENT_RETRY_MAX_ATTEMPTS", "2")
    env.setdefault("HF_XET_CLIENT_RETRY_BASE_DELAY", "1s")
    env["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
    if not use_xet:
        env["HF_HUB_DISABLE_XET"] = "1"
    return env


def _outcome(code: int | None, reply: bytes, complaints: bytes) -> Outcome:
    try:
        return Outcome(**json.loads(reply))
    except (ValueError, TypeError):
        pass
    lines = [line for line in complaints.decode(errors="replace").splitlines() if line.strip()]
    last = redact(lines[-1].strip())[:300] if lines else "it said nothing"
    if code is not None and code < 0:  # killed from outside, for memory or at a shutdown
        last = f"killed by signal {-code}"
    # huggingface_hub also raises KeyError and the like, when a reply is not what it expects.
    return Outcome("retry", f"the push broke off: {last}")
