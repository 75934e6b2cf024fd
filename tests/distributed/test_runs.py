"""Runs of several processes as users start them: torchrun, SLURM, one command; how they end."""

from __future__ import annotations

import csv
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from tests.helpers.processes import free_port

ROOT = Path(__file__).parents[2]
CONFIG = """
model:
  init_args: {generation: {max_new_tokens: 4, samples: 4}, schedule: constant}
data:
  init_args:
    source: {class_path: JsonlSource, init_args: {path: DOCS}}
    renderer:
      class_path: TextRenderer
      init_args: {page_width_px: 384, page_height_px: 384, margin_px: 10, font_size_px: 14}
    batch_size: BATCH
    val_fraction: 0.4
    test_fraction: 0
trainer: {accelerator: cpu, max_steps: 6, enable_progress_bar: false, log_every_n_steps: 1, num_sanity_val_steps: 0}
"""


def write_config(folder: Path, documents: Path, batch_size: int) -> None:
    """Write a configuration on three times the documents: every process has some of the validation's."""
    rows = [json.loads(line) for line in documents.read_text().splitlines()]
    many = [{"id": f"{row['id']}-{copy}", "text": row["text"]} for copy in range(3) for row in rows]
    documents = folder / "many.jsonl"
    documents.write_text("".join(json.dumps(row) + "\n" for row in many))
    (folder / "run.yaml").write_text(CONFIG.replace("DOCS", str(documents)).replace("BATCH", str(batch_size)))


def environment() -> dict[str, str]:
    path = f"{ROOT / 'src'}{os.pathsep}{ROOT}"
    return {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}


def losses(folder: Path) -> list[float]:
    with (folder / "metrics.csv").open() as file:
        return [float(row["train/loss"]) for row in csv.DictReader(file) if row["train/loss"]]


def wait_for(file: Path, process: subprocess.Popen[str], seconds: float = 300.0) -> None:
    deadline = time.monotonic() + seconds
    while not file.exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.2)


