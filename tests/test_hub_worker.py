"""The push worker against a local stand-in for the Hub that fails on purpose."""

from __future__ import annotations

import itertools
import json
import logging
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from deepsynth.hub.errors import Outcome
from deepsynth.hub.snapshot import Snapshot, Target
from deepsynth.hub.spool import Spool
from deepsynth.hub.worker import Backoff, PushWorker, resume
from tests.hub_server import HubProcess

TOKEN = "hf_" + "q7Zk3VbN" * 4
READ_ONLY = "hf_" + "r8Yl4WcM" * 4
QUICK = Backoff(first_s=0.05, longest_s=0.2)
TIMEOUT_S = 2.5

BOTH = [
    "/revision/",
    "repos/create",
    "branch/",
    "validate-yaml",
    "/preupload/",
    "/commit/",
    "/commits/",
    "/refs",
    "/tag/",
]
ROUTES = {
    "xet": [*BOTH, "xet-write-token", "__cas__/v1/xorbs", "__cas__/v2/shards"],
    "lfs": [*BOTH, "objects/batch", "__lfs__/upload", "__lfs__/verify", "__lfs__/part", "__lfs__/complete"],
}
HTML = {"body": "<html>sorry</html>"}
FAULTS = [
    *({"status": s, "when": "before"} for s in (400, 401, 403, 404, 408, 409, 412, 500, 502, 504)),
    *({"status": s, "when": "after"} for s in (400, 401, 403, 404, 408, 409, 412, 500, 502, 504)),
    *({"status": 429, "retry_after": 1, "when": w} for w in ("before", "after")),
    {"status": 503, "retry_after": 7200},
    *({"status": s, "when": "before", **HTML} for s in (401, 429, 503)),
    {"status": 503, "when": "after", **HTML},
    {"status": 429, "ratelimit_reset": 1},
    {"status": 500, "drain": False},
    *({"action": "drop", "when": w} for w in ("before", "mid_request", "mid_response", "after")),
    *({"action": "hang", "seconds": 5, "when": w} for w in ("before", "after")),
    {"action": "hang", "seconds": 5, "then": "drop"},
    {"action": "hang", "seconds": 5, "then": "status", "status": 503},
    {"action": "throttle", "bytes_per_sec": 400_000},
]
EVERY = [(mode, route, fault) for mode in ROUTES for route in ROUTES[mode] for fault in FAULTS]


AFTER, BEFORE = {"when": "after"}, {"when": "before"}
HANG = {"action": "hang", "seconds": 5}
#: A part of all cases: every kind of fault, before and after the effect, both ways of uploading.
SOME = [
    ("xet", "/revision/", {"action": "drop", "when": "mid_response"}),
    ("xet", "repos/create", {"status": 409, **AFTER}),
    ("lfs", "branch/", {"action": "drop", **AFTER}),
    ("xet", "validate-yaml", {"status": 401, **BEFORE, **HTML}),
    ("lfs", "/preupload/", {"status": 429, "ratelimit_reset": 1}),
    ("xet", "/commit/", {"action": "drop", **AFTER}),
    ("lfs", "/commit/", {**HANG, **AFTER}),
    ("lfs", "/commits/", {"status": 500, "drain": False}),
    ("xet", "xet-write-token", {"status": 403, **BEFORE}),
    ("xet", "__cas__/v1/xorbs", {"action": "drop", "when": "mid_request"}),
    ("xet", "__cas__/v2/shards", {**HANG, **BEFORE}),
    ("lfs", "__lfs__/part", {"action": "drop", **BEFORE}),
]


def name_of(case) -> str:
    mode, route, fault = case
    return f"{mode}-{route.strip('/').replace('/', '.')}-" + "-".join(str(v)[:9] for v in fault.values())


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


def use_hub(hub, monkeypatch, token=TOKEN, xet=None):
    env = hub.env(hub.home, token=token, xet=xet, redirect=False)
    for key in set(os.environ) - set(env):
        monkeypatch.delenv(key)
    for key, value in env.items():
        monkeypatch.setenv(key, value)


numbers = itertools.count()


def new_target(**kwargs) -> Target:
    return Target(f"alice/run{next(numbers)}", **kwargs)


