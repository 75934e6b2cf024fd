"""What a process that measures answers: figures, reasons, and when it must be replaced."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from deepsynth.cli import measurement_worker
from deepsynth.cli.errors import ParserError
from deepsynth.cli.measurement_worker import MeasurementServer, build, measurements
from deepsynth.errors import UserError
from deepsynth.measurement.harness import NotMeasured


class Backend:
    """A backend whose loading and measuring return or raise, one after the other, what is given."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, building: list[Any], measuring: list[Any]) -> None:
        self.building, self.measuring = iter(building), iter(measuring)
        self.built: list[Any] = []
        self.options: list[Any] = []
        monkeypatch.setattr(measurement_worker, "build", self.build)
        monkeypatch.setattr(measurement_worker, "measurements", lambda: {"train": self.measure})
        self.server = MeasurementServer()

    def build(self, args: Any) -> Any:
        self.built.append(args)
        self.outcome = next(self.building)
        return self

    def load(self) -> dict[str, Any]:
        if isinstance(self.outcome, Exception):
            raise self.outcome
        return {"load_s": 1.0}

    def measure(self, harness: Any, **options: Any) -> dict[str, Any]:
        assert harness is self
        self.options.append(options)
        outcome = next(self.measuring)
        if isinstance(outcome, Exception):
            raise outcome
        return {"figure": outcome}

    def ask(self) -> dict[str, Any]:
        return self.server.answer({"args": ["--a=1"], "measure": "train", "options": {"steps": 2}})


def test_a_backend_is_built_once_and_each_answer_has_its_loading(monkeypatch: pytest.MonkeyPatch) -> None:
    backend = Backend(monkeypatch, [None], [3, NotMeasured("no GPU"), UserError("too long\nfor it"), 4])
    assert backend.ask() == {"load_s": 1.0, "figure": 3}
    assert backend.ask() == {"not_measured": "no GPU"}
    assert backend.ask() == {"not_measured": "too long for it"}
    assert backend.ask() == {"load_s": 1.0, "figure": 4}
    assert backend.built == [["--a=1"]]
    assert backend.options == [{"steps": 2}] * 4


@pytest.mark.parametrize("error", [UserError("no such model"), ParserError("no such model")])
def test_a_backend_that_is_refused_is_not_tried_again(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = Backend(monkeypatch, [error], [3])
    assert [backend.ask(), backend.ask()] == [{"not_measured": "no such model"}] * 2
    assert len(backend.built) == 1


def test_memory_that_runs_out_ends_the_process_and_a_bug_does_too(monkeypatch: pytest.MonkeyPatch) -> None:
    full = torch.OutOfMemoryError("CUDA out of memory.")
    ended = {"not_measured": "out of memory: CUDA out of memory.", "ended": True}
    backend = Backend(monkeypatch, [full, None], [full, KeyError("a bug"), NotMeasured("x")])
    assert [backend.ask(), backend.ask()] == [ended, ended]
    with pytest.raises(KeyError, match="a bug"):
        backend.ask()


def test_what_a_backend_cannot_measure_while_it_loads_may_be_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    backend = Backend(monkeypatch, [NotMeasured("busy"), None], [3])
    assert [backend.ask(), backend.ask()] == [{"not_measured": "busy"}, {"load_s": 1.0, "figure": 3}]


def test_a_backend_is_what_the_options_of_a_fit_make(tmp_path: Any, jsonl: Any) -> None:
    options = ["--trainer.precision=bf16-mixed", "--trainer.gradient_clip_val=0.5", "--seed_everything=7"]
    source = ["--data=TextImageDataModule", "--data.source=JsonlSource", f"--data.source.path={jsonl}"]
    harness = build(
        ["--model=PeftModule", "--model.model_name=deepsynth/tiny", "--model.lora.rank=3", *source, *options]
    )
    assert (harness.seed, harness.module.lora.rank, harness.data.seed) == (7, 3, 7)
    trainer = harness.trainer(max_steps=1)
    assert (trainer.precision, trainer.gradient_clip_val, trainer.max_steps) == ("bf16-mixed", 0.5, 1)
    assert trainer.loggers == []
    assert {function.__name__ for function in measurements().values()} == {
        "load", "measure_training", "measure_fit", "measure_phases", "measure_generation", "measure_source",
        "measure_quality", "measure_largest_batch", "measure_longest_context",
    }  # fmt: skip
