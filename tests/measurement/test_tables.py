"""What a report makes of results: every column by its figure, every line by its words; the numbers are made up."""

from __future__ import annotations

from typing import Any

import pytest

from deepsynth.measurement.benchmark import FitBenchmark, GenerateBenchmark, TrainBenchmark, format_head, format_row
from deepsynth.measurement.cells import Result
from deepsynth.measurement.checklist import checklist
from deepsynth.measurement.compare import CompareBackends, one_line
from deepsynth.measurement.report import all_tables, markdown, plots, summary
from deepsynth.measurement.tables import Comparison, missing, tables

SETTINGS: dict[str, Any] = {"text_tokens": 321, "new_tokens": 77, "quality_steps": 9}


def make(results: dict[str, Result], *, price: float | None = None, gpu: str = "A GPU", **facts: str) -> Comparison:
    return Comparison(results, ["a", "b"], "a", {"gpu": gpu, **facts}, SETTINGS, price)


def columns(title: str, c: Comparison) -> list[dict[str, str]]:
    """Return the rows of a table by the names of its columns."""
    (table,) = [table for table in tables(c) if table.title == title]
    return [dict(zip(table.head, row, strict=True)) for row in table.rows]


FIGURES: dict[str, tuple[str, Result, dict[str, str]]] = {
    "load": (
        "Backends",
        {"module": "M", "model_name": "n", "weights": "random", "device": "CPU", "dtype": "float32", "seed": 3}
        | {"weights_gib": 1.23456, "load_s": 2.345, "trainable": 1234567},
        {"module": "M", "model": "n", "weights": "random", "device": "CPU", "dtype": "float32", "seed": "3"}
        | {"weights GiB": "1.235", "load s": "2.3", "trainable": "1,234,567"},
    ),
    "train/batch=2": (
        "Training",
        {"samples_per_s": 2.345, "samples_per_s_low": 2.0, "samples_per_s_high": 3.0, "tokens_per_s": 1234.5678}
        | {"peak_allocated_gib": 4.567, "peak_reserved_gib": 5.678, "peak_rss_gib": 6.789, "mfu": 0.12345},
        {"work": "batch 2", "samples/s": "2.35 (2.00–3.00)", "×": "1.00×", "tokens/s": "1,235", "MFU %": "12.3"}
        | {"peak allocated GiB": "4.57", "reserved GiB": "5.68", "peak RSS of the process GiB": "6.79"}
        | {"cost of 50,000": "10.66"},
    ),
    "phases/batch=2": (
        "Where a step's time goes",
        {"data_ms": 1.25, "vision_ms": 2.36, "decoder_ms": 3.47, "backward_ms": 4.58, "optimizer_ms": 5.69}
        | {"step_ms": 6.78, "positions": 123.4},
        {"work": "batch 2", "data": "1.2", "vision": "2.4", "decoder forward": "3.5", "backward": "4.6"}
        | {"optimizer": "5.7", "step": "6.8", "tokens a batch": "123"},
    ),
    "generate/batch=1": (
        "Generation",
        {"prefill_ms": 12.34, "ms_per_token": 2.345, "tokens_per_s": 345.67, "tokens": 77.4},
        {"work": "batch 1", "prefill ms": "12.3", "ms a token": "2.35", "×": "1.00×", "tokens/s": "345.7"}
        | {"tokens a page": "77"},
    ),
    "largest_batch": (
        "Largest batch",
        {"largest_batch": 32, "too_large": 34, "memory_gib": 79.16},
        {"fits": "32", "does not fit": "34", "of GiB": "79.2"},
    ),
    "longest_context": (
        "Longest context",
        {"longest_context": 4096, "too_long": "none tried", "memory_gib": 79.16},
        {"fits": "4,096", "does not fit": "none tried", "of GiB": "79.2"},
    ),
    "quality": (
        "Quality",
        {f"{name}_{when}": value + (when == "after") for value, name in
         enumerate(("loss", "cer", "wer", "rouge1", "rouge2", "rougeL", "bleu")) for when in ("before", "after")},
        {title: f"{value}.000 → {value + 1}.000" for value, title in
         enumerate(("loss", "CER", "WER", "ROUGE-1", "ROUGE-2", "ROUGE-L", "BLEU"))},
    ),
}  # fmt: skip


