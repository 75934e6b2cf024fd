"""The push worker: takes snapshots from a spool to the Hub beside a running training, and never holds it up."""

from __future__ import annotations

import logging
import random
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from deepsynth.hub.client import REQUEST_TIMEOUT_S, Outcome
from deepsynth.hub.push_process import run_attempt
from deepsynth.hub.snapshot import Snapshot, Target
from deepsynth.hub.spool import Spool, spools_of

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Backoff:
    """Waits between the attempts of a push.

    Attributes:
        first_s: before the second attempt.
        longest_s: the waits double up to this.
    """

    first_s: float = 5.0
    longest_s: float = 300.0

    def seconds(self, failures: int) -> float:
        """Return the wait after so many failures in a row, with jitter: many runs must not come back together."""
        return min(self.longest_s, self.first_s * 2.0 ** min(failures - 1, 32)) * random.uniform(0.75, 1.0)


class PushWorker:
    """One daemon thread that pushes the newest snapshot of a spool, as often as it takes.

    A snapshot that a newer one overtakes is dropped: the Hub gets the newest state, not every state. Nothing here
    raises because of the Hub. What is not delivered stays in the spool.
    """

    def __init__(
        self, spool: Spool, *, request_timeout_s: float = REQUEST_TIMEOUT_S, backoff: Backoff | None = None
    ) -> None:
        """Take the spool's lock and start; what an earlier run left in the spool is pushed first.

        Raises:
            BlockingIOError: when another process pushes from this spool.
        """
        if not spool.lock():
            raise BlockingIOError(f"{spool.folder}: another run pushes from here; give each run its own folder")
        spool.sweep()
        self.spool = spool
        self.last_outcome: Outcome | None = None
        self._request_timeout_s = request_timeout_s
        self._backoff = backoff or Backoff()
        self._changed = threading.Condition()
        self._newest: Snapshot | None = None
        self._deadline: float | None = None
        self._last_warning = ""
        left = spool.pending()
        if left:
            self._newest = left[-1]
        self._thread = threading.Thread(target=self._run, name="hub-push", daemon=True)
        self._thread.start()

    def submit(self, snapshot: Snapshot) -> None:
        """Push this snapshot next, in place of any that still waits; returns at once."""
        with self._changed:
            self._newest = snapshot
            self._changed.notify_all()

    def close(self, deadline_s: float) -> bool:
        """Push what is left, for at most so many seconds, and stop.

        Returns:
            Whether everything was delivered. If not, a warning says where it is kept and how to send it.
        """
        with self._changed:
            self._deadline = time.monotonic() + deadline_s
            self._changed.notify_all()
        self._thread.join(deadline_s + 10.0)  # the attempt under way is killed at the deadline
        delivered = self.spool.is_empty()
        self.spool.unlock()
        if not delivered:
            reason = self.last_outcome.message if self.last_outcome is not None else "no attempt ended"
            log.warning(
                "Not pushed to the Hub (%s). It is kept in %s; send it with: deepsynth hub resume %s",
                reason,
                self.spool.folder,
                self.spool.folder.parents[1],
            )
        return delivered

    def _run(self) -> None:
        failures = 0
        closing = False
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._newest is not None or self._deadline is not None)
                if self._newest is None or self._out_of_time():
                    return
                snapshot = self._newest
                if self._deadline is not None and not closing:
                    closing, failures = True, 0  # hurry: the waits start again from the shortest
            outcome = self._attempt(snapshot, failures)
            self.last_outcome = outcome
            if outcome.status == "retry":
                failures += 1
                if not self._wait(self._backoff.seconds(failures), outcome):
                    return
            else:
                failures = 0
                with self._changed:
                    if self._newest is snapshot:
                        self._newest = None

    def _attempt(self, snapshot: Snapshot, failures: int) -> Outcome:
        use_xet = failures < 2 or failures % 2 == 1  # a network may let Git-LFS through where it blocks Xet
        try:
            self.spool.remove_older(snapshot)
            outcome = run_attempt(
                snapshot, request_timeout_s=self._request_timeout_s, use_xet=use_xet, cancelled=self._out_of_time
            )
            if outcome.status == "delivered":
                self.spool.remove(snapshot)
                log.info("%s (commit %s)", outcome.message, outcome.commit)
                self._last_warning = ""
        except OSError as error:  # no process, no disk: the training must not feel it
            outcome = Outcome("retry", f"{type(error).__name__}: {error}")
        if outcome.status != "delivered" and not self._out_of_time() and outcome.message != self._last_warning:
            then = "trying again in the background" if outcome.status == "retry" else "not trying this one again"
            log.warning("Push to %s failed, %s: %s", snapshot.target.repo_id, then, outcome.message)
            self._last_warning = outcome.message
        return outcome

    def _wait(self, seconds: float, outcome: Outcome) -> bool:
        """Wait before the next attempt; return whether there is time for one."""
        with self._changed:
            if self._deadline is None:
                self._changed.wait_for(lambda: self._deadline is not None, max(seconds, outcome.retry_after_s or 0.0))
                return True
            wait = max(seconds, outcome.retry_after_s or 0.0)
            if time.monotonic() + wait >= self._deadline:
                return False
        time.sleep(wait)
        return True

    def _out_of_time(self) -> bool:
        return self._deadline is not None and time.monotonic() >= self._deadline


def resume(run: Path, deadline_s: float = 600.0, *, backoff: Backoff | None = None) -> list[str]:
    """Send what a run left in its spool.

    Args:
        run: the run's folder (or its ``hub_spool``).
        deadline_s: how long to try, in seconds.
        backoff: waits between the attempts.

    Returns:
        One line a target.

    Raises:
        FileNotFoundError: when the folder holds no spool.
        ConnectionError: when something could not be delivered.
        BlockingIOError: when the run still pushes itself.
    """
    lines = []
    failed = []
    for spool in spools_of(run):
        waiting = spool.pending()
        if not waiting:
            lines.append(f"{spool.folder.name}: nothing waits")
            continue
        worker = PushWorker(spool, backoff=backoff)
        if worker.close(deadline_s):
            commit = worker.last_outcome.commit if worker.last_outcome is not None else None
            lines.append(f"{waiting[-1].message} delivered to {_name(waiting[-1].target)} as {commit}")
        else:
            reason = worker.last_outcome.message if worker.last_outcome is not None else "no attempt ended"
            failed.append(f"{_name(waiting[-1].target)}: {reason}")
    if failed:
        raise ConnectionError("; ".join(failed))
    return lines


def _name(target: Target) -> str:
    return f"{target.repo_id}@{target.revision}"
