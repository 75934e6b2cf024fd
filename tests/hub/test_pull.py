"""Adapters from the Hub, through faults, revisions and the cache."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled

from deepsynth.errors import UserError
from deepsynth.hub.client import HubUnreachableError
from deepsynth.hub.pull import Reference, is_reference, resolve_checkpoint, with_retries
from deepsynth.hub.snapshot import Target
from deepsynth.hub.spool import Spool
from tests.helpers.local_hub import local_hub, run_python

PUSH = """
import sys
from pathlib import Path
from deepsynth.hub.worker import resume
print(resume(Path(sys.argv[1]), 180))
"""
PULL = """
import json, sys, time
from pathlib import Path
from deepsynth.hub.pull import pull

time.sleep = lambda seconds: None
for reference in sys.argv[1:]:
    try:
        folder = pull(*[Path(part) if i else part for i, part in enumerate(reference.split(" "))])
        print((folder / "adapter_model.safetensors").read_text(), "|", *sorted(p.name for p in folder.iterdir()))
    except ValueError as error:
        print(f"{type(error).__name__}: {error}")
"""
ALL = "README.md adapter_config.json adapter_model.safetensors"


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hub")
    with local_hub(folder, preload=("deepsynth.hub.pull", "deepsynth.hub.worker")) as process:
        for step in (1, 2):
            target = Target("alice/ocr")
            spool = Spool.of_run(folder, target)
            staged = spool.stage()
            (staged / "adapter_model.safetensors").write_bytes(b"weights of step %d" % step)
            (staged / "adapter_config.json").write_text(json.dumps({"r": 4, "step": step}))
            (staged / "README.md").write_text("# ocr\n")
            spool.seal(staged, target, f"step {step}", tag=f"step-{step}")
            run_python(process, PUSH, folder)
        yield process


@pytest.fixture(autouse=True)
def no_faults(hub):
    hub.clear_faults()


def pulled(hub, *references: str, **settings) -> list[str]:
    return run_python(hub, PULL, *references, **settings).stdout.splitlines()


def test_each_revision_is_what_was_pushed_then(hub, tmp_path):
    first = hub.repo("alice/ocr").commits()[1]["oid"]
    folder = tmp_path / "pulled"
    references = ["hf://alice/ocr", "hf://alice/ocr@step-1", f"hf://alice/ocr@{first}", f"hf://alice/ocr@main {folder}"]
    *found, again = pulled(hub, *references, f"hf://alice/ocr {folder}")
    assert found == [f"weights of step {step} | {ALL}" for step in (2, 1, 1, 2)]
    assert again == f"UserError: {folder}: it is not an empty folder; give one that is new or empty"


def test_a_stumbling_hub_is_asked_again(hub):
    shutil.rmtree(hub.home / "hub", ignore_errors=True)
    hub.fault(path="/revision/", status=503, times=2)
    hub.fault(path="adapter_model", action="drop", when="mid_response")
    hub.fault(path="adapter_config", status=429, retry_after=1)
    assert pulled(hub, "hf://alice/ocr@main") == [f"weights of step 2 | {ALL}"]
    assert all(fault["exhausted"] for fault in hub.faults())


def test_without_a_hub_the_cache_must_do(hub):
    pulled(hub, "hf://alice/ocr")
    hub.fault(path="/api/", status=503, times=-1)
    found, missing = pulled(hub, "hf://alice/ocr", "hf://alice/other")
    assert found == f"weights of step 2 | {ALL}"
    assert missing == "HubUnreachableError: hf://alice/other: the Hub cannot be reached (HTTP 503: Service Unavailable)"
    assert pulled(hub, "hf://alice/ocr", HF_HUB_OFFLINE="1") == [found]


def test_what_cannot_be_pulled_is_one_line(hub):
    empty = hub.repo("alice/ocr").commits()[-1]["oid"]
    no_repo, no_revision, no_adapter = pulled(
        hub, "hf://alice/nothing", "hf://alice/ocr@nowhere", f"hf://alice/ocr@{empty}"
    )
    assert no_repo == "UserError: hf://alice/nothing: it cannot be read (HTTP 404: Repository not found)"
    assert no_revision.startswith("UserError: hf://alice/ocr@nowhere: it cannot be read (HTTP 404")
    assert no_adapter == (
        f"UserError: hf://alice/ocr@{empty}: not an adapter, adapter_config.json, adapter_model.safetensors is "
        "missing; it has .gitattributes"
    )
    (refused,) = pulled(hub, "hf://alice/ocr", token=None, HF_HOME="/nonexistent")
    assert "HTTP 401" in refused


def test_a_cache_that_cannot_be_written_is_named(hub, tmp_path):
    (tmp_path / "file").write_text("in the way")
    (said,) = pulled(hub, "hf://alice/ocr", HF_HOME=str(tmp_path / "file/home"))
    assert said.startswith(f"UserError: the download cannot be written ({tmp_path}/file/home: Not a directory); make")


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The waits between calls, on a clock that only they move."""
    slept: list[float] = []
    monkeypatch.setattr(time, "sleep", slept.append)
    monkeypatch.setattr(time, "monotonic", lambda: sum(slept, 5.0))
    return slept