def run_command(command: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(command, cwd=folder, env=environment(), capture_output=True, text=True, timeout=580)
    assert done.returncode == 0, done.stderr[-4000:]
    return done


@pytest.mark.slow
def test_the_torchrun_line_trains_in_four_processes_as_one_does(tmp_path: Path, jsonl: Path) -> None:
    write_config(tmp_path, jsonl, 4)
    deepsynth = [sys.executable, "-m", "deepsynth"]
    steps = "--trainer.max_steps=3"  # an epoch of one process has a fourth, of the samples that four leave over
    run_command([*deepsynth, "fit", "--config", "run.yaml", "--run_name=one", steps], tmp_path)
    write_config(tmp_path, jsonl, 1)
    guide = (ROOT / "docs/guides/several-gpus.md").read_text()
    line = re.search(r"^torchrun (.*) -m deepsynth (.*)$", guide, re.MULTILINE)
    assert line is not None
    options = line.group(2).replace("--config quickstart", "--config run.yaml")
    launcher = [sys.executable, "-m", "torch.distributed.run", *line.group(1).split()]
    port = str(free_port())
    nodes = []
    for rank in range(2):  # two machines of two processes each, both here
        words = [*launcher, "-m", "deepsynth", *options.split(), "--run_name=four", steps]
        for option, value in (("--node-rank", str(rank)), ("--nproc-per-node", "2"), ("--master-port", port),
                              ("--master-addr", "127.0.0.1")):  # fmt: skip
            words[words.index(option) + 1] = value
        words = ["--trainer.devices=2" if word == "--trainer.devices=4" else word for word in words]
        nodes.append(subprocess.Popen(words, cwd=tmp_path, env=environment(), stderr=subprocess.PIPE, text=True))
    for node in nodes:
        _, said = node.communicate(timeout=580)
        assert node.returncode == 0, said[-4000:]
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == ["four", "one"]
    assert losses(tmp_path / "runs/four") == pytest.approx(losses(tmp_path / "runs/one"), rel=1e-3)
    assert len(losses(tmp_path / "runs/four")) == 3


@pytest.mark.slow
@pytest.mark.parametrize("overlay", ["trainer/ddp", "trainer/fsdp2"])
def test_one_command_validates_and_predicts_in_two_processes_as_in_one(
    overlay: str, tmp_path: Path, jsonl: Path
) -> None:
    write_config(tmp_path, jsonl, 1)
    deepsynth = [sys.executable, "-m", "deepsynth"]
    run_command([*deepsynth, "fit", "--config", "run.yaml", "--run_name=one", "--trainer.max_steps=2"], tmp_path)
    last = tmp_path / "runs/one/checkpoints/last.ckpt"
    several = ["--config", overlay, "--trainer.devices=2", "--run_name=two"]
    for arguments in ([], several):
        run = ["--config", "run.yaml", *arguments, "--ckpt_path", str(last.rename(tmp_path / "one.ckpt"))]
        last = tmp_path / "one.ckpt"
        run_command([*deepsynth, "predict", *run], tmp_path)
    names = list((tmp_path / "runs").rglob("predictions*.jsonl"))
    assert len(names) == 2, names
    first, second = (path.read_text() for path in names)
    assert first == second
    assert [json.loads(row)["id"] for row in first.splitlines()] == [
        f"d{i}-{copy}" for copy in range(3) for i in range(8)
    ]


SRUN = """
import os, signal, subprocess, sys, time
command = [word for word in sys.argv[1:] if word != "--kill-on-bad-exit=1"]
nodes, tasks = int(os.environ["SLURM_NNODES"]), int(os.environ["SLURM_NTASKS_PER_NODE"])
started = []
for rank in range(nodes * tasks):
    own = {"SLURM_PROCID": rank, "SLURM_LOCALID": rank % tasks, "SLURM_NODEID": rank // tasks}
    own |= {"SLURM_NTASKS": nodes * tasks, "SLURM_JOB_NAME": "deepsynth-fit", "SLURM_JOB_NODELIST": "localhost"}
    started.append(subprocess.Popen(command, env={**os.environ, **{name: str(value) for name, value in own.items()}}))
notice = os.environ.get("NOTICE_AFTER")
while notice and not os.path.exists(notice) and all(one.poll() is None for one in started):
    time.sleep(0.2)
if notice:
    for one in started:
        one.send_signal(signal.SIGUSR1)
sys.exit(max(one.wait() for one in started))
"""


@pytest.mark.slow
def test_the_slurm_script_goes_on_after_a_notice(tmp_path: Path, jsonl: Path) -> None:
    write_config(tmp_path, jsonl, 1)
    text = (ROOT / "docs/guides/several-gpus.md").read_text()
    script = re.search(r"```bash\n(#!/usr/bin/env bash\n#SBATCH.*?)```", text, re.DOTALL)
    assert script is not None
    words = script.group(1).replace("--config quickstart", "--config run.yaml")
    steps = "--trainer.max_steps=${STEPS} "
    (tmp_path / "train.sbatch").write_text(words.replace('--run_name "$run"', steps + '--run_name "$run"'))
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "srun.py").write_text(SRUN)
    for name, line in (("srun", f'exec {sys.executable} {programs}/srun.py "$@"'),
                       ("deepsynth", f'exec {sys.executable} -m deepsynth "$@"'),
                       ("scontrol", f'echo "$@" >>{tmp_path}/requeued')):  # fmt: skip
        (programs / name).write_text(f"#!/bin/sh\n{line}\n")
        (programs / name).chmod(0o755)
    cluster = {
        **environment(),
        "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
        "SLURM_NNODES": "2",
        "SLURM_NTASKS_PER_NODE": "1",
        "SLURM_JOB_ID": "4242",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
    }
    notice = {"STEPS": "100000", "NOTICE_AFTER": str(tmp_path / "runs/mine/metrics.csv")}
    first = subprocess.run(["bash", "train.sbatch"], cwd=tmp_path, env={**cluster, **notice}, capture_output=True,
                           text=True, timeout=580)  # fmt: skip
    assert first.returncode == 143, first.stderr[-4000:]
    assert (tmp_path / "requeued").read_text() == "requeue 4242\n"
    last = tmp_path / "runs/mine/checkpoints/last.ckpt"
    step = torch.load(last, weights_only=True)["global_step"]
    assert step > 0
    again = {"STEPS": str(step + 2), "MASTER_PORT": str(free_port())}
    second = subprocess.run(["bash", "train.sbatch"], cwd=tmp_path, env={**cluster, **again}, capture_output=True,
                            text=True, timeout=580)  # fmt: skip
    assert second.returncode == 0, second.stderr[-4000:]
    assert torch.load(last, weights_only=True)["global_step"] == step + 2
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["mine"]


