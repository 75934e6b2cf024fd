"""Backends are measured in processes of their own, and whatever ends one of those is recorded."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from deepsynth.cli.measurement_worker import MeasurementServer
from deepsynth.measurement import training
from deepsynth.measurement.cells import Result
from deepsynth.measurement.process import Backend, BackendProcesses, Measurement, measure_all

#: A worker without torch: does what it is asked for by name.
FAKE = """
import os, signal, time
from deepsynth.io.worker_process import serve

def answer(request):
    if request["measure"] == "crash":
        raise AttributeError("a bug of the backend")
    if request["measure"] == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if request["measure"] == "hang":
        time.sleep(60)
    if request["measure"] == "full":
        return {"not_measured": "out of memory", "ended": True}
    return {"pid": os.getpid(), "args": " ".join(request["args"]), **request["options"]}

def main():
    serve(answer, grace_s=1.0)
"""
A, B = Backend("a", ("--config", "a.yaml")), Backend("b", ("--config", "b.yaml"))
TRAIN = Measurement("train", "train", {"batch_size": 2})


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "fake_worker.py").write_text(FAKE)
    monkeypatch.syspath_prepend(tmp_path)
    return "fake_worker"


@pytest.fixture
def processes(fake: str, tmp_path: Path) -> Iterator[BackendProcesses]:
    with BackendProcesses(30, tmp_path / "logs", fake) as processes:
        yield processes


def test_each_backend_has_one_process_of_its_own(processes: BackendProcesses) -> None:
    first, again, other = processes.measure(A, TRAIN), processes.measure(A, TRAIN), processes.measure(B, TRAIN)
    assert first == again
    assert (first["args"], first["batch_size"]) == ("--config a.yaml", 2)
    assert (other["args"], other["pid"] != first["pid"]) == ("--config b.yaml", True)


@pytest.mark.parametrize(
    ("measure", "reason"),
    [
        ("crash", "the process ended with code 1: AttributeError: a bug of the backend (logs/a.log)"),
        ("kill", "the process was killed, as the operating system does when memory runs out"),
        ("full", "out of memory"),
    ],
)
def test_what_ends_a_process_is_recorded_and_the_next_measurement_has_another(
    processes: BackendProcesses, measure: str, reason: str
) -> None:
    before = processes.measure(A, TRAIN)
    assert processes.measure(A, Measurement("x", measure)) == {"not_measured": reason}
    assert processes.measure(A, TRAIN)["pid"] != before["pid"]


def test_a_cell_has_a_time_limit(processes: BackendProcesses) -> None:
    processes.measure(A, TRAIN)
    processes.cell_limit_s = 0.5
    hanging = processes.measure(A, Measurement("x", "hang"))
    assert hanging == {"not_measured": "took longer than 0.5 s (cell_limit_s)"}
    processes.cell_limit_s = 30
    assert "pid" in processes.measure(A, TRAIN)


def test_cells_go_on_after_a_failure_and_are_kept(fake: str, tmp_path: Path) -> None:
    seen: list[str] = []

    def measure(only: list[str], resume: bool) -> dict[str, Result]:
        measurements = [
            Measurement("load", "load"),
            Measurement("train/batch=2", "train"),
            Measurement("broken", "crash"),
        ]
        with BackendProcesses(30, tmp_path / "logs", fake) as processes:
            return measure_all(
                processes,
                [A, B],
                measurements,
                only=only,
                resume=resume,
                output=tmp_path / "r.json",
                report=lambda name, result: seen.append(f"{name} {result.get('not_measured', 'ok')}"),
            )

    results = measure(["b"], resume=False)
    assert list(results) == ["load/b", "train/batch=2/b", "broken/b"]
    again = measure([], resume=True)
    assert list(again) == [*results, "load/a", "train/batch=2/a", "broken/a"]
    assert {name: again[name] for name in results} == results, "kept, not measured again"
    assert json.loads((tmp_path / "r.json").read_text())["cells"] == again
    assert seen[2].startswith("broken/b the process ended with code 1")
    assert "a bug of the backend" in (tmp_path / "logs" / "b.log").read_text()


# ---------------------------------------------------------------------- the worker itself


def fit_args(jsonl: Path) -> list[str]:
    data = [f"--data.source.path={jsonl}", "--data.val_fraction=0", "--data.test_fraction=0"]
    return ["--model=PeftModule", "--data=TextImageDataModule", "--data.source=JsonlSource", *data]


def answers(args: list[str], *asked: tuple[str, dict[str, object]]) -> list[Result]:
    server = MeasurementServer()
    return [server.answer({"args": args, "measure": measure, "options": options}) for measure, options in asked]


def test_the_worker_measures(jsonl: Path) -> None:
    options: dict[str, object] = {"batch_size": 1, "text_tokens": 4, "steps": 1, "warmup_steps": 0, "repeats": 1}
    loaded, trained, quality = answers(
        fit_args(jsonl), ("load", {}), ("train", options), ("quality", {"steps": 1, "batch_size": 1})
    )
    assert loaded["model_name"] == "deepsynth/tiny-random"
    assert float(trained["samples_per_s"]) > 0
    assert quality == {"not_measured": "there is no validation set: set data.val_fraction or data.val_source"}


def test_what_a_backend_refuses_is_its_answer_to_everything(jsonl: Path) -> None:
    first, second = answers([*fit_args(jsonl), "--model.model_name=nowhere/at/all"], ("load", {}), ("train", {}))
    assert first == second
    assert "model_name is 'nowhere/at/all', which is not a folder" in str(first["not_measured"])
    (unknown,) = answers([*fit_args(jsonl), "--model=NoSuchModule"], ("load", {}))
    assert "NoSuchModule" in str(unknown["not_measured"])


def test_running_out_of_memory_asks_for_another_process(jsonl: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def exhaust(harness: object) -> Result:
        raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")

    def fail(harness: object) -> Result:
        raise RuntimeError("mat1 and mat2 must have the same dtype")

    monkeypatch.setattr(training, "measure_training", exhaust)
    monkeypatch.setattr(training, "measure_largest_batch", fail)
    (answer,) = answers(fit_args(jsonl), ("train", {}))
    assert answer["ended"] is True
    assert str(answer["not_measured"]).startswith("out of memory: CUDA out of memory")
    with pytest.raises(RuntimeError, match="same dtype"):  # which ends the process, with its traceback in the log
        answers(fit_args(jsonl), ("largest_batch", {}))