class Asked(RuntimeError):
    """An error of the Hub that may pass."""


def test_a_call_is_repeated_after_longer_and_longer_waits(waits: list[float]) -> None:
    errors = iter([Asked("one"), OSError("two"), ValueError("three"), Asked("four")])

    def call() -> str:
        for error in errors:
            raise error
        return "found"

    assert with_retries("alice/x", call) == "found"
    assert waits == [1.0, 2.0, 4.0, 8.0]


def test_the_fifth_failure_is_the_last(waits: list[float]) -> None:
    def call() -> str:
        raise RuntimeError(f"number {len(waits) + 1}")

    with pytest.raises(HubUnreachableError, match=r"^alice/x: the Hub cannot be reached \(RuntimeError: number 5\)$"):
        with_retries("alice/x", call)
    assert waits == [1.0, 2.0, 4.0, 8.0]


@pytest.mark.parametrize(("asked", "expected"), [("7", [7.0] * 4), ("300", [30.0, 30.0, 30.0]), ("20", [20.0] * 4)])
def test_a_call_waits_as_long_as_the_hub_asks_within_a_minute_of_patience(
    asked: str, expected: list[float], waits: list[float]
) -> None:
    response = SimpleNamespace(status_code=429, headers={"Retry-After": asked}, request=None)

    def call() -> str:
        raise HfHubHTTPError("slow down", response=response)  # type: ignore[arg-type]

    with pytest.raises(HubUnreachableError, match="HTTP 429"):
        with_retries("alice/x", call)
    assert waits == expected


@pytest.mark.parametrize(
    ("error", "raised", "message"),
    [
        (OfflineModeIsEnabled("x"), HubUnreachableError, "alice/x: the Hub cannot be reached (HF_HUB_OFFLINE is set"),
        (HFValidationError("bad"), UserError, "alice/x: it cannot be read (HFValidationError: bad)"),
        (KeyError("a bug"), KeyError, "'a bug'"),
    ],
)
def test_what_no_wait_can_mend_is_raised_at_once(
    error: Exception, raised: type[Exception], message: str, waits: list[float]
) -> None:
    def call() -> str:
        raise error

    with pytest.raises(raised) as caught:
        with_retries("alice/x", call)
    assert type(caught.value) is raised
    assert str(caught.value).startswith(message)
    assert waits == []


def test_only_a_reference_is_downloaded(tmp_path):
    for path in (tmp_path, str(tmp_path), "runs/hf/adapter", "alice/ocr"):
        assert resolve_checkpoint(path) == Path(path)
    with pytest.raises(UserError, match="the reference is 'hf://alice'; it must be hf://owner/repo"):
        resolve_checkpoint("hf://alice")


def test_a_run_stands_for_its_newest_weights(tmp_path):
    (tmp_path / "adapter").mkdir()
    assert resolve_checkpoint(tmp_path) == tmp_path  # no run wrote it
    (tmp_path / "config.yaml").write_text("")
    assert resolve_checkpoint(str(tmp_path)) == tmp_path / "adapter"
    assert resolve_checkpoint(tmp_path / "adapter") == tmp_path / "adapter"


@pytest.mark.parametrize(
    ("text", "repo_id", "revision"),
    [
        ("hf://alice/ocr", "alice/ocr", None),
        ("hf://alice/ocr@v1", "alice/ocr", "v1"),
        ("hf://alice/ocr@refs/pr/1", "alice/ocr", "refs/pr/1"),
        ("hf://a-b/_c.d@x", "a-b/_c.d", "x"),
    ],
)
def test_references_are_read_and_written(text: str, repo_id: str, revision: str | None) -> None:
    assert Reference.parse(text) == Reference(repo_id, revision)
    assert str(Reference.parse(text)) == text
    assert is_reference(text)


@pytest.mark.parametrize(
    "text", ["hf://alice", "hf://", "alice/ocr", "hf://a/b@", "hf://a/b/c", "hf://a/b@x y", "hf://.a/b"]
)
def test_what_is_no_reference_is_refused(text: str) -> None:
    with pytest.raises(UserError, match=r"must be hf://owner/repo or hf://owner/repo@revision$"):
        Reference.parse(text)
    assert not is_reference(None)
    assert not is_reference(Path("hf:/a/b"))
    assert not is_reference("runs/hf://a/b")