@pytest.mark.parametrize("cell", FIGURES)
def test_every_figure_is_in_its_column_with_its_digits(cell: str) -> None:
    title, result, expected = FIGURES[cell]
    c = make({f"{cell}/a": result, f"{cell}/b": {"not_measured": "why"}}, price=1.8)
    first, second = columns(title, c)
    assert first == {"backend": "a", **expected}
    names = [name for name in first if name not in ("work", "backend")]
    assert [second[name] for name in names] == ["not measured", *["–"] * (len(names) - 1)]
    # Each figure by itself: a column that no cell has a figure for is left out.
    for key, value in result.items():
        if key.endswith(("_low", "_high", "_before", "_after")):
            continue
        (alone, _) = columns(title, make({f"{cell}/a": {key: value}}, price=None))
        shown = {name: text for name, text in alone.items() if name not in ("work", "backend")}
        assert shown.items() <= {**expected, "samples/s": "2.35"}.items()
        assert shown
        assert "cost of 50,000" not in shown, "without a price nothing has a cost"


def test_the_notes_say_how_it_was_measured() -> None:
    c = make({f"{cell}/a": result for cell, (_, result, _) in FIGURES.items()})
    notes = {table.title: table.note for table in tables(c)}
    assert list(notes) == [title for title, _, _ in FIGURES.values()]
    assert "321 text tokens a sample" in notes["Training"]
    assert "relative to a." in notes["Training"]
    assert "77 new tokens at most" in notes["Generation"]
    assert "after 9 steps of fine-tuning" in notes["Quality"]
    assert not any("{" in note for note in notes.values())
    assert tables(make({})) == []


@pytest.mark.parametrize(
    ("own", "base", "ratio"), [(3.0, 2.0, "1.50×"), (1.0, 4.0, "0.25×"), (3.0, 0.0, "–"), (None, 2.0, "–")]
)
def test_ratios_are_to_the_baseline_of_the_same_cell(own: float | None, base: float, ratio: str) -> None:
    results: dict[str, Result] = {"train/batch=1/a": {"samples_per_s": base}, "train/batch=2/a": {"samples_per_s": 99}}
    results["train/batch=1/b"] = {"samples_per_s": own} if own is not None else {"tokens_per_s": 1}
    assert columns("Training", make(results))[1]["×"] == ratio


def test_what_has_no_figure_is_told_once_for_each_reason() -> None:
    results: dict[str, Result] = {
        "load/a": {"not_measured": "no GPU"},
        "train/batch=2/a": {"not_measured": "no GPU"},
        "train/batch=2/b": {"not_measured": "no GPU"},
        "quality/a": {"not_measured": "random"},
        "load/b": {"load_s": 1.0},
    }
    assert missing(make(results)) == [
        ("a", "load, train/batch=2", "no GPU"),
        ("b", "train/batch=2", "no GPU"),
        ("a", "quality", "random"),
    ]


@pytest.mark.parametrize(
    ("gpu", "key", "on_gpu"),
    [("A GPU", "load_s", True), ("none", "peak_allocated_gib", True), ("none", "peak_rss_gib", False)],
)
def test_the_summary_says_on_what_it_was_measured(gpu: str, key: str, on_gpu: bool) -> None:
    c = make({"load/a": {key: 1.0}}, gpu=gpu, processor="a CPU of 8 cores")
    assert c.on_gpu is on_gpu
    text = summary(c)
    assert text.startswith(f"Measured on {gpu}. " if on_gpu else "Measured on the CPU (a CPU of 8 cores). ")
    assert "Ratios are relative to a, the baseline." in text
    assert ("ratios say nothing about a GPU" in text) != on_gpu
    assert "(unknown)" in summary(make({}, gpu="none"))


