"""Adapters from the Hub on the command line, and runs that push: with faults, and stopped by signals."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time

import pytest
import torch

from deepsynth.hub.snapshot import Target
from deepsynth.hub.spool import Spool
from tests.cli.test_cli import TINY
from tests.helpers.local_hub import TOKEN, local_hub, run_python
from tests.helpers.training import make_module

RESUME = """
import sys
from pathlib import Path
from deepsynth.hub.worker import Backoff, resume
print(resume(Path(sys.argv[1]), 180, backoff=Backoff(0.05, 0.2)))
"""
#: Several commands in one process; the waits between attempts left out. A command that begins with "nobody" is run
#: without the token.
COMMANDS = """
import json, os, sys
from deepsynth.hub import pull
from deepsynth.__main__ import main
pull.time.sleep = lambda seconds: None
token = os.environ["HF_TOKEN"]
for command in json.loads(sys.argv[1]):
    os.environ["HF_TOKEN"] = token
    if command[0] == "nobody":
        del os.environ["HF_TOKEN"], command[0]
    sys.stderr.write(f"exit {main(command)}\\n")
"""


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    """A Hub with an adapter of rank 4, tagged ``step-1``, and the same in ``alice/cut``, which no test downloads."""
    folder = tmp_path_factory.mktemp("hub")
    with local_hub(folder, preload=("deepsynth.cli.main",)) as process:
        module = make_module(rank=4)
        module.configure_model()
        for name in ("ocr", "cut"):
            target = Target(f"alice/{name}")
            spool = Spool.of_run(folder, target)
            staged = spool.stage()
            module.save_adapter(staged / "files")
            spool.seal(staged / "files", target, "step 1", tag="step-1")
            spool.discard(staged)
        run_python(process, RESUME, folder)
        yield process


@pytest.fixture(autouse=True)
def prepare(hub, tmp_path, jsonl, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.yaml").write_text(TINY.replace("DOCS", str(jsonl)))
    hub.clear_faults()


def deepsynth(hub, *commands: list[str]) -> list[list[str]]:
    """Run commands and return, for each, what it said, the last line being its exit code."""
    arguments = ["--config", "tiny.yaml", "--trainer.logger=false", "--model.generation.samples=0"]
    asked = [command[:-1] + arguments + command[-1:] for command in commands]
    said = run_python(hub, COMMANDS, json.dumps(asked)).stderr.splitlines()
    found: list[list[str]] = [[]]
    for line in said:
        found[-1].append(line)
        if line.startswith("exit "):
            found.append([])
    return found[:-1]


@pytest.mark.slow
def test_every_command_starts_from_an_adapter_of_the_hub(hub, tmp_path):
    newest, tagged = "--ckpt_path=hf://alice/ocr", "--ckpt_path=hf://alice/ocr@step-1"
    short = ["--trainer.max_steps=1", "--trainer.limit_val_batches=1", "--trainer.limit_predict_batches=1"]
    commands = [["fit", *short[:2], tagged], ["validate", short[1], newest], ["predict", short[2], tagged]]
    for said, command in zip(deepsynth(hub, *commands), commands, strict=True):
        assert said[-1] == "exit 0", said
        name = command[-1].partition("=")[2]
        assert (
            f"starting from the weights of {name} alone, at step 0" if command[0] == "fit" else f"weights of {name}"
        ) in said
        assert "model.lora.rank: 4 as in the checkpoint, not 16" in said
    assert len(list((tmp_path / "runs").glob("*/predictions.jsonl"))) == 1


def test_help_needs_no_library_that_only_training_needs(hub):
    """In a process that has imported the command line and nothing else."""
    code = (
        "import sys; from deepsynth.__main__ import main; code = main(['fit', '--help']);"
        "heavy = {'peft', 'bitsandbytes', 'datasets'} & set(sys.modules);"
        "assert not heavy, heavy; assert 'deepsynth.cli.main' in sys.modules; sys.exit(code)"
    )
    assert "--model.lora.rank" in run_python(hub, code).stdout


def test_the_folder_may_stand_after_the_reference(hub, tmp_path):
    words = (["one"], ["--output", "two"], ["--output=three"])
    pulls = [["hub", "pull", "hf://alice/ocr", *folder] for folder in words]
    assert run_python(hub, COMMANDS, json.dumps(pulls)).stderr.count("exit 0") == 3
    pushed = sorted(name for name in hub.repo("alice/ocr").files() if name != ".gitattributes")
    assert {"adapter_config.json", "adapter_model.safetensors"} <= {*pushed}
    for name in ("one", "two", "three"):
        assert sorted(path.name for path in (tmp_path / name).iterdir()) == pushed


def test_parts_of_a_data_set_are_pushed_without_what_is_no_document(hub, tmp_path):
    rows = "".join(f'{{"id": "r{i}", "text": "row {i}"}}\n' for i in range(502))
    (tmp_path / "rows.jsonl").write_text('{"text": ""}\n' + rows.replace('"r7"', '"r6"'))
    page = [f"--data.renderer.{name}_px=40" for name in ("page_width", "page_height")] + ["--data.renderer.margin_px=2"]
    command = ["hub", "push-data", "--data.source=JsonlSource", f"--data.source.path={tmp_path / 'rows.jsonl'}", *page]
    command += ["--data.renderer.font_size_px=6", "--repo_id=alice/parts", "--data.on_error=skip"]
    parts = [[*command[:2], "--config", "tiny.yaml", *command[2:], "--shard", part] for part in ("1/2", "0/2", "0/2")]
    done = run_python(hub, COMMANDS, json.dumps(parts))
    assert done.stderr.count("exit 0") == 3
    named = [line for line in done.stdout.splitlines() if line.startswith("skipped: ")]
    assert [line.partition("rows.jsonl, ")[2][:7] for line in named] == ["line 1:", "line 9:"] * 3
    pushed = [line[:16] for line in done.stdout.splitlines() if line.startswith("data/train")]
    assert pushed == ["data/train-00001", "data/train-00000"]
    assert done.stdout.endswith("nothing to push: alice/parts@main is up to date\n")
    assert len([name for name in hub.repo("alice/parts", "dataset").files() if name.endswith(".parquet")]) == 2


def test_what_cannot_be_loaded_is_one_line(hub, tmp_path):
    hub.fault(path="adapter_model", action="drop", when="mid_response", times=-1)
    found = deepsynth(
        hub,
        ["validate", "--ckpt_path=hf://alice/nothing"],
        ["predict", "--ckpt_path=hf://alice/ocr@nowhere"],
        ["fit", "--ckpt_path=hf://ocr"],
        ["nobody", "fit", "--ckpt_path=hf://alice/ocr"],
        ["validate", "--ckpt_path=hf://alice/cut"],
    )
    assert [said[-1] for said in found] == ["exit 1"] * 5
    (no_repo,), (no_revision,), (malformed,), (nobody,), cut = [said[:-1] for said in found]
    assert no_repo == "deepsynth: hf://alice/nothing: it cannot be read (HTTP 404: Repository not found)"
    assert no_revision.startswith("deepsynth: hf://alice/ocr@nowhere: it cannot be read (HTTP 404")
    assert malformed == "deepsynth: the reference is 'hf://ocr'; it must be hf://owner/repo or hf://owner/repo@revision"
    assert nobody.startswith("deepsynth: hf://alice/ocr: it cannot be read (HTTP 401")
    assert "hf auth login" in nobody
    assert [line for line in cut if line.startswith("deepsynth:")] == cut[-1:]
    assert cut[-1].startswith("deepsynth: hf://alice/cut: the Hub cannot be reached (")
    kept = list(hub.home.rglob("models--alice--cut"))
    assert kept
    assert not [half for one in kept for half in one.rglob("adapter_model.safetensors")], "no half file counts as whole"
    assert not (tmp_path / "runs").exists()


PUSHING = """
trainer:
  callbacks+:
    - class_path: HubCheckpoint
      init_args: {repo_id: alice/REPO, every: 2, deadline_s: 3}
