"""The folder of a run: one run's alone, while that is alive."""

from __future__ import annotations

import multiprocessing
import os
import signal
from itertools import islice
from multiprocessing.connection import Connection
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from jsonargparse import ArgumentParser

from deepsynth.cli.run_folder import LOCK_FILE, RunConfig, RunFolder, free_names, run_of
from deepsynth.errors import UserError


def contents(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def claim_and_wait(root: Path, pipe: Connection) -> None:
    pipe.recv()
    folder = RunFolder.claim(root, "run")
    pipe.send(folder.path.name)
    pipe.recv()


def test_runs_of_one_name_that_start_together_get_a_folder_each(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    pipes = [context.Pipe() for _ in range(6)]
    processes = [context.Process(target=claim_and_wait, args=(tmp_path / "runs", theirs)) for _, theirs in pipes]
    for process in processes:
        process.start()
    for mine, _ in pipes:
        mine.send("go")
    names = sorted(mine.recv() for mine, _ in pipes)
    for mine, _ in pipes:
        mine.send("end")
    for process in processes:
        process.join()
    assert names == ["run", "run-2", "run-3", "run-4", "run-5", "run-6"]


def test_a_folder_is_free_again_when_its_run_was_killed_before_it_wrote_anything(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    mine, theirs = context.Pipe()
    process = context.Process(target=claim_and_wait, args=(tmp_path, theirs))
    process.start()
    mine.send("go")
    assert mine.recv() == "run"
    assert RunFolder.claim(tmp_path, "run").path == tmp_path / "run-2"
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert contents(tmp_path / "run") == [LOCK_FILE]
    assert RunFolder.claim(tmp_path, "run").path == tmp_path / "run"


def test_a_folder_with_files_is_another_run_s_and_an_empty_one_is_free(tmp_path: Path) -> None:
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    (tmp_path / "run" / "checkpoints" / "last.ckpt").write_text("weights")
    (tmp_path / "run-2" / "empty").mkdir(parents=True)
    (tmp_path / "run-3").write_text("a file")
    first = RunFolder.claim(tmp_path, "run")
    second = RunFolder.claim(tmp_path, "run")
    assert [first.path.name, second.path.name] == ["run-2", "run-4"]
    first.release()
    second.release()
    assert contents(tmp_path / "run-2") == ["empty"], "what was there stays"
    assert not (tmp_path / "run-4").exists(), "what is empty goes"


def test_a_run_that_is_alive_is_not_resumed(tmp_path: Path) -> None:
    folder = RunFolder.claim(tmp_path, "run")
    (folder.path / "config.yaml").write_text("")
    with pytest.raises(UserError, match=rf"run: its run is still running \(process {os.getpid()} on .*\); wait"):
        RunFolder.resume(folder.path)
    folder.release()
    resumed = RunFolder.resume(folder.path)
    with pytest.raises(UserError, match="still running"):
        RunFolder.resume(folder.path)
    resumed.release()
    assert contents(tmp_path) == ["run", "run/config.yaml"]


STARTED = (
    "config.yaml",
    "hparams.yaml",
    "gallery.html",
    "tensorboard/hparams.yaml",
    "hub_spool/x/lock",
    "logs/events.out.tfevents.123.machine.0",
)


def write(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("something")


@pytest.mark.parametrize(
    ("more", "text", "stays"),
    [
        (None, "", False),
        ("predictions.jsonl", "", False),
        ("predictions.jsonl", "{}", True),
        ("checkpoints/last.ckpt", "weights", True),
        ("metrics.csv", "step", True),
    ],
)
def test_a_run_that_did_nothing_leaves_no_folder(more: str | None, text: str, stays: bool, tmp_path: Path) -> None:
    run = RunFolder.claim(tmp_path, "run")
    write(run.path, *STARTED)
    if more is not None:
        (run.path / more).parent.mkdir(exist_ok=True)
        (run.path / more).write_text(text)
    before = contents(run.path)
    run.discard_start()
    run.release()
    assert contents(tmp_path / "run") == ([name for name in before if name != LOCK_FILE] if stays else [])
    assert run.path.exists() == stays


def test_a_fit_that_did_no_step_leaves_no_table_of_its_learning_rate(tmp_path: Path) -> None:
    run = RunFolder.claim(tmp_path, "run")
    write(run.path, *STARTED, "metrics.csv")
    run.discard_start(started=("metrics.csv",))
    assert contents(tmp_path) == []


@pytest.mark.parametrize("fails", [True, False])
def test_parents_that_were_made_for_a_run_that_did_nothing_go_too(fails: bool, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    first = RunFolder.claim(tmp_path / "mine/deep/runs", "run")
    second = RunFolder.claim(tmp_path / "mine/deep/runs", "run")
    for run, left in ((second, ["deep", "deep/runs", "deep/runs/run"]), (first, [])):
        write(run.path, *(STARTED if fails else ()))
        if fails:
            run.discard_start()
        run.release()
        assert [name for name in contents(tmp_path / "mine") if not name.startswith("deep/runs/run/")] == left
    assert contents(tmp_path) == ["mine"]


def test_a_folder_that_cannot_be_is_one_line() -> None:
    with pytest.raises(UserError, match="the run's folder cannot be written"):
        RunFolder.claim(Path("/proc/nowhere"), "run")


def test_a_failed_start_removes_only_what_it_made(tmp_path: Path) -> None:
    (tmp_path / "run" / "mine").mkdir(parents=True)
    fresh = RunFolder.claim(tmp_path, "run")
    write(fresh.path, *STARTED, "mine/hparams.yaml")
    fresh.discard_start()
    assert contents(tmp_path) == ["run", "run/mine"]
    write(tmp_path / "run", "config.yaml", "gallery.html", "checkpoints/last.ckpt")
    before = contents(tmp_path)
    resumed = RunFolder.resume(tmp_path / "run")
    write(resumed.path, "config-2.yaml", "tensorboard/events.out.tfevents.2")
    resumed.discard_start()
    assert contents(tmp_path) == before


def test_names_are_counted_from_the_second(tmp_path: Path) -> None:
    write(tmp_path, "run-3/config.yaml", f"run-2/{LOCK_FILE}")
    (tmp_path / "run-5").touch()
    assert [path.name for path in islice(free_names(tmp_path, "run"), 4)] == ["run", "run-2", "run-4", "run-6"]


def test_each_fit_of_a_run_keeps_its_configuration_and_other_stages_the_first(tmp_path: Path) -> None:
    parser = ArgumentParser()
    parser.add_argument("--left_out", type=int | None, default=None)
    trainer: Any = SimpleNamespace(default_root_dir=str(tmp_path / "run"))

    def keep(stage: str) -> list[str]:
        RunConfig(parser, parser.parse_args([])).save_config(trainer, None, stage)
        return contents(tmp_path / "run")

    assert keep("test") == ["config.yaml"]
    assert (tmp_path / "run/config.yaml").read_text() == "left_out: null\n"
    assert keep("test") == keep("validate") == ["config.yaml"]
    assert keep("fit") == ["config-2.yaml", "config.yaml"]
    assert keep("fit") == ["config-2.yaml", "config-3.yaml", "config.yaml"]


def test_a_checkpoint_tells_its_run(tmp_path: Path) -> None:
    write(tmp_path, "run/config.yaml", "run/checkpoints/last.ckpt", "run/elsewhere/last.ckpt", "other/checkpoints/a")
    run = tmp_path / "run"
    for name in ("checkpoints/last.ckpt", "checkpoints/best-adapter", "adapter"):
        assert run_of(str(run / name)) == run
    assert run_of(str(run)) is None, "it has no weights yet"
    write(tmp_path, "run/adapter/adapter_config.json")
    assert run_of(str(run)) == run
    for path in (run / "elsewhere/last.ckpt", run / "config.yaml", tmp_path / "other/checkpoints/a", Path("last")):
        assert run_of(str(path)) is None