def test_the_report_ends_with_the_facts_and_the_checklist() -> None:
    loads: Result = {"module": "M", "weights_gib": 2.0, "load_s": 1.0}
    c = make({"load/a": loads, "load/b": {"not_measured": "why | not"}}, price=2.5, torch="2.9")
    found = {table.title: table for table in all_tables(c)}
    assert list(found) == ["Backends", "Not measured", "Where and how it was measured", "Checklist"]
    assert found["Not measured"].rows == [["b", "load", "why | not"]]
    assert found["Where and how it was measured"].rows == [
        ["gpu", "A GPU"],
        ["torch", "2.9"],
        ["text_tokens", "321"],
        ["new_tokens", "77"],
        ["quality_steps", "9"],
        ["price per GPU hour", "2.5"],
    ]
    assert [len(line) for line in found["Checklist"].rows] == [4] * len(checklist(c))
    lines = markdown(c).splitlines()
    assert lines[0] == "# DeepSynth: backends side by side"
    start = lines.index("| backend | module | weights GiB | load s |")
    assert lines[start + 1 : start + 4] == [
        "| --- | ---: | ---: | ---: |",
        "| a | M | 2.000 | 1.0 |",
        "| b | not measured | – | – |",
    ]
    assert "| b | load | why \\| not |" in lines
    whole = make({"load/a": loads})
    assert "Not measured" not in [table.title for table in all_tables(whole)]
    assert "price per GPU hour" not in markdown(whole)


def test_there_is_a_plot_for_what_was_measured_and_it_shows_the_numbers() -> None:
    assert plots(make({})) == []
    results: dict[str, Result] = {
        "train/batch=2/a": {"samples_per_s": 2.345, "samples_per_s_low": 2.0, "samples_per_s_high": 3.0},
        "train/batch=2/b": {"samples_per_s": 4.0},
        "generate/batch=1/a": {"ms_per_token": 1234.5},
        "phases/batch=2/a": {"data_ms": 1.0, "vision_ms": 2.0, "decoder_ms": 4.0, "backward_ms": 8.0}
        | {"optimizer_ms": 16.0, "step_ms": 31.0},
    }
    found = dict(plots(make(results)))
    assert list(found) == ["Training: samples/s", "Generation: ms a token", "Where a step's time goes: ms"]
    for text in ("a, batch 2", "b, batch 2", ">2.3", ">4.00<"):
        assert text in found["Training: samples/s"], text
    assert ">1,234.50<" in found["Generation: ms a token"]
    phases = found["Where a step's time goes: ms"]
    for text in ("data", "vision", "decoder", "backward", "optimizer", ">31<"):
        assert text in phases, text
    assert all(svg.startswith("<svg") and svg.rstrip().endswith("</svg>") for svg in found.values())


# ---------------------------------------------------------------------- the checklist


def states(results: dict[str, Result], **facts: str) -> dict[tuple[str, str], tuple[str, str]]:
    return {(line.claim, line.backend): (line.state, line.figure) for line in checklist(make(results, **facts))}


@pytest.mark.parametrize(
    ("claim", "cell", "key", "reached", "missed", "figure"),
    [
        ("trains at least 1.3 times as fast", "train/batch=2", "samples_per_s", 13.0, 12.9, "1.30×: 13.00 samples/s"),
        ("needs at least 35 % less GPU memory", "train/batch=2", "peak_allocated_gib", 6.5, 6.51, "-35 %: 6.50 peak"),
        ("latency at least 40 % lower", "generate/batch=1", "ms_per_token", 6.0, 6.01, "-40 %: 6.00 ms a token"),
    ],
)
def test_a_target_is_reached_at_its_bound(
    claim: str, cell: str, key: str, reached: float, missed: float, figure: str
) -> None:
    for value, state in ((reached, "passed"), (missed, "failed")):
        found = states({f"{cell}/a": {key: 10.0}, f"{cell}/b": {key: value}})
        assert found[claim, "b"][0] == state
        assert (claim, "a") not in found
    work = cell.partition("/")[2].replace("=", " ")
    found = states({f"{cell}/a": {key: 10.0}, f"{cell}/b": {key: reached}})
    assert found[claim, "b"][1].startswith(figure)
    assert found[claim, "b"][1].endswith(f", a has 10.00 ({work}, the least favorable of 1)")
    assert states({})[claim, "b"] == ("not measured", "no cell was measured for both b and a")


