"""One push attempt in a separate process, which can be stopped at any moment.

Nothing else can be stopped: a request of huggingface_hub or a thread of hf_xet that hangs holds up any thread that
waits for it, and the interpreter's exit. The access token is found as everywhere (environment or login file), never
passed along.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from deepsynth.hub.client import Outcome
from deepsynth.hub.privacy import redact
from deepsynth.hub.snapshot import Snapshot
from deepsynth.io.worker_process import WorkerEnded, WorkerProcess, serve

#: Slowest uplink that is still waited for, in bytes per second; a safety net behind the time-outs of each request.
_SLOWEST_UPLINK = 50_000
_LONGEST_OVERHEAD_S = 300.0


def run_attempt(
    snapshot: Snapshot, *, request_timeout_s: float, use_xet: bool = True, canceled: Callable[[], bool] | None = None
) -> Outcome:
    """Push a snapshot once, in a separate process, and wait for the outcome.

    Args:
        snapshot: what to push.
        request_timeout_s: longest silence of the Hub within one request.
        use_xet: whether to upload with Xet where it is installed, else with Git-LFS.
        canceled: asked twice a second; when it returns true, the process is killed and the outcome is ``"retry"``.
    """
    process = WorkerProcess(__name__, environment=limited_environment(request_timeout_s, use_xet))
    grace_s = 5.0  # once it has replied, it has nothing left to do
    try:
        reply = process.ask(
            {"folder": str(snapshot.folder), "request_timeout_s": request_timeout_s},
            timeout_s=_LONGEST_OVERHEAD_S + snapshot.size / _SLOWEST_UPLINK,
            canceled=canceled or (lambda: False),
        )
        return Outcome(**reply)
    except TimeoutError:
        grace_s = 0.0
        return Outcome("retry", "the Hub did not finish in time")
    except WorkerEnded as ended:
        # Killed from outside, for memory or at a shutdown; or an error: huggingface_hub also raises KeyError and the
        # like, when a reply is not what it expects.
        reason = f"killed by signal {-ended.code}" if ended.code < 0 else redact(ended.last_line)[:300]
        return Outcome("retry", f"the push broke off: {reason or 'it said nothing'}")
    finally:
        process.close(grace_s=grace_s)


def limited_environment(request_timeout_s: float, use_xet: bool) -> dict[str, str]:
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


def main() -> None:
    """Push the snapshots that are asked for; end with the parent at once: two pushes of one spool must not overlap."""
    _let_training_go_first()
    serve(_push, grace_s=0.0)


def _push(request: dict[str, Any]) -> dict[str, Any]:
    from deepsynth.hub.client import use_timeouts
    from deepsynth.hub.commit import push_once

    use_timeouts(request["request_timeout_s"])
    return asdict(push_once(Snapshot.load(Path(request["folder"]))))


def _let_training_go_first() -> None:
    """Take less processor time than what trains, where both want it."""
    if hasattr(os, "nice"):
        os.nice(10)
    # Where Linux groups processes by session, the nice value counts within this process's own session alone.
    with contextlib.suppress(OSError):
        Path("/proc/self/autogroup").write_text("10", encoding="ascii")