"""


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stopped_run_does_not_wait_for_a_hub_that_hangs(hub, tmp_path, number):
    repo = f"alice/stopped-{number.name.lower()}"
    (tmp_path / "pushing.yaml").write_text(PUSHING.replace("alice/REPO", repo))
    hub.fault(path=repo, action="hang", seconds=600, times=-1)
    hub.fault(path="repos/create", action="hang", seconds=600, times=-1)
    command = ["fit", "--config", "tiny.yaml", "--config", "pushing.yaml", "--trainer.max_steps=100000"]
    process = subprocess.Popen(
        [sys.executable, "-m", "deepsynth", *command, "--trainer.limit_val_batches=0", "--run_name=run"],
        env=hub.env(hub.home, token=TOKEN, redirect=False, OMP_NUM_THREADS="1"),
        stderr=subprocess.PIPE,
        text=True,
    )
    spool = tmp_path / "runs/run/hub_spool"
    try:
        end = time.monotonic() + 300
        while not list(spool.glob("*/[0-9]*-*")) or not hub.state()["inflight"]:
            assert process.poll() is None, process.stderr and process.stderr.read()
            assert time.monotonic() < end, "no push began"
            time.sleep(0.1)
        process.send_signal(number)
        begin = time.monotonic()
        _, said = process.communicate(timeout=300)
    finally:
        process.kill()
    assert time.monotonic() - begin < 300, "the Hub would have held it up for ten minutes"
    assert process.returncode == 143
    assert "Traceback" not in said
    assert "deepsynth hub resume" in said
    step = torch.load(tmp_path / "runs/run/checkpoints/last.ckpt", weights_only=True)["global_step"]
    assert step >= 2
    hub.clear_faults()
    hub.wait_idle()
    run_python(hub, RESUME, tmp_path / "runs/run")
    assert [commit["title"] for commit in hub.repo(repo).commits()][:-1] == [f"Step {step}"], "the newest, once"