@pytest.mark.parametrize(
    ("before", "after", "state", "figure"),
    [
        (0.8, 0.4, "passed", "-50 %: 0.400 after 9 steps of fine-tuning, 0.800 before"),
        (0.8, 0.41, "failed", "-49 %: 0.410 after 9 steps of fine-tuning, 0.800 before"),
        (0.2, 0.3, "failed", "+50 %: 0.300 after 9 steps of fine-tuning, 0.200 before"),
        (0.0, 0.0, "failed", "-0 %: 0.000 after 9 steps of fine-tuning, 0.000 before"),
    ],
)
def test_the_error_rate_must_halve(before: float, after: float, state: str, figure: str) -> None:
    result: Result = {"cer_before": before, "cer_after": after, "quality_steps": 9}
    found = states({"quality/a": result})
    assert found["halves the CER on the validation set", "a"] == (state, figure)
    assert found["halves the CER on the validation set", "b"] == ("not measured", "not run yet")
    assert found["keeps ROUGE and BLEU", "a"] == ("not measured", "no such metric")


@pytest.mark.parametrize("name", ["rouge1", "rouge2", "rougeL", "bleu"])
def test_no_other_metric_may_fall(name: str) -> None:
    for after, state in ((0.5, "passed"), (0.6, "passed"), (0.499, "failed")):
        result: Result = {f"{name}_before": 0.5, f"{name}_after": after, "wer_before": 0.5, "wer_after": 0.1}
        result |= {"cer_before": 0.5, "cer_after": 0.6, "quality_steps": 9}
        found = states({"quality/a": result, "quality/b": {f"{name}_before": 0.5, "not_measured": "why"}})
        figure = f"before → after fine-tuning: {name} 0.500 → {after:.3f}"
        assert found["keeps ROUGE and BLEU", "a"] == (state, figure)
        assert found["keeps ROUGE and BLEU", "b"][0] == "not measured"


@pytest.mark.parametrize(
    ("backend", "facts", "state"),
    [("a", {}, "failed"), ("a", {"gpu": "none"}, "not measured"), ("b", {}, "not measured")],
)
def test_not_loading_is_a_failure_where_it_could_have_been(backend: str, facts: dict[str, str], state: str) -> None:
    found = states({"load/a": {"not_measured": "it broke"}}, **facts)
    assert found["loads", backend] == (state, "it broke" if backend == "a" else "not run yet")


# ---------------------------------------------------------------------- lines of the terminal


def test_a_line_has_the_main_figures_or_the_reason() -> None:
    result: Result = {"samples_per_s": 1234.567, "mfu": 0.12345, "largest_batch": 32, "cer_after": 0.12345, "steps": 9}
    assert one_line("train/x", result) == (
        f"{'train/x':<34}samples_per_s 1,234.57, mfu 0.123, largest_batch 32, cer_after 0.1235"
    )
    digits = {
        "peak_allocated_gib": "1.23", "peak_rss_gib": "1.23", "load_s": "1.2", "weights_gib": "1.23", "step_ms": "1.2",
        "prefill_ms": "1.2", "ms_per_token": "1.23", "tokens_per_s": "1.2", "pages_per_s": "1.23", "start_s": "1.2",
        "longest_context": "1", "cer_before": "1.2346",
    }  # fmt: skip
    for key, shown in digits.items():
        assert one_line("x", {key: 1.23456}) == f"{'x':<34}{key} {shown}"
    assert one_line("load/x", {"not_measured": "why"}) == f"{'load/x':<34}not measured: why"


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (TrainBenchmark, "  1,234.57       1,235      1.50    12.3"),
        (FitBenchmark, "  1,234.57     12.35     23.5    34.6      1.50    12.3"),
        (GenerateBenchmark, "        12.3     23.46   1,234.6    34.57      1.50"),
    ],
)
def test_figures_stand_under_their_titles(kind: Any, expected: str) -> None:
    figures: Result = {
        "samples_per_s": 1234.567, "replayed_samples_per_s": 12.345678, "share": 0.23456, "data_wait": 0.34567,
        "mfu": 0.12345, "prefill_ms": 12.345, "ms_per_token": 23.456, "pages_per_s": 34.567, "tokens_per_s": 1234.567,
        "peak_rss_gib": 1.5,
    }  # fmt: skip
    head, row = format_head(kind.COLUMNS), format_row("cell/x", figures, kind.COLUMNS)
    assert row.removeprefix(f"{'cell/x':<44}").split() == expected.split()
    assert len(head) == len(row)
    position = 44
    for title, _, width, _, _ in kind.COLUMNS:
        position += width
        assert head[:position].endswith(title)
        assert row[:position][-1] != " "
        assert row[position : position + 1] in (" ", "")
    both = {**figures, "peak_allocated_gib": 2.5}
    assert " 2.50" in format_row("x", both, kind.COLUMNS)
    assert " 1.50" not in format_row("x", both, kind.COLUMNS)
    assert format_row("x", {}, kind.COLUMNS).strip() == "x"
    assert format_row("x", {"not_measured": "why"}, kind.COLUMNS) == f"{'x':<44}not measured: why"


