"""The push worker: a thread that pushes snapshots from a spool while a training runs, and never delays it."""

from __future__ import annotations

import logging
import random
import re
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from deepsynth.errors import UserError
from deepsynth.hub.client import REQUEST_TIMEOUT_S, HubUnreachableError, Outcome
from deepsynth.hub.push_process import run_attempt
from deepsynth.hub.snapshot import Snapshot, Target
from deepsynth.hub.spool import Spool, spools_of

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Backoff:
    """The waits between the attempts of a push.

    Attributes:
        first_s: seconds before the second attempt; later waits double.
        longest_s: longest wait in seconds.
    """

    first_s: float = 5.0
    longest_s: float = 300.0

    def seconds(self, failures: int) -> float:
        """Return the wait after so many failures in a row, with jitter: many runs must not retry at the same time."""
        return min(self.longest_s, self.first_s * 2.0 ** min(failures - 1, 32)) * random.uniform(0.75, 1.0)


class PushWorker:
    """One daemon thread that pushes the newest snapshot of a spool, and retries until it is delivered.

    Older queued snapshots are skipped: the Hub gets the newest state, not every state. No failure of the Hub raises
    here. A snapshot that was not delivered stays in the spool.
    """

    def __init__(
        self, spool: Spool, *, request_timeout_s: float = REQUEST_TIMEOUT_S, backoff: Backoff | None = None
    ) -> None:
        """Lock the spool and start; a snapshot that an earlier run left in the spool is pushed first.

        Raises:
            UserError: when another process pushes from this spool.
        """
        if not spool.lock():
            raise UserError(f"{spool.folder}: another run pushes from it; give each run its own folder")
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
        """Push this snapshot next, instead of any that still waits; return at once."""
        with self._changed:
            self._newest = snapshot
            self._changed.notify_all()

    def close(self, deadline_s: float) -> bool:
        """Push the newest snapshot if it still waits, and stop.

        Args:
            deadline_s: most seconds that this may take.

        Returns:
            Whether everything was delivered. If not, a warning names the folder and the command that sends it.
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
                    closing, failures = True, 0  # time is short: start again with the shortest wait
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
                snapshot, request_timeout_s=self._request_timeout_s, use_xet=use_xet, canceled=self._out_of_time
            )
            if outcome.status == "delivered":
                self.spool.remove(snapshot)
                log.info("%s (commit %s)", outcome.message, outcome.commit)
                self._last_warning = ""
        except OSError as error:  # no process, no disk: the training must not fail
            outcome = Outcome("retry", f"{type(error).__name__}: {error}")
        told = re.sub(r"https?://\S+|\(Request ID[^)]*\)", "", outcome.message)  # which differ in every attempt
        if outcome.status != "delivered" and not self._out_of_time() and told != self._last_warning:
            then = "trying again in the background" if outcome.status == "retry" else "not trying this one again"
            log.warning("Push to %s failed, %s: %s", snapshot.target.repo_id, then, outcome.message)
            self._last_warning = told
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
    """Send the snapshots that a run left in its spool.

    Args:
        run: folder of the run (or its ``hub_spool``).
        deadline_s: most seconds to try.
        backoff: waits between the attempts.

    Returns:
        One line per target.

    Raises:
        UserError: when the folder has no spool, a snapshot could not be delivered, or the run still pushes itself.
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
            failed.append(f"{_name(waiting[-1].target)}: not delivered ({reason}); the same command tries again")
    if failed:
        raise HubUnreachableError("; ".join(failed))
    return lines


def _name(target: Target) -> str:
    return f"{target.repo_id}@{target.revision}"
