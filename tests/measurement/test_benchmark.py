import json
import platform
import re

import pytest

from deepsynth.errors import UserError
from deepsynth.measurement.benchmark import FitBenchmark, GenerateBenchmark, TrainBenchmark
from deepsynth.measurement.cells import Cell, run_cells
from deepsynth.measurement.pages import DataBenchmark, Excerpts


def cells(log, failing=()):
    def measure(name):
        log.append(name)
        if name in failing:
            raise RuntimeError(name)
        return {"pages_per_s": float(len(log))}

    return [Cell(name, lambda name=name: measure(name)) for name in ("render/1", "render/2", "loader/1")]


def test_cells_run_in_order_and_are_reported(tmp_path):
    log, reported = [], []
    output = tmp_path / "runs" / "data.json"
    results = run_cells(cells(log), output=output, report=lambda name, result: reported.append((name, result)))
    assert log == ["render/1", "render/2", "loader/1"] == list(results)
    assert reported == list(results.items())
    written = json.loads(output.read_text())
    assert written["cells"] == results
    assert written["environment"]["python"]


def test_only_the_named_cells_run():
    log = []
    run_cells(cells(log), only=["render"])
    assert log == ["render/1", "render/2"]
    with pytest.raises(ValueError, match="only is 'rendre', which selects no cell; the cells are render/1, render/2"):
        run_cells(cells(log), only=["loader", "rendre"])


def test_a_stopped_run_goes_on_where_it_was(tmp_path):
    output = tmp_path / "data.json"
    log, reported = [], []
    with pytest.raises(RuntimeError):
        run_cells(cells(log, failing=["loader/1"]), output=output)
    results = run_cells(cells(log), output=output, resume=True, report=lambda name, result: reported.append(name))
    assert log == ["render/1", "render/2", "loader/1", "loader/1"]
    assert reported == list(results) == ["render/1", "render/2", "loader/1"]
    assert json.loads(output.read_text())["cells"] == results
    run_cells(cells(log), output=output)
    assert len(log) == 7, "without resume everything is measured again"


def test_results_of_another_environment_are_not_mixed_in(tmp_path, monkeypatch):
    output = tmp_path / "data.json"
    run_cells(cells([]), output=output)
    monkeypatch.setattr(platform, "python_version", lambda: "another")
    with pytest.raises(ValueError, match=r"was measured differently: python was .*, is another"):
        run_cells(cells([]), output=output, resume=True)


@pytest.mark.parametrize("content", ["", "[]", '{"cells": {}}'])
def test_a_file_of_something_else_is_refused(tmp_path, content):
    output = tmp_path / "data.json"
    output.write_text(content)
    with pytest.raises(ValueError, match="is not a file of benchmark results"):
        run_cells(cells([]), output=output, resume=True)


def test_resume_needs_a_file():
    with pytest.raises(ValueError, match="resume needs output"):
        run_cells(cells([]), resume=True)


def test_excerpts_are_of_equal_length_and_end_at_white_space():
    documents = list(Excerpts(300, 30))
    assert len({document.id for document in documents}) == len(documents) == 30
    assert all(250 < len(document.text) <= 300 for document in documents)
    words = " ".join(document.text for document in documents)
    assert words.startswith(documents[0].text + " " + documents[1].text)


def test_the_data_benchmark_prints_and_returns_every_figure(tmp_path):
    lines = []
    text = tmp_path / "russian.txt"
    text.write_text("Все люди рождаются свободными и равными в своем достоинстве и правах. " * 40, encoding="utf-8")
    only = ["render/512", "russian/first", "preset/scan", "processor/none", "loader/1"]
    benchmark = DataBenchmark(num_pages=10, max_workers=1, texts=[text], only=only, output=tmp_path / "d.json")
    results = benchmark.run(lines.append)
    clean = ["render/512/first", "render/512", "render/512/again", "render/1024/russian/first"]
    assert list(results) == [*clean, "processor/none", "preset/scan", "loader/1"]
    for result in results.values():
        assert result["pages_per_s"] > 0
        assert result["pages_per_s_per_core"] > 0
    assert lines[0].split() == ["cell", "pages/s", "per", "core"]
    assert [line.split()[0] for line in lines[1:]] == list(results)


def test_a_text_too_short_for_a_page_is_refused(tmp_path):
    text = tmp_path / "short.txt"
    text.write_text("too short", encoding="utf-8")
    with pytest.raises(ValueError, match=r"short\.txt: 9 characters, and one page takes 1500"):
        DataBenchmark(num_pages=10, texts=[text], only=["short"]).run()


def test_text_without_spaces_is_cut_anywhere(tmp_path):
    text = tmp_path / "chinese.txt"
    text.write_text("人人生而自由" * 100, encoding="utf-8")
    documents = list(Excerpts(100, 8, text))
    assert [len(document.text) for document in documents] == [100] * 8


def test_too_few_pages_are_refused():
    with pytest.raises(ValueError, match="num_pages is 3; it must be at least 10"):
        DataBenchmark(num_pages=3).run()


@pytest.mark.parametrize(
    ("work", "line"),
    [
        (TrainBenchmark(batch_sizes=(2, 0)), "--batch_sizes is (2, 0); it must be at least 1"),
        (FitBenchmark(steps=0), "--steps is 0; it must be at least 1"),
        (GenerateBenchmark(new_tokens=0), "--new_tokens is 0; it must be at least 1"),
    ],
)
def test_numbers_below_one_are_refused_before_anything_is_measured(work, line):
    with pytest.raises(UserError, match=re.escape(line)):
        work.run(lambda line: pytest.fail(line))


def test_a_benchmark_without_a_figure_fails_and_one_figure_is_enough(monkeypatch):
    found = {"train/batch=2/a": {"not_measured": "no such model"}, "train/batch=2/b": {"not_measured": "no memory"}}
    monkeypatch.setattr("deepsynth.measurement.benchmark.measure_all", lambda *args, **kwargs: dict(found))
    with pytest.raises(UserError, match="nothing was measured; the lines above say why"):
        TrainBenchmark(only=["b"]).run(len)
    found["train/batch=2/b"] = {"samples_per_s": 1.0}
    assert TrainBenchmark(only=["b"]).run(len) == found


def test_results_with_other_settings_are_not_mixed_in(tmp_path):
    output = tmp_path / "data.json"
    run_cells(cells([]), output=output, settings={"steps": 10}, only=["render"])
    run_cells(cells([]), output=output, settings={"steps": 10, "backend/b": "new"}, resume=True)
    assert json.loads(output.read_text())["settings"] == {"steps": 10, "backend/b": "new"}
    with pytest.raises(ValueError, match="was measured differently: steps was 10, is 20"):
        run_cells(cells([]), output=output, settings={"steps": 20}, resume=True)


def test_what_could_not_be_measured_is_kept_unless_it_is_named(tmp_path):
    output, reasons = tmp_path / "data.json", iter(("no GPU", "still none"))
    cell = [Cell("train/8", lambda: {"not_measured": next(reasons)})]
    assert run_cells(cell, output=output) == {"train/8": {"not_measured": "no GPU"}}
    assert run_cells(cell, output=output, resume=True) == {"train/8": {"not_measured": "no GPU"}}
    again = run_cells(cell, output=output, resume=True, only=["8"])
    assert again == {"train/8": {"not_measured": "still none"}}
