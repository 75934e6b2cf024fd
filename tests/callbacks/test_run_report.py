"""The report of a run: figures from what was logged and generated, self-contained and escaped."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from lightning.pytorch.loggers import CSVLogger

from deepsynth.callbacks import RunReport
from deepsynth.callbacks.report.figures import cer_by_script, draw_curves, read_curves, score_rows, script
from deepsynth.callbacks.report.run_report import report_page
from tests.helpers.training import make_data, make_module, make_trainer


def row(name: str, prediction: str, target: str) -> dict[str, str]:
    return {"id": name, "prediction": prediction, "target": target}


def test_each_sample_has_its_error_and_each_script_that_of_its_corpus() -> None:
    rows = [row("a", "abcd", "abce"), row("b", "xy", "xyz" * 4), row("c", "سلام", "سلام"), row("d", "?", "")]
    scored = score_rows(rows)
    assert [(one.name, one.cer) for one in scored] == [("a", 0.25), ("b", pytest.approx(10 / 12)), ("c", 0.0)]
    found = cer_by_script(scored)
    assert list(found) == [script("a"), script("س")]
    assert found[script("a")] == (pytest.approx(11 / 16), 2)
    assert found[script("س")] == (0.0, 1)
    assert script("12 .") == ""


def test_curves_are_the_rows_that_have_a_value(tmp_path: Path) -> None:
    file = tmp_path / "metrics.csv"
    assert read_curves(file, ["val/cer"]) == {}
    file.write_text("step,train/loss,val/cer\n0,2.5,\n1,2.0,0.5\n,1.0,\n")
    assert read_curves(file, ["train/loss", "val/cer", "val/loss"]) == {
        "train/loss": [(0.0, 2.5), (1.0, 2.0)],
        "val/cer": [(1.0, 0.5)],
    }


def test_the_page_believes_no_text_and_needs_nothing(tmp_path: Path) -> None:
    evil = '<script>alert(1)</script> & "quotes"'
    (tmp_path / "metrics.csv").write_text("step,train/loss,val/cer\n0,2.5,\n1,2.0,0.5\n")
    scored = score_rows([row("n<i>", evil, evil + "!"), row("good", "same", "same")])
    page = report_page(tmp_path, scored, [100, 200], 300, worst=1)
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert "n&lt;i&gt;" in page
    assert ">good " not in page, "it is not the worst"
    captions = ("Loss", "Character error rate", "CER by length", "CER by script")
    for caption in (*captions, "Lengths of training samples and the budget"):
        assert f"<figcaption>{caption}</figcaption>" in page
    assert "data.max_tokens: 300" in page
    assert set(re.findall(r'(?:src|href)="([^"]*)"', page)) <= set(re.findall(r'"(#[^"]*)"', page))


def test_a_fit_writes_it(tmp_path: Path, jsonl: Path) -> None:
    logger = CSVLogger(tmp_path, "", "")
    trainer = make_trainer(tmp_path, max_steps=2, callbacks=[RunReport()], logger=logger, log_every_n_steps=1)
    trainer.fit(make_module(max_new_tokens=4, samples=2), make_data(jsonl, val_fraction=0.5))
    page = (tmp_path / "report.html").read_text()
    assert "Errors are those of 2 samples" in page
    assert page.count("<section>") == 2
    assert page.count("<svg") >= 3


def test_the_axis_of_a_short_run_has_whole_steps() -> None:
    svg = str(draw_curves({"train/loss": [(0.0, 1.0), (1.0, 0.5), (4.0, 0.5)]}, "loss"))
    texts = re.findall(r"<text [^>]*>([^<]+)</text>", svg)
    assert texts[: texts.index("step")] == ["0", "1", "2", "3", "4"]
