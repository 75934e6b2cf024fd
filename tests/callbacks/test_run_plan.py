"""The plan of a run says what is known, and time only when it was measured."""

from __future__ import annotations

import csv
import logging
import re
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch.loggers import CSVLogger

from deepsynth.callbacks import FinalValidation, RunPlan, VramMonitor
from deepsynth.callbacks.run_plan import duration
from tests.helpers.training import make_data, make_module, make_trainer


def lines_of(caplog: pytest.LogCaptureFixture, start: str) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.getMessage().startswith(start)]


def test_the_plan_counts_and_the_forecast_is_measured(
    tmp_path: Path, jsonl: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deepsynth.callbacks.run_plan.TIMED_SECONDS", 0.0)
    data = make_data(jsonl, batch_size=1, val_fraction=0.0, test_fraction=0.0)
    trainer = make_trainer(tmp_path, max_steps=16, accumulate_grad_batches=2, callbacks=[VramMonitor(), RunPlan()])
    with caplog.at_level(logging.INFO):
        trainer.fit(make_module(), data)
    (plan,) = lines_of(caplog, "plan: ")
    samples = len(data.datasets["train"])
    assert f"plan: {samples} train samples; 2 a step; 16 steps ({32 / samples:.3g} epochs)" in plan
    (forecast,) = lines_of(caplog, "measured on ")
    found = re.fullmatch(
        r"measured on 8 batches: (\S+) s a step, so about (\d+) s for the (\d+) steps left; about (\d+) tokens "
        r"a sample, image and text; memory (\S+) of (\S+) GiB so far",
        forecast,
    )
    assert found
    assert int(found[2]) == pytest.approx(float(found[1]) * int(found[3]), abs=1.5)
    assert int(found[3]) == 16 - 5  # 3 batches of warm-up and 8 that are timed: in the sixth step
    assert float(found[5]) < float(found[6])


def test_a_run_too_short_to_measure_forecasts_nothing(
    tmp_path: Path, jsonl: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        make_trainer(tmp_path, max_steps=2, callbacks=[RunPlan()]).fit(make_module(), make_data(jsonl))
    assert len(lines_of(caplog, "plan: ")) == 1
    assert lines_of(caplog, "measured on ") == []


@pytest.mark.parametrize(("steps", "logged"), [(2, [0, 1]), (3, [2])])
def test_a_run_shorter_than_the_logging_interval_logs_every_step(
    steps: int, logged: list[int], tmp_path: Path, jsonl: Path
) -> None:
    options: dict[str, Any] = {"max_steps": steps, "log_every_n_steps": 3, "logger": CSVLogger(tmp_path)}
    make_trainer(tmp_path, callbacks=[RunPlan()], **options).fit(make_module(), make_data(jsonl))
    with next(tmp_path.rglob("metrics.csv")).open() as file:
        assert [int(row["step"]) for row in csv.DictReader(file) if row["train/loss"]] == logged


@pytest.mark.parametrize(("callbacks", "validated"), [([], False), ([FinalValidation()], True)])
def test_a_run_shorter_than_its_interval_ends_with_a_validation(
    callbacks: list[FinalValidation], validated: bool, tmp_path: Path, jsonl: Path
) -> None:
    options = {"max_steps": 2, "val_check_interval": 50, "check_val_every_n_epoch": None, "limit_val_batches": 1}
    trainer = make_trainer(tmp_path, callbacks=callbacks, **options)
    trainer.fit(make_module(), make_data(jsonl, val_fraction=0.5))
    assert ("val/loss" in trainer.callback_metrics) == validated
    assert trainer.global_step == 2


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(40, "40 s"), (89, "89 s"), (91, "2 min"), (720, "12 min"), (5370, "1 h 30 min"), (12_000, "3 h 20 min")],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text
