"""Adapters from the Hub, through faults, revisions and the cache."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from deepsynth.errors import UserError
from deepsynth.hub.pull import resolve_checkpoint
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
    with local_hub(folder) as process:
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
    assert no_adapter.startswith(f"UserError: hf://alice/ocr@{empty}: not an adapter, adapter_config.json, ")
    (refused,) = pulled(hub, "hf://alice/ocr", token=None, HF_HOME="/nonexistent")
    assert "HTTP 401" in refused


def test_only_a_reference_is_downloaded(tmp_path):
    for path in (tmp_path, str(tmp_path), "runs/hf/adapter", "alice/ocr"):
        assert resolve_checkpoint(path) == Path(path)
    with pytest.raises(UserError, match="the reference is 'hf://alice'; it must be hf://owner/repo"):
        resolve_checkpoint("hf://alice")


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


@pytest.mark.slow
@pytest.mark.parametrize(
    "fault",
    [
        {"path": "/revision/"},
        {"method": "GET", "path": "/resolve/"},
    ],
    ids=["description", "file"],
)
def test_a_hub_that_hangs_ends_in_one_line(hub, fault):
    shutil.rmtree(hub.home / "hub", ignore_errors=True)
    hub.fault(action="hang", seconds=3600, times=-1, **fault)
    (said,) = pulled(hub, "hf://alice/ocr@main")
    assert said.startswith("HubUnreachableError: hf://alice/ocr@main: the Hub cannot be reached (")


def test_the_folder_may_stand_after_the_reference(hub, tmp_path):
    code = "import sys; from deepsynth.__main__ import main; sys.exit(main(sys.argv[1:]))"
    for words in (["pulled"], ["--output", "named"], ["--output=equal"]):
        folder = tmp_path / words[-1].rpartition("=")[2]
        words[-1] = words[-1].replace(folder.name, str(folder))
        run_python(hub, code, "hub", "pull", "hf://alice/ocr", *words)
        assert sorted(path.name for path in folder.iterdir()) == ALL.split()
