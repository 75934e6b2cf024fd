"""Backends answer from processes of their own, and whatever ends one of those is recorded."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import pytest

from deepsynth.cli.measurement_worker import serve
from deepsynth.measurement import process as measure_process
from deepsynth.measurement.cells import Result
from deepsynth.measurement.process import Backend, Question, Workers, measure_all

#: A worker without torch: does what it is asked for by name.
FAKE = """
import json, os, signal, sys, time
args = json.loads(sys.stdin.readline())["args"]
for line in sys.stdin:
    asked = json.loads(line)
    if asked["measure"] == "crash":
        raise AttributeError("a bug of the backend")
    if asked["measure"] == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if asked["measure"] == "hang":
        time.sleep(60)
    answer = {"pid": os.getpid(), "args": " ".join(args), **asked["options"]}
    if asked["measure"] == "full":
        answer = {"not_measured": "out of memory", "ended": True}
    print(json.dumps(answer), flush=True)
"""
A, B = Backend("a", ("--config", "a.yaml")), Backend("b", ("--config", "b.yaml"))
ASK = Question("train", "train", {"batch_size": 2})


@pytest.fixture
def workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workers:
    monkeypatch.setattr(measure_process, "WORKER", (sys.executable, "-c", FAKE))
    return Workers(tmp_path / "logs", cell_limit_s=30)


def test_a_backend_answers_from_one_process_and_another_from_another(workers: Workers) -> None:
    with workers:
        first, again, other = workers.ask(A, ASK), workers.ask(A, ASK), workers.ask(B, ASK)
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
def test_what_ends_a_process_is_recorded_and_the_next_question_is_answered(
    workers: Workers, measure: str, reason: str
) -> None:
    with workers:
        before = workers.ask(A, ASK)
        assert workers.ask(A, Question("x", measure)) == {"not_measured": reason}
        assert workers.ask(A, ASK)["pid"] != before["pid"]


def test_a_cell_has_its_time(workers: Workers) -> None:
    workers.cell_limit_s = 0.5
    with workers:
        assert workers.ask(A, Question("x", "hang")) == {"not_measured": "took longer than 0.5 s (cell_limit_s)"}
        workers.cell_limit_s = 30
        assert "pid" in workers.ask(A, ASK)


def ask_many(tmp_path: Path, lines: list[str], **options: object) -> dict[str, Result]:
    questions = [Question("load", "load"), Question("train/batch=2", "train"), Question("broken", "crash")]
    settings: dict[str, object] = {"output": tmp_path / "r.json", "cell_limit_s": 30.0, **options}
    return measure_all(
        [A, B],
        questions,
        line=lambda name, result: f"{name} {result.get('not_measured', 'ok')}",
        report=lines.append,
        **settings,  # type: ignore[arg-type]
    )


def test_cells_go_on_after_a_failure_and_are_kept(workers: Workers, tmp_path: Path) -> None:
    lines: list[str] = []
    results = ask_many(tmp_path, lines, only=["b"])
    assert list(results) == ["load/b", "train/batch=2/b", "broken/b"]
    again = ask_many(tmp_path, lines, resume=True)
    assert list(again) == [*results, "load/a", "train/batch=2/a", "broken/a"]
    assert {name: again[name] for name in results} == results, "kept, not measured again"
    assert json.loads((tmp_path / "r.json").read_text())["cells"] == again
    assert lines[2].startswith("broken/b the process ended with code 1")


def test_no_cell_begins_that_could_end_too_late(
    workers: Workers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter(range(0, 1000, 20))
    monkeypatch.setattr(measure_process.time, "monotonic", lambda: float(next(clock)))
    lines: list[str] = []
    results = ask_many(tmp_path, lines, time_budget_s=75.0)  # cells would begin at 20, 40 and 60 s and may take 30
    assert list(results) == ["load/a", "train/batch=2/a"]
    assert lines[-1] == "time_budget_s is used up; 4 cells are left: the same command with --resume=true goes on"
    with pytest.raises(ValueError, match="time_budget_s is 20, but one cell may take 30 s"):
        ask_many(tmp_path, lines, time_budget_s=20.0)


# ---------------------------------------------------------------------- the worker itself


def answers(args: list[str], *asked: tuple[str, dict[str, object]]) -> list[Result]:
    lines = [{"args": args}, *({"measure": measure, "options": options} for measure, options in asked)]
    replies = io.StringIO()
    serve(io.StringIO("".join(json.dumps(line) + "\n" for line in lines)), replies)
    return [json.loads(line) for line in replies.getvalue().splitlines()]


def fit_args(jsonl: Path) -> list[str]:
    data = [f"--data.source.path={jsonl}", "--data.val_fraction=0", "--data.test_fraction=0"]
    return ["--model=PeftModule", "--data=TextImageDataModule", "--data.source=JsonlSource", *data]


def test_the_worker_measures_what_it_is_asked_for(jsonl: Path) -> None:
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
    assert "model_name is 'nowhere/at/all', which is no folder" in str(first["not_measured"])
    (unknown,) = answers([*fit_args(jsonl), "--model=NoSuchModule"], ("load", {}))
    assert "NoSuchModule" in str(unknown["not_measured"])


def test_running_out_of_memory_asks_for_another_process(jsonl: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from deepsynth.measurement.cells_table import MEASUREMENTS

    def exhaust(bench: object) -> Result:
        raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")

    def fail(bench: object) -> Result:
        raise RuntimeError("mat1 and mat2 must have the same dtype")

    monkeypatch.setitem(MEASUREMENTS, "train", exhaust)
    monkeypatch.setitem(MEASUREMENTS, "phases", fail)
    (answer,) = answers(fit_args(jsonl), ("train", {}))
    assert answer["ended"] is True
    assert str(answer["not_measured"]).startswith("out of memory: CUDA out of memory")
    with pytest.raises(RuntimeError, match="same dtype"):  # which ends the process, with its traceback in the log
        answers(fit_args(jsonl), ("phases", {}))
