"""The comparison of backends: one command, tables, plots and the checklist."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from deepsynth.__main__ import main
from deepsynth.cli.commands import spell_out
from deepsynth.cli.measurement_worker import Answers
from deepsynth.measurement import process as measure_process
from deepsynth.measurement.benchmark import benchmark_train
from deepsynth.measurement.benchmark_generate import benchmark_generate
from deepsynth.measurement.cells import Result
from deepsynth.measurement.checklist import Line, checklist, public_names
from deepsynth.measurement.compare import compare, loaded
from deepsynth.measurement.process import Backend, Question
from deepsynth.measurement.report import html_page, markdown
from deepsynth.measurement.tables import Comparison, missing, tables

SHORT = ["--batch_sizes", "1", "--generate_batch_sizes", "1", "--text_tokens", "8", "--new_tokens", "3", "--steps", "1"]
SHORT += ["--warmup_steps", "1", "--repeats", "2", "--quality_steps", "1"]


@pytest.fixture
def configs(tmp_path: Path, jsonl: Path) -> Path:
    """A base and three backends: two of transformers and peft, and one that needs what is not here."""
    data = f"source: {{class_path: JsonlSource, init_args: {{path: {jsonl}}}}}\n    val_fraction: 0.3"
    (tmp_path / "base.yaml").write_text(
        "model:\n  class_path: PeftModule\n  init_args: {max_new_tokens: 4, generate_samples: 1}\n"
        f"data:\n  class_path: TextImageDataModule\n  init_args:\n    {data}\n"
    )
    (tmp_path / "eager.yaml").write_text("model: {init_args: {experts_implementation: eager, loss: plain}}\n")
    (tmp_path / "grouped.yaml").write_text("model: {init_args: {experts_implementation: grouped_mm}}\n")
    (tmp_path / "absent.yaml").write_text("model: {init_args: {model_name: not/a/folder/at/all}}\n")
    return tmp_path


@pytest.fixture
def in_this_process(monkeypatch: pytest.MonkeyPatch, steady_reading: None) -> list[str]:
    """Answer here instead of in a process for each backend, which takes its time to start; return who was asked."""
    asked: list[str] = []
    answers: dict[Backend, Answers] = {}

    def ask(self: object, backend: Backend, question: Question) -> dict[str, Any]:
        asked.append(f"{question.name}/{backend.name}")
        return answers.setdefault(backend, Answers(backend.args)).answer(question.measure, dict(question.options))

    monkeypatch.setattr(measure_process.Workers, "ask", ask)
    return asked


def command(configs: Path, *backends: str) -> list[str]:
    files = [str(configs / f"{name}.yaml") for name in backends]
    return ["compare", "--config", str(configs / "base.yaml"), "--backends", *files, "--output", str(configs / "out")]


def test_two_backends_and_one_that_is_absent(
    configs: Path, in_this_process: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*command(configs, "eager", "grouped", "absent"), *SHORT]) == 0
    printed = capsys.readouterr().out
    results = json.loads((configs / "out" / "results.json").read_text())["cells"]
    for backend in ("eager", "grouped"):
        assert results[f"load/{backend}"]["module"] == "PeftModule"
        assert results[f"train/batch=1/{backend}"]["samples_per_s"] > 0
        assert results[f"generate/batch=1/{backend}"]["ms_per_token"] == pytest.approx(10)
        assert results[f"phases/batch=1/{backend}"]["step_ms"] > 0
        assert 0 <= results[f"quality/{backend}"]["rouge1_before"] <= 1
    absent = [result for name, result in results.items() if name.endswith("/absent")]
    assert len(absent) == len(results) / 3
    assert all("not/a/folder/at/all" in result["not_measured"] for result in absent)
    assert results["train/batch=1/eager"]["loss_first"] == pytest.approx(
        results["train/batch=1/grouped"]["loss_first"], rel=1e-3
    ), "the same work from the same start"
    assert "train/batch=1/absent" in printed
    report = (configs / "out" / "report.md").read_text()
    assert report.rindex("## ") == report.index("## Checklist")
    page = (configs / "out" / "report.html").read_text()
    assert page.count("<svg") >= 6
    assert not re.findall(r"(?:src|href)=|https?://|@import|url\(", page), "nothing is fetched"

    before = list(in_this_process)
    assert main([*command(configs, "eager", "grouped", "absent"), *SHORT, "--resume"]) == 0
    assert in_this_process == before, "all is there"
    assert main([*command(configs, "eager", "grouped"), *SHORT, "--resume", "--only", "load"]) == 0
    assert in_this_process == before
    assert main([*command(configs, "eager", "absent"), *SHORT, "--resume", "--only", "load/absent"]) == 0
    assert in_this_process == [*before, "load/absent"], "what could not be measured is tried again when it is named"
    assert "grouped" in (configs / "out" / "report.md").read_text(), "earlier results stay in the report"


@pytest.mark.slow
def test_every_backend_has_a_process_of_its_own(configs: Path) -> None:
    assert main([*command(configs, "eager", "grouped", "absent"), *SHORT]) == 0
    results = json.loads((configs / "out" / "results.json").read_text())["cells"]
    assert results["train/batch=1/eager"]["samples_per_s"] > 0
    assert results["quality/grouped"]["cer_before"] >= 0
    assert "not/a/folder" in results["load/absent"]["not_measured"]
    assert (configs / "out" / "logs" / "eager.log").exists()


def test_other_settings_and_files_are_not_mixed_in(configs: Path, in_this_process: list[str]) -> None:
    only = ["--only", "longest_context/absent"]
    assert main([*command(configs, "absent"), *SHORT, *only]) == 0
    assert main([*command(configs, "absent"), *SHORT, "--steps", "2", "--resume", *only]) == 1
    (configs / "absent.yaml").write_text("model: {init_args: {model_name: ./elsewhere}}\n")
    assert main([*command(configs, "absent"), *SHORT, "--resume", *only]) == 1
    assert len(in_this_process) == 1


def test_mistakes_are_one_line(configs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for extra, message in (
        (["--baseline", "nothing"], "baseline is 'nothing'; the backends are eager, grouped"),
        (["--steps", "0"], "steps is 0; it must be at least 1"),
        (["--only", "trian"], "only names 'trian', which is in no cell's name"),
    ):
        assert main([*command(configs, "eager", "grouped"), *extra]) == 1
        assert message in capsys.readouterr().err
    assert main(command(configs, "eager", "eager")) == 1
    assert "each file needs a name of its own" in capsys.readouterr().err
    assert main(command(configs, "missing")) == 2
    assert f"there is no file '{configs / 'missing.yaml'}'" in capsys.readouterr().err
    with pytest.raises(ValueError, match=r"missing\.yaml cannot be read"):
        compare([configs / "base.yaml"], [configs / "missing.yaml"], configs / "out")


def test_the_benchmarks_measure_ours_and_what_others_give(tmp_path: Path, in_this_process: list[str]) -> None:
    lines: list[str] = []
    trained = benchmark_train(
        batch_sizes=[1], text_tokens=4, pages=["new", "repeated"], steps=1, warmup_steps=1, repeats=1,
        only=["deepsynth"], output=tmp_path / "t.json", report=lines.append,
    )  # fmt: skip
    assert list(trained) == ["train/batch=1/deepsynth", "train/batch=1/repeated/deepsynth"]
    read = benchmark_generate(
        batch_sizes=[2], new_tokens=3, num_pages=2, source_batch_size=2, repeats=1,
        only=["generate/batch=2/transformers", "deepsynth"], report=lines.append,
    )  # fmt: skip
    assert list(read) == ["generate/batch=2/transformers", "generate/batch=2/deepsynth", "source/deepsynth"]
    assert not [name for name, result in {**trained, **read}.items() if "not_measured" in result]
    assert [line.split()[0] for line in lines] == ["cell", *trained, "cell", *read]
    assert json.loads((tmp_path / "t.json").read_text())["cells"] == trained


# ---------------------------------------------------------------------- the report, on made-up results


def comparison(gpu: str = "a GPU", **changes: Result) -> Comparison:
    """Return a comparison whose numbers are made up: what is tested is what is made of them."""
    results: dict[str, Result] = {
        "load/current": {"module": "PeftModule", "weights_gib": 6.0, "load_s": 5.0},
        "train/batch=2/current": {"samples_per_s": 2.0, "peak_allocated_gib": 10.0, "mfu": 0.01},
        "train/batch=8/current": {"samples_per_s": 4.0, "peak_allocated_gib": 20.0, "mfu": 0.01},
        "generate/batch=1/current": {"ms_per_token": 60.0},
        "quality/current": {"cer_before": 0.5, "cer_after": 0.4, "bleu_before": 0.5, "bleu_after": 0.4,
                            "quality_steps": 9},
        "load/unsloth": {"module": "UnslothModule", "weights_gib": 3.0, "load_s": 7.0},
        "train/batch=2/unsloth": {"samples_per_s": 6.0, "peak_allocated_gib": 6.0, "mfu": 0.03},
        "train/batch=8/unsloth": {"samples_per_s": 5.0, "peak_allocated_gib": 12.0, "mfu": 0.02},
        "generate/batch=1/unsloth": {"ms_per_token": 30.0},
        "quality/unsloth": {"not_measured": "model.weights is random"},
        **changes,
    }  # fmt: skip
    return Comparison(results, ["current", "unsloth"], "current", {"gpu": gpu, "unsloth": "1"}, {}, 3.6)


def states(lines: list[Line], subject: str) -> dict[str, tuple[str, str]]:
    return {line.claim: (line.state, line.figure) for line in lines if line.subject == subject}


def test_the_checklist_judges_the_least_favourable_cell() -> None:
    found = states(checklist(comparison()), "unsloth")
    assert found["FastVisionModel loads"] == ("passed", "3.00 GiB of weights in 7.0 s")
    state, figure = found["training at least 1.3 times as fast"]
    assert state == "failed", "3 times as fast at batch 2, but only 1.25 times at batch 8"
    assert figure == "1.25×: 5.00 samples/s to 4.00 of current (batch 8, the least favourable of 2)"
    assert found["VRAM −35 % or more"][0] == "passed"
    assert found["VRAM −35 % or more"][1].startswith("-40 %: ")
    assert found["inference latency −40 % or more"][0] == "passed"
    assert found["CER −50 % or more on the validation set"] == ("not measured", "model.weights is random")
    current = states(checklist(comparison()), "current")
    assert current["CER −50 % or more on the validation set"][0] == "failed"
    assert current["no regression in ROUGE and BLEU"] == ("failed", "before → after fine-tuning: bleu 0.500 → 0.400")
    faster = {"train/batch=8/unsloth": {"samples_per_s": 5.2, "peak_allocated_gib": 13.1}}
    found = states(checklist(comparison(**faster)), "unsloth")
    assert found["training at least 1.3 times as fast"][0] == "passed"
    assert found["VRAM −35 % or more"][0] == "failed"


def test_a_cpu_proves_nothing_about_a_gpu() -> None:
    c = comparison(gpu="none")
    assert c.on_gpu, "the allocator of a GPU was asked, whatever the driver's tool says"
    for result in c.results.values():
        if "peak_allocated_gib" in result:
            result["peak_rss_gib"] = result.pop("peak_allocated_gib")
    found = states(checklist(c), "unsloth")
    state, figure = found["training at least 1.3 times as fast"]
    assert state == "not measured"
    assert figure.startswith("needs a GPU; this CPU showed 1.25×")


def test_a_backend_that_could_have_loaded_and_did_not_has_failed() -> None:
    broken: dict[str, Result] = {"load/unsloth": {"not_measured": "the process ended with code 1"}}
    loads = [line for line in checklist(comparison(**broken)) if line.claim == "FastVisionModel loads"]
    assert [(line.state, line.figure) for line in loads] == [("failed", "unsloth: the process ended with code 1")]
    c = Comparison(broken, ["current", "unsloth"], "current", {"gpu": "none"}, {})
    assert next(line.state for line in checklist(c) if line.claim == "FastVisionModel loads") == "not measured"


def test_every_cell_says_what_loading_was() -> None:
    results: dict[str, Result] = {
        "train/batch=2/unsloth": {"module": "UnslothModule", "weights_gib": 3.0, "load_s": 7.0, "samples_per_s": 6.0},
        "train/batch=8/unsloth": {"not_measured": "out of memory"},
        "train/batch=2/peft": {"not_measured": "took longer than 9 s"},
        "load/unsloth": {"not_measured": "took longer than 900 s"},
    }
    assert loaded(results) == {"load/unsloth": results["train/batch=2/unsloth"]}
    c = Comparison({**results, **loaded(results)}, ["unsloth", "peft"], "unsloth", {"gpu": "a GPU"}, {})
    line = next(line for line in checklist(c) if line.claim == "FastVisionModel loads")
    assert (line.state, line.figure) == ("passed", "3.00 GiB of weights in 7.0 s")


def test_onboarding_is_the_time_that_is_handed_in() -> None:
    def line(seconds: float | None) -> Line:
        return next(line for line in checklist(comparison(), None, seconds) if line.claim.startswith("onboarding"))

    assert line(None).state == "not measured"
    assert (line(375.0).state, line(375.0).figure[:11]) == ("passed", "6.2 minutes")


def test_the_results_of_the_tests_are_read(tmp_path: Path) -> None:
    file = tmp_path / "tests.xml"
    cases = '<testcase classname="tests.test_readme" name="a"/><testcase classname="tests.x" name="b">{}</testcase>'
    file.write_text(f"<testsuites><testsuite>{cases.format('')}</testsuite></testsuites>")
    found = states(checklist(comparison(), file), "DeepSynth")
    assert found["tests pass"] == ("passed", "2 of 2 passed, 0 skipped")
    assert found["the README's commands run"] == ("passed", "1 of 1 passed, 0 skipped")
    file.write_text(f"<testsuites><testsuite>{cases.format('<failure/>')}</testsuite></testsuites>")
    assert states(checklist(comparison(), file), "DeepSynth")["tests pass"] == ("failed", "1 of 2 passed, 0 skipped")
    file.write_text("not xml")
    with pytest.raises(ValueError, match="is no result of pytest --junitxml"):
        checklist(comparison(), file)


def test_public_names_are_counted(tmp_path: Path) -> None:
    (tmp_path / "part.py").write_text(
        '"""A part."""\nclass A:\n    """Is."""\n    def f(self): ...\n    def _g(self): ...\ndef h():\n    """Do."""\n'
    )
    assert dict(public_names(tmp_path)) == {"part": True, "part.A": True, "part.A.f": False, "part.h": True}


def test_every_table_is_whole_and_says_what_is_missing() -> None:
    c = comparison()
    found = {table.title: table for table in tables(c)}
    for table in found.values():
        assert all(len(row) == len(table.head) for row in table.rows), table.title
    training = found["Training"]
    row = dict(zip(training.head, training.rows[1], strict=True))
    assert (row["work"], row["backend"], row["×"]) == ("batch 2", "unsloth", "3.00×")
    assert row["cost of 50,000"] == "8.33", "50,000 samples at 6 a second and 3.6 an hour"
    assert missing(c) == [("unsloth", "quality", "model.weights is random")]


def test_the_page_escapes_what_it_shows() -> None:
    c = comparison(**{"load/unsloth": {"not_measured": "<b>&</b> | a pipe"}})
    lines = checklist(c)
    assert "<b>&</b>" not in html_page(c, lines)
    assert "&lt;b&gt;&amp;&lt;/b&gt;" in html_page(c, lines)
    assert "\\| a pipe" in markdown(c, lines)


def test_lists_and_flags_may_be_given_plainly() -> None:
    assert spell_out(compare, ["--only", "a", "b/c", "--resume", "--steps", "3", "--config", "x", "--config", "y"]) == [
        "--resume=true", "--steps", "3", '--only=["a", "b/c"]', '--config=["x", "y"]',
    ]  # fmt: skip
    assert spell_out(compare, ["--resume", "false", '--only=["a"]']) == ["--resume", "false", '--only=["a"]']