def start(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "deepsynth", "fit", "--config", "run.yaml", *arguments, "--trainer.devices=2"]
    # A group of its own stands for a terminal's foreground: Ctrl-C goes to all processes in it.
    return subprocess.Popen(
        command, cwd=folder, env=environment(), stderr=subprocess.PIPE, text=True, start_new_session=True
    )


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_a_process_that_fails_ends_the_run_with_its_error(rank: int, tmp_path: Path, jsonl: Path) -> None:
    write_config(tmp_path, jsonl, 1)
    marker = tmp_path / "failed"
    fault = {
        "class_path": "tests.helpers.faults.FailOnRank",
        "init_args": {"rank": rank, "step": 4, "marker": str(marker)},
    }
    limit = "--trainer.limit_train_batches=3"  # an epoch ends before, with a checkpoint
    process = start(tmp_path, "--trainer.strategy=ddp", limit, "--trainer.callbacks", json.dumps([fault]))
    _, said = process.communicate(timeout=580)
    assert time.time() - float(marker.read_text()) < 60
    assert process.returncode not in (0, 143)
    assert f"deepsynth: rank {rank}: planted failure" in said
    last = tmp_path / "runs/run/checkpoints/last.ckpt"
    step = torch.load(last, weights_only=True)["global_step"]
    assert step == 3
    arguments = ["--config", "run.yaml", "--ckpt_path", str(last), f"--trainer.max_steps={step + 1}"]
    run_command([sys.executable, "-m", "deepsynth", "fit", *arguments], tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(("overlay", "number"), [("trainer/fsdp2", signal.SIGTERM), ("trainer/ddp", signal.SIGINT)])
def test_a_signal_ends_all_processes_with_a_checkpoint(overlay: str, number: int, tmp_path: Path, jsonl: Path) -> None:
    write_config(tmp_path, jsonl, 1)
    several = ["--config", overlay, "--data.num_workers=1"]
    process = start(tmp_path, "--trainer.max_steps=100000", *several)
    try:
        wait_for(tmp_path / "runs/run/metrics.csv", process)
        if number == signal.SIGINT:
            os.killpg(process.pid, number)
        else:
            process.send_signal(number)
        _, said = process.communicate(timeout=240)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 143, said[-4000:]
    last = tmp_path / "runs/run/checkpoints/last.ckpt"
    step = torch.load(last, weights_only=True)["global_step"]
    assert step > 0
    arguments = ["--config", "run.yaml", "--ckpt_path", str(last), f"--trainer.max_steps={step + 1}"]
    run_command([sys.executable, "-m", "deepsynth", "fit", *arguments], tmp_path)
    assert torch.load(last, weights_only=True)["global_step"] == step + 1


@pytest.mark.slow
@pytest.mark.parametrize("hook", [None, "on_fit_start", "on_train_start"])
def test_a_signal_before_the_first_step_ends_all_processes_at_once(
    hook: str | None, tmp_path: Path, jsonl: Path
) -> None:
    """While the processes meet, load and prepare: nothing is left, neither a process nor a file nor a traceback."""
    write_config(tmp_path, jsonl, 1)
    marker = tmp_path / "waits"
    callback = {"class_path": "tests.helpers.faults.Waits", "init_args": {"hook": hook, "marker": str(marker)}}
    process = start(
        tmp_path, "--trainer.strategy=ddp", *(["--trainer.callbacks", json.dumps([callback])] if hook else [])
    )
    said = ""
    try:
        if hook:
            wait_for(marker, process)
        else:
            assert process.stderr is not None
            while "GLOBAL_RANK: 0" not in said:
                said += process.stderr.readline()
        begin = time.monotonic()
        process.send_signal(signal.SIGTERM)
        said += process.communicate(timeout=240)[1]  # until the last process has closed it
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 143, said[-4000:]
    assert time.monotonic() - begin < 200, "it waits for ten minutes"
    assert "Traceback" not in said
    assert not (tmp_path / "runs").exists()
