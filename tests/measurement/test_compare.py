"""The comparison of backends: one command, tables, plots and the checklist."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from deepsynth.__main__ import main
from deepsynth.cli.commands import split_values
from deepsynth.cli.measurement_worker import MeasurementServer
from deepsynth.errors import UserError
from deepsynth.measurement.benchmark import FitBenchmark, GenerateBenchmark, TrainBenchmark
from deepsynth.measurement.cells import Result
from deepsynth.measurement.checklist import Line, checklist
from deepsynth.measurement.compare import CompareBackends, loaded
from deepsynth.measurement.process import Backend, BackendProcesses, Measurement
from deepsynth.measurement.report import html_page, markdown
from deepsynth.measurement.tables import Comparison, missing, tables

SHORT = ["--batch_sizes", "1", "--generate_batch_sizes", "1", "--text_tokens", "8", "--new_tokens", "3", "--steps", "1"]
SHORT += ["--warmup_steps", "1", "--repeats", "2", "--quality_steps", "1"]


@pytest.fixture
def configs(tmp_path: Path, jsonl: Path) -> Path:
    """A base and three backends: two of transformers and peft, and one that needs what is not here."""
    data = f"source: {{class_path: JsonlSource, init_args: {{path: {jsonl}}}}}\n    val_fraction: 0.3"
    (tmp_path / "base.yaml").write_text(
        "model:\n  class_path: PeftModule\n  init_args: {generation: {max_new_tokens: 4, samples: 1}}\n"
        f"data:\n  class_path: TextImageDataModule\n  init_args:\n    {data}\n"
    )
    (tmp_path / "eager.yaml").write_text("model: {init_args: {engine: {experts_implementation: eager, loss: plain}}}\n")
    (tmp_path / "grouped.yaml").write_text("model: {init_args: {engine: {experts_implementation: grouped_mm}}}\n")
    (tmp_path / "absent.yaml").write_text("model: {init_args: {model_name: not/a/folder/at/all}}\n")
    return tmp_path


@pytest.fixture
def in_this_process(monkeypatch: pytest.MonkeyPatch, steady_generation: None) -> list[str]:
    """Answer here instead of in a process for each backend, which takes its time to start; return who was asked."""
    asked: list[str] = []
    servers: dict[Backend, MeasurementServer] = {}

    def measure(self: object, backend: Backend, measurement: Measurement) -> dict[str, Any]:
        asked.append(f"{measurement.name}/{backend.name}")
        request = {"args": backend.args, "measure": measurement.measure, "options": dict(measurement.options)}
        return servers.setdefault(backend, MeasurementServer()).answer(request)

    monkeypatch.setattr(BackendProcesses, "measure", measure)
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
    assert not re.findall(r"src=|href=\"[^#]|@import|url\([^#]", page), "nothing is fetched"

    before = list(in_this_process)
    assert main([*command(configs, "eager", "grouped", "absent"), *SHORT, "--resume"]) == 0
    assert in_this_process == before, "all is there"
    assert main([*command(configs, "eager", "absent"), *SHORT, "--resume", "--only", "load"]) == 0
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
        (["--baseline", "nothing"], "baseline is 'nothing'; it must be one of eager, grouped"),
        (["--steps", "0"], "steps is 0; it must be at least 1"),
        (["--only", "trian"], "only is 'trian', which selects no cell"),
    ):
        assert main([*command(configs, "eager", "grouped"), *extra]) == 1
        assert message in capsys.readouterr().err
    assert main(command(configs, "eager", "eager")) == 1
    assert "each file needs a different name" in capsys.readouterr().err
    assert main(command(configs, "missing")) == 2
    assert f"there is no file '{configs / 'missing.yaml'}'" in capsys.readouterr().err
    with pytest.raises(UserError, match=r"missing\.yaml cannot be read"):
        CompareBackends(
            config=[configs / "base.yaml"], backends=[configs / "missing.yaml"], output=configs / "out"
        ).run()


def test_the_benchmarks_measure_ours_and_what_others_give(tmp_path: Path, in_this_process: list[str]) -> None:
    lines: list[str] = []
    trained = TrainBenchmark(
        batch_sizes=[1], text_tokens=4, pages=["new", "repeated"], steps=1, warmup_steps=1, repeats=1,
        only=["deepsynth"], output=tmp_path / "t.json",
    ).run(lines.append)  # fmt: skip
    assert list(trained) == ["train/batch=1/deepsynth", "train/batch=1/repeated/deepsynth"]
    read = GenerateBenchmark(
        batch_sizes=[2], new_tokens=3, num_pages=2, source_batch_size=2, repeats=1,
        only=["generate/batch=2/transformers", "deepsynth"],
    ).run(lines.append)  # fmt: skip
    assert list(read) == ["generate/batch=2/transformers", "generate/batch=2/deepsynth", "source/deepsynth"]
    assert not [name for name, result in {**trained, **read}.items() if "not_measured" in result]
    assert [line.split()[0] for line in lines] == ["cell", *trained, "cell", *read]
    assert json.loads((tmp_path / "t.json").read_text())["cells"] == trained


def test_a_real_run_is_measured_beside_batches_of_its_lengths(tmp_path: Path, in_this_process: list[str]) -> None:
    documents = tmp_path / "docs.jsonl"
    texts = ["one", "two words", "three words here", "and four of them", "five"]
    documents.write_text("".join(json.dumps({"id": f"d{i}", "text": text}) + "\n" for i, text in enumerate(texts)))
    lines: list[str] = []
    found = FitBenchmark(
        documents=documents, preset="scan", batch_sizes=[2], steps=2, warmup_steps=1, repeats=2, only=["deepsynth"],
    ).run(lines.append)  # fmt: skip
    assert list(found) == ["fit/batch=2/deepsynth"] == [line.split()[0] for line in lines[1:]]
    result = found["fit/batch=2/deepsynth"]
    assert "not_measured" not in result
    assert result["share"] == pytest.approx(result["samples_per_s"] / result["replayed_samples_per_s"])
    assert 0 < result["data_wait"] < 1
    assert result["steps"] == 4  # more than an epoch has


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


def states(lines: list[Line], backend: str) -> dict[str, tuple[str, str]]:
    return {line.claim: (line.state, line.figure) for line in lines if line.backend == backend}


def test_the_checklist_judges_the_least_favorable_cell() -> None:
    found = states(checklist(comparison()), "unsloth")
    assert found["loads"] == ("passed", "UnslothModule: 3.00 GiB of weights in 7.0 s")
    state, figure = found["trains at least 1.3 times as fast"]
    assert state == "failed", "3 times as fast at batch 2, but only 1.25 times at batch 8"
    assert figure == "1.25×: 5.00 samples/s, current has 4.00 (batch 8, the least favorable of 2)"
    state, figure = found["needs at least 35 % less GPU memory"]
    assert (state, figure[:7]) == ("passed", "-40 %: ")
    assert found["latency at least 40 % lower"][0] == "passed"
    assert found["halves the CER on the validation set"] == ("not measured", "model.weights is random")
    current = states(checklist(comparison()), "current")
    assert current["halves the CER on the validation set"][0] == "failed"
    assert current["keeps ROUGE and BLEU"] == ("failed", "before → after fine-tuning: bleu 0.500 → 0.400")
    assert "trains at least 1.3 times as fast" not in current, "the baseline has no ratio to itself"
    faster = {"train/batch=8/unsloth": {"samples_per_s": 5.2, "peak_allocated_gib": 13.1}}
    found = states(checklist(comparison(**faster)), "unsloth")
    assert found["trains at least 1.3 times as fast"][0] == "passed"
    assert found["needs at least 35 % less GPU memory"][0] == "failed"


def test_a_cpu_proves_nothing_about_a_gpu() -> None:
    c = comparison(gpu="none")
    assert c.on_gpu, "the allocator of a GPU was asked, whatever the driver's tool says"
    for result in c.results.values():
        if "peak_allocated_gib" in result:
            result["peak_rss_gib"] = result.pop("peak_allocated_gib")
    found = states(checklist(c), "unsloth")
    state, figure = found["trains at least 1.3 times as fast"]
    assert state == "not measured"
    assert figure.startswith("needs a GPU; on this CPU 1.25×")


def test_a_backend_that_could_have_loaded_and_did_not_has_failed() -> None:
    broken: dict[str, Result] = {"load/unsloth": {"not_measured": "the process ended with code 1"}}
    loads = states(checklist(comparison(**broken)), "unsloth")["loads"]
    assert loads == ("failed", "the process ended with code 1")
    c = Comparison(broken, ["current", "unsloth"], "current", {"gpu": "none"}, {})
    assert states(checklist(c), "unsloth")["loads"][0] == "not measured"


def test_every_cell_says_what_loading_was() -> None:
    results: dict[str, Result] = {
        "train/batch=2/unsloth": {"module": "UnslothModule", "weights_gib": 3.0, "load_s": 7.0, "samples_per_s": 6.0},
        "train/batch=8/unsloth": {"not_measured": "out of memory"},
        "train/batch=2/peft": {"not_measured": "took longer than 9 s"},
        "load/unsloth": {"not_measured": "took longer than 900 s"},
    }
    assert loaded(results) == {"load/unsloth": results["train/batch=2/unsloth"]}
    c = Comparison({**results, **loaded(results)}, ["unsloth", "peft"], "unsloth", {"gpu": "a GPU"}, {})
    assert states(checklist(c), "unsloth")["loads"] == ("passed", "UnslothModule: 3.00 GiB of weights in 7.0 s")


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
    assert "<b>&</b>" not in html_page(c)
    assert "&lt;b&gt;&amp;&lt;/b&gt;" in html_page(c)
    assert "\\| a pipe" in markdown(c)


def test_lists_and_flags_may_be_given_plainly() -> None:
    args = ["--only", "a", "b/c", "--resume", "--steps", "3", "--config", "x", "--config", "y"]
    assert split_values(CompareBackends, args) == [
        "--resume=true", "--steps", "3", '--only=["a", "b/c"]', '--config=["x", "y"]',
    ]  # fmt: skip
    assert split_values({"compare": CompareBackends}, ["compare", "--resume", "false", '--only=["a"]']) == [
        "compare", "--resume", "false", '--only=["a"]',
    ]  # fmt: skip