# ---------------------------------------------------------------------- what is measured


def test_a_comparison_measures_in_an_order_that_one_process_can_do(tmp_path: Any) -> None:
    settings: dict[str, Any] = {
        "batch_sizes": (3, 5), "generate_batch_sizes": (7,), "text_tokens": 11, "new_tokens": 13, "steps": 17,
        "warmup_steps": 19, "repeats": 23, "quality_steps": 29, "memory_gib": 31.0,
    }  # fmt: skip
    compare = CompareBackends(config=[], backends=[], output=tmp_path, **settings)
    step = {"steps": 17, "warmup_steps": 19}
    work = {"text_tokens": 11, "repeats": 23}
    assert [(one.name, one.measure, dict(one.options)) for one in compare.measurements()] == [
        ("load", "load", {}),
        ("generate/batch=7", "generate", {"batch_size": 7, "new_tokens": 13, **work}),
        ("quality", "quality", {"steps": 29, "batch_size": 3}),
        ("train/batch=3", "train", {"batch_size": 3, **work, **step}),
        ("train/batch=5", "train", {"batch_size": 5, **work, **step}),
        ("phases/batch=3", "phases", {"batch_size": 3, **step}),
        ("phases/batch=5", "phases", {"batch_size": 5, **step}),
        ("largest_batch", "largest_batch", {"text_tokens": 11, "memory_gib": 31.0}),
        ("longest_context", "longest_context", {"memory_gib": 31.0}),
    ]
    without = CompareBackends(config=[], backends=[], output=tmp_path, **{**settings, "quality_steps": 0})
    assert "quality" not in [one.name for one in without.measurements()]


def test_the_benchmarks_measure_each_size_with_their_settings() -> None:
    step = {"steps": 7, "warmup_steps": 8, "repeats": 9}
    train = TrainBenchmark(batch_sizes=(1, 2), pages=("new", "repeated"), text_tokens=5, **step)  # type: ignore[arg-type]
    assert [(one.name, one.measure, dict(one.options)) for one in train.measurements()] == [
        (f"train/batch={n}{end}", "train", {"batch_size": n, "pages": pages, "text_tokens": 5, **step})
        for n in (1, 2)
        for pages, end in (("new", ""), ("repeated", "/repeated"))
    ]
    fit = FitBenchmark(batch_sizes=(3,), **step)  # type: ignore[arg-type]
    assert [(one.name, one.measure, dict(one.options)) for one in fit.measurements()] == [
        ("fit/batch=3", "fit", {"batch_size": 3, **step})
    ]
    generate = GenerateBenchmark(batch_sizes=(4,), new_tokens=5, num_pages=6, source_batch_size=7, repeats=8)
    assert [(one.name, one.measure, dict(one.options)) for one in generate.measurements()] == [
        ("generate/batch=4", "generate", {"batch_size": 4, "text_tokens": 1, "new_tokens": 5, "repeats": 8}),
        ("source", "source", {"batch_size": 7, "num_pages": 6, "new_tokens": 5}),
    ]
    assert [one.name for one in GenerateBenchmark(batch_sizes=(4,), num_pages=0).measurements()] == ["generate/batch=4"]


