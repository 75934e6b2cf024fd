"""Adapters from the Hub, through faults, revisions and the cache."""

from __future__ import annotations

import json
import shutil

import pytest

from deepsynth.hub.snapshot import Target
from deepsynth.hub.spool import Spool
from tests.local_hub import local_hub, run_python

PUSH = """
import sys
from pathlib import Path
from deepsynth.hub.worker import resume
print(resume(Path(sys.argv[1]), 60))
"""
PULL = """
import sys
from pathlib import Path
from deepsynth.hub import pull
pull.time.sleep = lambda seconds: None
try:
    folder = pull.pull(sys.argv[1], *map(Path, sys.argv[2:]))
    print(folder)
except (ValueError, OSError) as error:
    sys.exit(f"{type(error).__name__}: {error}")
"""


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


def weights(done) -> bytes:
    from pathlib import Path

    return (Path(done.stdout.strip()) / "adapter_model.safetensors").read_bytes()


def test_each_revision_is_what_was_pushed_then(hub, tmp_path):
    shutil.rmtree(hub.home / "hub", ignore_errors=True)
    first = hub.repo("alice/ocr").commits()[1]["oid"]
    assert weights(run_python(hub, PULL, "hf://alice/ocr")) == b"weights of step 2"
    assert weights(run_python(hub, PULL, "hf://alice/ocr@step-1")) == b"weights of step 1"
    assert weights(run_python(hub, PULL, f"hf://alice/ocr@{first}")) == b"weights of step 1"
    folder = tmp_path / "pulled"
    assert weights(run_python(hub, PULL, "hf://alice/ocr@main", folder)) == b"weights of step 2"
    assert sorted(p.name for p in folder.iterdir()) == ["README.md", "adapter_config.json", "adapter_model.safetensors"]
    assert "is not empty" in run_python(hub, PULL, "hf://alice/ocr", folder, check=False).stderr


@pytest.mark.parametrize(
    "fault",
    [
        {"path": "/revision/", "status": 503},
        {"path": "adapter_model", "action": "drop", "when": "mid_response"},
        {"path": "adapter_config", "status": 429, "retry_after": 1},
    ],
)
def test_a_stumbling_hub_is_asked_again(hub, fault):
    shutil.rmtree(hub.home / "hub", ignore_errors=True)
    hub.fault(**fault)
    assert weights(run_python(hub, PULL, "hf://alice/ocr@main")) == b"weights of step 2"
    assert hub.faults()[0]["hits"] == 1


def test_without_a_hub_the_cache_must_do(hub):
    run_python(hub, PULL, "hf://alice/ocr")
    hub.fault(path="/revision/|/api/", status=503, times=-1)
    done = run_python(hub, PULL, "hf://alice/ocr")
    assert weights(done) == b"weights of step 2"
    assert "as it was last downloaded" in done.stderr
    assert weights(run_python(hub, PULL, "hf://alice/ocr", HF_HUB_OFFLINE="1")) == b"weights of step 2"
    assert (
        "ConnectionError: cannot reach hf://alice/other"
        in run_python(hub, PULL, "hf://alice/other", check=False).stderr
    )


def test_what_cannot_be_pulled_is_one_line(hub):
    for reference, complaint in (
        ("hf://alice/nothing", "ValueError: cannot read hf://alice/nothing: HTTP 404"),
        ("hf://alice/ocr@nowhere", "ValueError: cannot read hf://alice/ocr@nowhere: HTTP 404"),
    ):
        done = run_python(hub, PULL, reference, check=False)
        assert done.returncode == 1
        assert done.stderr.startswith(complaint)
        assert len(done.stderr.strip().splitlines()) == 1
    assert (
        "holds no adapter: adapter_config.json"
        in run_python(hub, PULL, f"hf://alice/ocr@{hub.repo('alice/ocr').commits()[-1]['oid']}", check=False).stderr
    )
    assert "HTTP 401" in run_python(hub, PULL, "hf://alice/ocr", check=False, token=None, HF_HOME="/nonexistent").stderr