def add_snapshot(spool: Spool, target: Target, step: int = 1, tag: str | None = None, size: int = 200_000) -> Snapshot:
    staged = spool.stage()
    (staged / "adapter_model.safetensors").write_bytes(f"step {step} ".encode() + os.urandom(size))
    (staged / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "step": step}))
    (staged / "README.md").write_text(f"---\nlibrary_name: peft\n---\nStep {step}\n")
    return spool.seal(staged, target, f"step {step}", tag=tag)


def until(condition) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end, "nothing happened for a minute"
        time.sleep(0.02)


def titles(hub, target: Target, revision: str | None = None) -> list[str]:
    found = hub.repo(target.repo_id).commits(revision or target.revision)
    return [commit["title"] for commit in found][:-1]  # without the Hub's own first commit


def contents(snapshot: Snapshot) -> dict[str, bytes]:
    return {name: snapshot.path(name).read_bytes() for name in snapshot.files}


def on_hub(hub, target: Target, revision: str | None = None) -> dict[str, bytes]:
    repo, revision = hub.repo(target.repo_id), revision or target.revision
    return {name: repo.read(name, revision) for name in repo.files(revision)}


def survive(hub, monkeypatch, tmp_path, case) -> None:
    """Whatever fails once: the snapshot arrives, once; at the latest when it is sent again by hand."""
    mode, route, fault = case
    use_hub(hub, monkeypatch, xet=None if mode == "xet" else False)
    target = new_target(revision="trained" if route == "branch/" else "main")
    spool = Spool.of_run(tmp_path, target)
    size = 700_000 if route in ("__lfs__/part", "__lfs__/complete") else 200_000  # in several parts, or in one
    snapshot = add_snapshot(spool, target, tag="step-1", size=size)
    files = contents(snapshot)
    if route == "/commits/":  # only a repeated attempt looks there
        snapshot.mark_attempted()
    hub.fault(path=route, **fault)
    PushWorker(spool, request_timeout_s=TIMEOUT_S, backoff=QUICK).close(120)
    assert hub.faults()[0]["hits"] == 1, "the fault was met"
    if not spool.is_empty():
        mended_by_a_person = fault.get("status") in (400, 401, 403, 404)
        assert mended_by_a_person or fault.get("retry_after") == 7200
        hub.clear_faults()
        resume(tmp_path, 120, backoff=QUICK)
    assert spool.is_empty()
    hub.wait_idle(quiet=0.1)  # a hanging request may still take effect
    assert titles(hub, target) == ["step 1"]
    assert on_hub(hub, target) == files
    assert on_hub(hub, target, "step-1") == files
    assert hub.repo(target.repo_id).meta["private"]
    assert hub.leaks() == []


@pytest.fixture(scope="module")
def warm_processes(hub):
    """Attempts in processes that are forked from one with huggingface_hub imported: ten times cheaper to start."""
    context = multiprocessing.get_context("forkserver")
    multiprocessing.set_forkserver_preload(["huggingface_hub.hf_api", "hf_xet", "deepsynth.hub.commit"])
    with pytest.MonkeyPatch.context() as patch:
        use_hub(hub, patch)
        context.Process(target=int).start()  # the fork server reads its environment now

    def run_attempt(snapshot, *, request_timeout_s, use_xet, cancelled):
        receiver, sender = context.Pipe(duplex=False)
        xet = use_xet and "HF_HUB_DISABLE_XET" not in os.environ
        # The fork server keeps the address of the first Hub that it met; pytest-xdist may give a worker these tests in
        # two parts, each with a Hub of its own.
        job = (sender, snapshot.folder, request_timeout_s, xet, dict(os.environ))
        process = context.Process(target=attempt_in_child, args=job)
        process.start()
        sender.close()
        try:
            while not receiver.poll(0.05):
                if cancelled():
                    return Outcome("retry", "the Hub did not finish in time")
            return receiver.recv()
        except EOFError:
            return Outcome("retry", "the push broke off")
        finally:
            process.kill()
            process.join()

    return run_attempt


