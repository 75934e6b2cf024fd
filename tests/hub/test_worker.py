"""The push worker against a local stand-in for the Hub that fails on purpose."""

from __future__ import annotations

import itertools
import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from deepsynth.errors import UserError
from deepsynth.hub.client import HubUnreachableError, Outcome
from deepsynth.hub.snapshot import Snapshot, Target
from deepsynth.hub.spool import Spool
from deepsynth.hub.worker import Backoff, PushWorker, resume
from tests.helpers.hub_server import HubProcess
from tests.helpers.pushes import QUICK, TOKEN, WarmAttempts, add_snapshot, contents, on_hub, titles, use_hub

READ_ONLY = "hf_" + "r8Yl4WcM" * 4


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hub")
    users = ["--user", f"alice:{TOKEN}:write", "--user", f"alice:{READ_ONLY}:read"]
    options = ["--storage-host", "localhost", "--multipart-bytes", "300000"]
    with HubProcess(folder / "state", 0, *options, *users) as process:
        process.home = folder / "home"
        yield process
        assert process.leaks() == []


@pytest.fixture(autouse=True)
def talk_to(hub, monkeypatch):
    """Point this process, and what it starts, at the stand-in."""
    hub.clear_faults()
    use_hub(hub, monkeypatch)


numbers = itertools.count()


def new_target(**kwargs) -> Target:
    return Target(f"alice/run{next(numbers)}", **kwargs)


def until(condition) -> None:
    end = time.monotonic() + 180
    while not condition():
        assert time.monotonic() < end, "nothing happened for three minutes"
        time.sleep(0.02)


@pytest.fixture
def warm(monkeypatch):
    monkeypatch.setattr("deepsynth.hub.worker.run_attempt", WarmAttempts())