def test_a_page_of_a_network_in_between_passes(hub):
    shutil.rmtree(hub.home / "hub", ignore_errors=True)
    hub.fault(path="/revision/", status=200, body="<html>log in to this network</html>", times=2)
    assert pulled(hub, "hf://alice/ocr@main") == [f"weights of step 2 | {ALL}"]
    shutil.rmtree(hub.home / "hub")
    hub.fault(path="/revision/", status=200, body="<html>log in to this network</html>", times=-1)
    (missing,) = pulled(hub, "hf://alice/ocr@main")
    assert missing.endswith("the Hub cannot be reached (the reply is not JSON)")


HOSTILE = ("optimizer.pt", "model.bin", "evil.py", "sub/adapter_config.json", "a" * 200, "x\x1b[31m.json", "-rf")


def test_nothing_but_the_files_of_an_adapter_is_downloaded(hub, tmp_path):
    target = Target("alice/hostile")
    spool = Spool.of_run(tmp_path, target)
    staged = spool.stage()
    for name in (*HOSTILE, "adapter_config.json", "adapter_model.safetensors"):
        (staged / name).parent.mkdir(exist_ok=True)
        (staged / name).write_bytes(b"{}")
    spool.seal(staged, target, "hostile")
    run_python(hub, PUSH, tmp_path)
    assert set(HOSTILE) < set(hub.repo("alice/hostile").files())
    folder = tmp_path / "pulled"
    pulled(hub, f"hf://alice/hostile {folder}")
    assert sorted(path.name for path in folder.rglob("*")) == ["adapter_config.json", "adapter_model.safetensors"]
    cached = hub.home / "hub/models--alice--hostile/snapshots"
    assert sorted(path.name for path in cached.rglob("*") if path.is_file()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]


#: What a Hub does that is there but does not deliver, at each phase of a pull.
NEVER_DONE = {
    "hang": {"action": "hang", "seconds": 3600},
    "drip": {"action": "throttle", "bytes_per_sec": 1},
    "wait": {"status": 429, "retry_after": 7200},
}
PHASES = {
    "description": {"path": "/api/models/"},
    "head": {"method": "HEAD", "path": "/resolve/.*adapter_model"},
    "file": {"method": "GET", "path": "/resolve/.*adapter_model"},
}
#: A reply without content cannot drip.
CASES = [(phase, fault) for phase in PHASES for fault in NEVER_DONE if (phase, fault) != ("head", "drip")]
#: Pulls an adapter under each of the faults, with short limits of the phase that a fault is for.
PULL_UNDER = """
import json, os, shutil, sys, urllib.request
from pathlib import Path
from deepsynth.hub import pull, pull_process

def faults(method, body=b""):
    request = urllib.request.Request(os.environ["HF_ENDPOINT"] + "/__faults__", body, method=method)
    urllib.request.urlopen(request).read()

pull.PATIENCE_S = 0
description_s = pull_process.DESCRIPTION_S
pull_process.FILE_S = 2
for fault in json.loads(sys.argv[1]):
    pull_process.DESCRIPTION_S = 2 if fault["path"].startswith("/api") else description_s
    shutil.rmtree(Path(os.environ["HF_HOME"]) / "hub", ignore_errors=True)
    faults("POST", json.dumps(fault).encode())
    try:
        print("pulled", pull.pull("hf://alice/ocr@main"))
    except ValueError as error:
        print(f"{type(error).__name__}: {error}")
    faults("DELETE")
print("pulled" if pull.pull("hf://alice/ocr@main").is_dir() else "nothing")
"""


def test_a_hub_that_never_delivers_holds_no_pull(hub):
    some = [("description", "hang"), ("head", "hang"), ("file", "drip"), ("file", "wait")]
    cases = [{**PHASES[phase], **NEVER_DONE[fault], "times": -1} for phase, fault in some]
    *said, then = run_python(hub, PULL_UNDER, json.dumps(cases)).stdout.splitlines()
    assert len(said) == len(cases)
    assert set(said) == {
        "HubUnreachableError: hf://alice/ocr@main: the Hub cannot be reached (it did not finish within 2 s)"
    }
    assert then == "pulled", "nothing that was half done is left"


@pytest.mark.slow
@pytest.mark.parametrize(("phase", "fault"), CASES)
def test_a_hub_that_never_delivers_ends_in_one_line_within_minutes(hub, phase, fault):
    shutil.rmtree(hub.home / "hub", ignore_errors=True)
    hub.fault(**PHASES[phase], **NEVER_DONE[fault], times=-1)
    begin = time.monotonic()
    (said,) = pulled(hub, "hf://alice/ocr@main")
    assert said.startswith("HubUnreachableError: hf://alice/ocr@main: the Hub cannot be reached (")
    assert time.monotonic() - begin < 190  # a description of 30 s after 60 s of others, then a file alike
