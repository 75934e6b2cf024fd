"""The process of one push attempt: ``python -m deepsynth.hub.push_process``, started by `deepsynth.hub.worker`.

A process of its own because nothing else can be stopped: a request of huggingface_hub or a thread of hf_xet that hangs
holds up any thread that waits for it, and the interpreter's exit. It reads one line of JSON from standard input and
writes one line of JSON to standard output. The access token is found as everywhere (environment or login file), never
passed along.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import threading
from dataclasses import asdict
from pathlib import Path


def main() -> None:
    """Push the snapshot that standard input names and report the outcome."""
    _let_training_go_first()
    report = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print must not mix with the report
    job = json.loads(sys.stdin.readline())
    threading.Thread(target=_end_with_parent, daemon=True).start()

    from deepsynth.hub.client import use_timeouts
    from deepsynth.hub.commit import push_once
    from deepsynth.hub.snapshot import Snapshot

    use_timeouts(job["request_timeout_s"])
    outcome = push_once(Snapshot.load(Path(job["folder"])))
    report.write(json.dumps(asdict(outcome)) + "\n")
    report.flush()
    os._exit(0)  # a thread of the client that still hangs must not hold up the exit


def _let_training_go_first() -> None:
    """Take less processor time than what trains, where both want it."""
    os.nice(10)
    # Where Linux groups processes by session, the nice value counts within this process's own session alone.
    with contextlib.suppress(OSError):
        Path("/proc/self/autogroup").write_text("10", encoding="ascii")


def _end_with_parent() -> None:
    """End this process as soon as the parent is gone: two pushes of one spool must not overlap."""
    sys.stdin.read()
    os._exit(1)


if __name__ == "__main__":
    main()