def test_what_is_measured_by_default_is_what_the_published_results_have(tmp_path: Any) -> None:
    compared = CompareBackends(config=[], backends=[], output=tmp_path).measurements()
    assert [one.name for one in compared] == [
        *("load", "generate/batch=1", "generate/batch=16", "quality", "train/batch=2", "train/batch=8"),
        *("phases/batch=2", "phases/batch=8", "largest_batch", "longest_context"),
    ]
    by_name = {one.name: dict(one.options) for one in compared}
    step = {"text_tokens": 768, "steps": 10, "warmup_steps": 3, "repeats": 3}
    assert by_name["train/batch=2"] == {"batch_size": 2, **step}
    assert by_name["generate/batch=1"] == {"batch_size": 1, "text_tokens": 768, "new_tokens": 128, "repeats": 3}
    assert by_name["quality"] == {"batch_size": 2, "steps": 100}
    trained = [dict(one.options) for one in TrainBenchmark().measurements()]
    assert trained == [{"batch_size": size, "pages": "new", **step} for size in (2, 8, 32)]
    (fitted,) = [dict(one.options) for one in FitBenchmark().measurements()]
    assert fitted == {"batch_size": 8, "steps": 20, "warmup_steps": 20, "repeats": 5}
    *generated, source = [dict(one.options) for one in GenerateBenchmark().measurements()]
    assert [one["batch_size"] for one in generated] == [1, 4, 16, 64]
    assert source == {"batch_size": 16, "num_pages": 64, "new_tokens": 128}
    assert [TrainBenchmark().cell_limit_s, CompareBackends(config=[], backends=[], output=tmp_path).cell_limit_s] == [
        900.0,
        900.0,
    ]


def test_the_backends_of_a_benchmark_are_options_of_fit(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deepsynth.measurement.benchmark.find_spec", lambda name: None)
    found = {one.name: one.args for one in TrainBenchmark(model_name="m", weights="pretrained").chosen_backends()}
    assert list(found) == ["transformers-eager", "transformers", "deepsynth"]
    source = ("--data=TextImageDataModule", "--data.source=PythonDocsSource", "--data.source.task=transcribe")
    model = ("--model.model_name=m", "--model.weights=pretrained")
    assert found["deepsynth"] == (*source, "--model=PeftModule", *model)
    plain = tuple(f"--model.engine.{name}" for name in ("kernels=plain", "loss=plain", "activation_memory=full"))
    for name, experts in (("transformers-eager", "eager"), ("transformers", "grouped_mm")):
        options = (*plain, f"--model.engine.experts_implementation={experts}")
        assert found[name] == (*source, "--model=PeftModule", *model, *options)
    monkeypatch.setattr("deepsynth.measurement.benchmark.find_spec", lambda name: name == "unsloth" or None)
    assert [one.name for one in GenerateBenchmark().chosen_backends()] == ["transformers", "deepsynth", "unsloth"]
    config = tmp_path / "mine.yaml"
    (own,) = [one for one in FitBenchmark(config=config).chosen_backends() if one.name == "deepsynth"]
    held = ("--data.val_fraction=0", "--data.test_fraction=0")
    assert own.args == ("--config", str(config), "--model=PeftModule", *held)
    fit = FitBenchmark(
        config=config, backends=[tmp_path / "b.yaml"], documents=tmp_path / "d", preset="scan", num_workers=0
    )
    (backend,) = fit.chosen_backends()
    assert backend.name == "b"
    assert backend.args == (
        *("--config", str(config), "--config", str(tmp_path / "b.yaml"), *held, "--data.source=JsonlSource"),
        *(f"--data.source.path={tmp_path / 'd'}", "--data.augmenter=PageAugmenter", "--data.augmenter.preset=scan"),
        "--data.num_workers=0",
    )