HANGING = [
    ("xet", "__cas__/v1/xorbs"),
    ("lfs", "/revision/"),
    pytest.param("lfs", "__lfs__/upload", marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("mode", "route"), HANGING)
def test_a_hub_that_hangs_for_ever_holds_nobody_up(hub, monkeypatch, tmp_path, caplog, mode, route):
    use_hub(hub, monkeypatch, xet=None if mode == "xet" else False)
    target = new_target()
    spool = Spool.of_run(tmp_path, target)
    snapshot = add_snapshot(spool, target)
    files = contents(snapshot)
    hub.fault(path=route, action="hang", seconds=600, times=-1)
    begin = time.monotonic()
    assert not PushWorker(spool, request_timeout_s=300).close(deadline_s=2)
    assert time.monotonic() - begin < 150, "neither the 300 s of the request nor the 600 s of the Hub"
    assert "deepsynth hub resume" in caplog.text
    hub.clear_faults()
    assert resume(tmp_path, 180)[0].startswith(f"step 1 delivered to {target.repo_id}@main")
    assert on_hub(hub, target) == files
    assert titles(hub, target) == ["step 1"]


TRAINING = """
import sys, time
from pathlib import Path
from deepsynth.errors import UserError
from deepsynth.hub.client import HubUnreachableError
from deepsynth.hub.snapshot import Target
from deepsynth.hub.spool import Spool
from deepsynth.hub.worker import PushWorker
spool = Spool.of_run(Path(sys.argv[1]), Target(sys.argv[2]))
worker = PushWorker(spool)
print("pushing", flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize(
    ("route", "when"),
    [
        ("/commit/", "after"),
        pytest.param("__lfs__/upload", "before", marks=pytest.mark.slow),
        pytest.param("/commit/", "before", marks=pytest.mark.slow),
        pytest.param("__lfs__/upload", "after", marks=pytest.mark.slow),
    ],
)
def test_kill_during_a_push_then_resume(hub, monkeypatch, tmp_path, route, when):
    use_hub(hub, monkeypatch, xet=False)
    target = new_target()
    spool = Spool.of_run(tmp_path, target)
    files = contents(add_snapshot(spool, target))
    spool.stage().joinpath("half-written").write_text("...")
    hub.fault(path=route, action="hang", seconds=3, when=when)
    with subprocess.Popen([sys.executable, "-c", TRAINING, str(tmp_path), target.repo_id]) as training:
        until(lambda: any(request["fault"] for request in hub.state()["inflight"]))
        training.send_signal(signal.SIGKILL)
    resume(tmp_path, 180, backoff=QUICK)
    hub.wait_idle(quiet=0.1)
    assert titles(hub, target) == ["step 1"]
    assert on_hub(hub, target) == files
    assert list(spool.folder.iterdir()) == []
    assert resume(tmp_path) == [f"{target.folder_name}: nothing waits"]


def test_the_newest_state_wins(hub, tmp_path, warm):
    target = new_target()
    spool = Spool.of_run(tmp_path, target)
    hub.fault(path="/preupload/", action="hang", seconds=2)
    worker = PushWorker(spool, request_timeout_s=30, backoff=QUICK)
    snapshots = []
    for step in range(1, 6):
        snapshots.append(add_snapshot(spool, target, step))
        files = contents(snapshots[-1])
        worker.submit(snapshots[-1])
        if step == 1:
            until(lambda: hub.state()["inflight"])
    assert worker.close(180)
    assert titles(hub, target) == ["step 5", "step 1"], "the first was under way; of those that waited, the newest"
    assert on_hub(hub, target) == files


def test_a_refusal_is_said_once_and_later_snapshots_still_go(hub, tmp_path, caplog, warm):
    target = new_target()
    spool = Spool.of_run(tmp_path, target)
    hub.fault(path="/commit/", status=403, times=2)
    worker = PushWorker(spool, backoff=QUICK)
    for step in (1, 2, 3):
        before = hub.mark()
        worker.submit(add_snapshot(spool, target, step))
        until(lambda: hub.log(since=before, path="/commit/"))  # noqa: B023
        hub.wait_idle(quiet=0.1)
    assert worker.close(180)
    assert titles(hub, target) == ["step 3"]
    refusals = [r.getMessage() for r in caplog.records if "403" in r.getMessage()]
    assert len(refusals) == 1
    assert "the token may not write there" in refusals[0]
    assert len(hub.log(path=f"{target.repo_id}/commit/")) == 3, "a refused snapshot is not tried again"


def test_nobody_logged_in(hub, monkeypatch, tmp_path, caplog):
    use_hub(hub, monkeypatch, token=None)
    target = new_target()
    spool = Spool.of_run(tmp_path, target)
    add_snapshot(spool, target)
    assert not PushWorker(spool, backoff=QUICK).close(180)
    assert "hf auth login" in caplog.text
    with pytest.raises(HubUnreachableError, match="HTTP 401"):
        resume(tmp_path, 180, backoff=QUICK)


@pytest.mark.parametrize("attempted", [False, True], ids=["first attempt", "second attempt"])
def test_a_public_repository_is_refused_when_private_was_asked_for(hub, tmp_path, caplog, warm, attempted):
    target = new_target()
    public = Target(target.repo_id, private=False)
    first = Spool.of_run(tmp_path / "a", public)
    add_snapshot(first, public)
    assert PushWorker(first, backoff=QUICK).close(180)
    second = Spool.of_run(tmp_path / "b", target)
    snapshot = add_snapshot(second, target, step=2)
    if attempted:  # and while it failed, the repository was made public
        snapshot.mark_attempted()
    assert not PushWorker(second, backoff=QUICK).close(180)
    assert f"private is true, but {target.repo_id} is public" in caplog.text
    assert titles(hub, target) == ["step 1"]


def test_a_push_starts_again_when_another_commit_came_in_between(hub: HubProcess, tmp_path: Path, warm: None) -> None:
    target = new_target()
    spool, other = Spool.of_run(tmp_path, target), Spool.of_run(tmp_path / "other", target)
    add_snapshot(spool, target)
    hub.fault(path="/preupload/", action="hang", seconds=60)  # the branch was looked at, nothing is committed yet
    worker = PushWorker(spool, request_timeout_s=100, backoff=QUICK)
    until(lambda: any(request["fault"] for request in hub.state()["inflight"]))
    add_snapshot(other, target, step=2)
    assert PushWorker(other, backoff=QUICK).close(180)
    hub.clear_faults()  # goes on at once
    assert worker.close(180)
    statuses = [entry["status"] for entry in hub.log(path=f"{target.repo_id}/commit/")]
    assert statuses == [200, 412, 200], "the first names a parent that is the newest no more"
    assert titles(hub, target) == ["step 1", "step 2"]


def test_a_running_worker_waits_as_long_as_the_hub_asks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Snapshot] = []

    def attempt(snapshot: Snapshot, **kwargs: Any) -> Outcome:
        calls.append(snapshot)
        asked = len(calls) > 2
        return Outcome("retry", "HTTP 429: slow down", retry_after_s=3600.0 if asked else None)

    monkeypatch.setattr("deepsynth.hub.worker.run_attempt", attempt)
    target = new_target()
    worker = PushWorker(Spool.of_run(tmp_path, target), backoff=Backoff(0.01, 0.01))
    worker.submit(add_snapshot(worker.spool, target))
    until(lambda: len(calls) >= 3)  # the first two are tried again after the backoff alone
    time.sleep(0.3)  # thirty times the backoff
    assert len(calls) == 3
    assert not worker.close(deadline_s=1)
    assert len(calls) <= 4, "the hour that the Hub asks for is longer than the deadline"


@pytest.mark.slow
def test_a_commit_of_somebody_else_in_between_is_kept(hub, tmp_path, warm):
    target = new_target()
    spool = Spool.of_run(tmp_path, target)
    snapshot = add_snapshot(spool, target)
    hub.fault(path="/commit/", action="hang", seconds=2.5, when="before")  # sent, lost to us, and effective later
    other = Spool.of_run(tmp_path / "other", target)
    worker = PushWorker(spool, request_timeout_s=1, backoff=Backoff(4, 4))
    until(lambda: any(request["fault"] for request in hub.state()["inflight"]))
    add_snapshot(other, target, step=2)
    assert PushWorker(other, backoff=QUICK).close(180)
    assert worker.close(180)
    hub.wait_idle(quiet=0.1)
    assert titles(hub, target) == ["step 1", "step 2"]
    assert hub.repo(target.repo_id).read("adapter_config.json") == b'{"peft_type": "LORA", "step": 1}'
    assert not snapshot.folder.exists()


def test_a_tag_moves_to_the_newest(hub, tmp_path, warm):
    target = new_target()
    spool = Spool.of_run(tmp_path, target)
    for step in (1, 2):
        worker = PushWorker(spool, backoff=QUICK)
        worker.submit(add_snapshot(spool, target, step, tag="best"))
        assert worker.close(180)
    repo = hub.repo(target.repo_id)
    assert repo.resolve("best") == repo.resolve("main")
    assert titles(hub, target) == ["step 2", "step 1"]


def test_one_pusher_a_spool(hub, tmp_path):
    target = new_target()
    spool = Spool.of_run(tmp_path, target)
    worker = PushWorker(spool)
    with pytest.raises(UserError, match="another run pushes from it"):
        PushWorker(Spool.of_run(tmp_path, target))
    worker.close(5)
    PushWorker(Spool.of_run(tmp_path, target)).close(5)


def test_the_token_is_nowhere_to_be_seen(hub, monkeypatch, tmp_path, caplog):
    caplog.set_level(logging.DEBUG)
    target = new_target()
    spool = Spool.of_run(tmp_path, target)
    add_snapshot(spool, target)
    hub.fault(path="/commit/", action="hang", seconds=3)
    hub.fault(path="/preupload/", status=400, error=f"bad token {TOKEN} at http://x/y?X-Amz-Signature={TOKEN}")
    worker = PushWorker(spool, request_timeout_s=30, backoff=QUICK)
    until(lambda: hub.log(path=f"{target.repo_id}/preupload/", status=400))
    worker.submit(add_snapshot(spool, target, 2))
    until(lambda: any("/commit/" in request["path"] for request in hub.state()["inflight"]))
    me = os.getpid()
    argvs = [p.read_bytes() for p in Path("/proc").glob("[0-9]*/cmdline") if parent_of(p.parent) == me]
    argvs = [argv for argv in argvs if b"push_process" in argv]
    assert argvs
    assert not any(TOKEN.encode() in argv for argv in argvs)
    assert worker.close(180)
    add_snapshot(spool, target, 3)
    assert "<token>" in caplog.text
    assert TOKEN not in caplog.text
    for path in tmp_path.rglob("*"):
        assert path.is_dir() or TOKEN.encode() not in path.read_bytes()


def parent_of(process: Path) -> int | None:
    try:
        return int((process / "stat").read_text().rsplit(")", 1)[1].split()[1])
    except FileNotFoundError:
        return None


def test_the_same_failure_is_told_once_whatever_its_request_is_called(monkeypatch, tmp_path, caplog):
    numbers = itertools.count()

    def fail(*args: Any, **kwargs: Any) -> Outcome:
        number = next(numbers)
        status = 503 if number < 4 else 502
        return Outcome("retry", f"HTTP {status}: for url 'http://hub/{number}' (Request ID: Root={number}; retry)")

    monkeypatch.setattr("deepsynth.hub.worker.run_attempt", fail)
    spool = Spool.of_run(tmp_path, new_target())
    worker = PushWorker(spool, backoff=Backoff(0.001, 0.001))
    worker.submit(add_snapshot(spool, new_target()))
    until(lambda: next(numbers) > 8)
    worker.close(0)
    told = [record.getMessage() for record in caplog.records if "trying again" in record.getMessage()]
    assert ["HTTP 503" in line for line in told] == [True, False]


@pytest.mark.parametrize(
    ("failures", "longest"), [(1, 5.0), (2, 10.0), (3, 20.0), (6, 160.0), (7, 300.0), (33, 300.0), (5000, 300.0)]
)
def test_waits_double_up_to_a_limit_and_differ_between_runs(
    failures: int, longest: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = [Backoff().seconds(failures) for _ in range(50)]
    assert longest * 0.75 <= min(drawn) < longest * 0.85
    assert longest * 0.9 < max(drawn) <= longest
    monkeypatch.setattr("random.uniform", lambda low, high: high)
    assert Backoff().seconds(failures) == longest
    assert Backoff(longest_s=6.0).seconds(failures) == min(6.0, longest)
    monkeypatch.setattr("random.uniform", lambda low, high: low)
    assert Backoff().seconds(failures) == 0.75 * longest


class Answers:
    """Attempts that end as they are told, one after the other; a function is called for its outcome."""

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)
        self.asked: list[tuple[str, bool]] = []

    def __call__(self, snapshot: Snapshot, *, use_xet: bool, **kwargs: Any) -> Outcome:
        self.asked.append((snapshot.message, use_xet))
        answer = self.answers[min(len(self.asked), len(self.answers)) - 1]
        if isinstance(answer, Exception):
            raise answer
        return answer


RETRY, REFUSED, DELIVERED = (
    Outcome("retry", "HTTP 503"),
    Outcome("refused", "HTTP 403"),
    Outcome("delivered", "ok", "c1"),
)
AT_ONCE = Backoff(0.001, 0.001)


@pytest.fixture
def answered(monkeypatch: pytest.MonkeyPatch) -> Any:
    def install(*answers: Any) -> Answers:
        attempts = Answers(*answers)
        monkeypatch.setattr("deepsynth.hub.worker.run_attempt", attempts)
        return attempts

    return install


def test_lfs_takes_turns_with_xet_once_xet_has_failed_twice(answered: Any, tmp_path: Path) -> None:
    attempts = answered(*[RETRY] * 6, DELIVERED)
    worker = PushWorker(Spool.of_run(tmp_path, new_target()), backoff=AT_ONCE)
    worker.submit(add_snapshot(worker.spool, new_target(), size=1))
    until(worker.spool.is_empty)
    assert worker.close(60)
    assert [xet for _, xet in attempts.asked] == [True, True, False, True, False, True, False]


@pytest.mark.parametrize(("failure", "message"), [(RETRY, "HTTP 503"), (OSError("no process"), "OSError: no process")])
def test_a_failure_is_told_once_and_anew_after_a_push_that_went_well(
    failure: Any, message: str, answered: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    target = new_target()
    attempts = answered(failure, failure, DELIVERED, failure, DELIVERED)
    worker = PushWorker(Spool.of_run(tmp_path, target), backoff=AT_ONCE)
    for step, count in ((1, 3), (2, 5)):
        worker.submit(add_snapshot(worker.spool, target, step, size=1))
        until(worker.spool.is_empty)
        assert len(attempts.asked) == count
    assert worker.close(60)
    told = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert told == [f"Push to {target.repo_id} failed, trying again in the background: {message}"] * 2


def test_a_refused_snapshot_stays_where_it_is_and_is_named(
    answered: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    target = new_target()
    attempts = answered(REFUSED)
    worker = PushWorker(Spool.of_run(tmp_path, target), backoff=AT_ONCE)
    worker.submit(add_snapshot(worker.spool, target, size=1))
    until(lambda: worker.last_outcome is not None)
    assert not worker.close(60)
    assert len(attempts.asked) == 1
    assert [record.getMessage() for record in caplog.records] == [
        f"Push to {target.repo_id} failed, not trying this one again: HTTP 403",
        f"Not pushed to the Hub (HTTP 403). It is kept in {worker.spool.folder}; "
        f"send it with: deepsynth hub resume {tmp_path}",
    ]
    answered(RETRY)
    with pytest.raises(
        HubUnreachableError, match=f"^{target.repo_id}@main: not delivered .HTTP 503.; the same command"
    ):
        resume(tmp_path, 0.2, backoff=AT_ONCE)
    answered(DELIVERED)
    assert resume(worker.spool.folder.parent) == [f"step 1 delivered to {target.repo_id}@main as c1"]
    with pytest.raises(UserError, match="there is no folder 'hub_spool' in it"):
        resume(tmp_path / "nowhere")


def test_a_worker_that_closes_starts_again_with_the_shortest_wait(answered: Any, tmp_path: Path) -> None:
    attempts = answered(RETRY, Outcome("retry", "HTTP 429", retry_after_s=3600.0), RETRY, DELIVERED)
    worker = PushWorker(Spool.of_run(tmp_path, new_target()), backoff=AT_ONCE)
    worker.submit(add_snapshot(worker.spool, new_target(), size=1))
    until(lambda: len(attempts.asked) >= 2)
    assert worker.close(60)
    assert [xet for _, xet in attempts.asked] == [True, True, True, True], "failures are counted anew"


@pytest.mark.parametrize("left", [0, 1, 3])
def test_a_new_worker_pushes_the_newest_of_what_was_left_and_drops_the_rest(
    left: int, answered: Any, tmp_path: Path
) -> None:
    attempts = answered(DELIVERED)
    spool = Spool.of_run(tmp_path, new_target())
    for step in range(1, left + 1):
        add_snapshot(spool, new_target(), step, size=1)
    half_written = spool.stage()
    assert PushWorker(spool).close(60)
    assert [message for message, _ in attempts.asked] == ([f"step {left}"] if left else [])
    assert not half_written.exists()
    assert spool.lock(), "released"
    spool.unlock()