def attempt_in_child(sender, folder, request_timeout_s, xet, environ):
    from huggingface_hub import constants

    from deepsynth.hub.client import use_timeouts
    from deepsynth.hub.commit import push_once

    os.environ.clear()
    os.environ.update(environ)
    constants.ENDPOINT = environ["HF_ENDPOINT"]
    constants.HF_HUB_DISABLE_XET = not xet
    os.environ.update(HF_XET_CLIENT_READ_TIMEOUT="3s", HF_XET_CLIENT_RETRY_MAX_ATTEMPTS="2")
    os.environ.update(HF_XET_CLIENT_RETRY_BASE_DELAY="1s")
    use_timeouts(request_timeout_s)
    sender.send(push_once(Snapshot.load(folder)))


@pytest.fixture
def warm(monkeypatch, warm_processes):
    monkeypatch.setattr("deepsynth.hub.worker.run_attempt", warm_processes)


@pytest.mark.parametrize("case", SOME, ids=name_of)
def test_a_fault_neither_loses_nor_doubles_a_push(hub, monkeypatch, tmp_path, warm, case):
    survive(hub, monkeypatch, tmp_path, case)


@pytest.mark.slow
@pytest.mark.parametrize("case", EVERY, ids=name_of)
def test_every_fault_at_every_route(hub, monkeypatch, tmp_path, warm, case):
    survive(hub, monkeypatch, tmp_path, case)


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
    assert time.monotonic() - begin < 30, "neither the 300 s of the request nor the 600 s of the Hub"
    assert "deepsynth hub resume" in caplog.text
    hub.clear_faults()
    assert resume(tmp_path, 60)[0].startswith(f"step 1 delivered to {target.repo_id}@main")
    assert on_hub(hub, target) == files
    assert titles(hub, target) == ["step 1"]


TRAINING = """
import sys, time
from pathlib import Path
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
        ("__lfs__/upload", "before"),
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
    resume(tmp_path, 60, backoff=QUICK)
    hub.wait_idle(quiet=0.1)
    assert titles(hub, target) == ["step 1"]
    assert on_hub(hub, target) == files
    assert [path.name for path in spool.folder.iterdir()] == ["lock"]
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
    assert worker.close(60)
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
    assert worker.close(60)
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
    assert not PushWorker(spool, backoff=QUICK).close(60)
    assert "hf auth login" in caplog.text
    with pytest.raises(ConnectionError, match="HTTP 401"):
        resume(tmp_path, 60, backoff=QUICK)


def test_a_public_repository_is_refused_when_private_was_asked_for(hub, tmp_path, caplog, warm):
    target = new_target()
    public = Target(target.repo_id, private=False)
    first = Spool.of_run(tmp_path / "a", public)
    add_snapshot(first, public)
    assert PushWorker(first, backoff=QUICK).close(60)
    second = Spool.of_run(tmp_path / "b", target)
    add_snapshot(second, target, step=2)
    assert not PushWorker(second, backoff=QUICK).close(60)
    assert "is public although private: true" in caplog.text
    assert titles(hub, target) == ["step 1"]


def test_a_commit_of_somebody_else_in_between_is_kept(hub, tmp_path, warm):
    target = new_target()
    spool = Spool.of_run(tmp_path, target)
    snapshot = add_snapshot(spool, target)
    hub.fault(path="/commit/", action="hang", seconds=2.5, when="before")  # sent, lost to us, and effective later
    other = Spool.of_run(tmp_path / "other", target)
    worker = PushWorker(spool, request_timeout_s=1, backoff=Backoff(4, 4))
    until(lambda: any(request["fault"] for request in hub.state()["inflight"]))
    add_snapshot(other, target, step=2)
    assert PushWorker(other, backoff=QUICK).close(60)
    assert worker.close(60)
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
        assert worker.close(60)
    repo = hub.repo(target.repo_id)
    assert repo.resolve("best") == repo.resolve("main")
    assert titles(hub, target) == ["step 2", "step 1"]


def test_one_pusher_a_spool(hub, tmp_path):
    target = new_target()
    spool = Spool.of_run(tmp_path, target)
    worker = PushWorker(spool)
    with pytest.raises(BlockingIOError, match="another run pushes from here"):
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
    assert worker.close(60)
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
