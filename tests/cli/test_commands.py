"""Which function a command line leads to, and with what; what is done there has tests of its own."""

from __future__ import annotations

import csv
import functools
import inspect
import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from deepsynth.cli import commands, console, quickstart
from deepsynth.cli.commands import COMMANDS, split_values
from deepsynth.cli.data_commands import hub, skip_of
from deepsynth.cli.evaluation import compression, model
from deepsynth.data import TextRenderer
from deepsynth.errors import UserError
from deepsynth.hub import data as hub_data
from deepsynth.hub import pull, worker
from deepsynth.measurement.evaluation.command import Evaluate
from deepsynth.measurement.published.commands import EvaluateOlmocr, EvaluateOmniDocBench
from deepsynth.serving.command import Serve
from deepsynth.types import Document
from tests.cli.test_cli import TINY
from tests.helpers.generation import tokenizer_of


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (["--only", "a", "b", "--x=1"], ["--x=1", '--only=["a", "b"]']),
        (["--only", "a", "--only", "b"], ['--only=["a", "b"]']),
        (["--only", '["a"]'], ["--only", '["a"]']),
        (["--only"], ["--only"]),
        (["--only", "--flag"], ["--only", "--flag=true"]),
        (["--flag", "--only", "a"], ["--flag=true", '--only=["a"]']),
        (["--flag", "false"], ["--flag", "false"]),
        (["--name", "x", "--flag"], ["--name", "x", "--flag=true"]),
        (["place", "--name=x"], ["place", "--name=x"]),
    ],
)
def test_lists_and_flags_are_spelled_as_the_parser_takes_them(args: list[str], expected: list[str]) -> None:
    def component(place: Path, only: Sequence[str] = (), flag: bool = False, name: str = "") -> None:  # type: ignore[name-defined] # noqa: F821
        pass

    assert split_values(component, args) == expected
    assert split_values({"own": component}, ["own", *args]) == ["own", *expected]
    assert split_values({"own": component}, ["other", *args]) == ["other", *args]
    assert split_values({"own": component}, []) == []


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (["p.jsonl", "--confidence", "0.9", "--worst=3"], (Evaluate, {"confidence": 0.9, "worst": 3})),
        (["olmocr", "b", "p", "--resamples=5"], (EvaluateOlmocr, {"benchmark": Path("b"), "resamples": 5})),
        (["omnidocbench", "b", "p"], (EvaluateOmniDocBench, {"benchmark": Path("b"), "resamples": 1000})),
        (["compression", "--output=x"], ("compression", ["--output=x"])),
        (["--config", "x"], ("model", ["--config", "x"])),
        (["-c", "x"], ("model", ["-c", "x"])),
        (["--ckpt_path=x"], ("model", ["--ckpt_path=x"])),
        (["--model.model_name=x"], ("model", ["--model.model_name=x"])),
        (["--data.source=x", "--worst=1"], ("model", ["--data.source=x", "--worst=1"])),
        (["--trainer.devices=1"], ("model", ["--trainer.devices=1"])),
        (["--run_name", "x"], ("model", ["--run_name", "x"])),
    ],
)
def test_evaluate_takes_predictions_a_benchmark_or_a_model(
    args: list[str], expected: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[Any] = []

    def keep(self: Any, print_line: Any) -> None:
        assert print_line is commands.print_line
        found.append((type(self), {name: vars(self)[name] for name in expected[1]}))

    for kind in (Evaluate, EvaluateOlmocr, EvaluateOmniDocBench):
        monkeypatch.setattr(kind, "run", keep)
    monkeypatch.setattr(model, "evaluate_model", lambda args, line: found.append(("model", args)))
    monkeypatch.setattr(compression, "evaluate_compression", lambda args, line: found.append(("compression", args)))
    COMMANDS["evaluate"](args)
    assert found == [expected]


def test_serve_runs_with_the_log_of_a_command_that_does_not_train(monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[Any] = []
    monkeypatch.setattr(Serve, "run", lambda self, line, prepare: found.append((self.address.port, line, prepare)))
    COMMANDS["serve"](["--model_name", "deepsynth/tiny", "--port=2000", "--accelerator=cpu"])
    ((port, line, prepare),) = found
    assert (port, line) == (2000, commands.print_line)
    assert (prepare.func, prepare.keywords) == (console.prepare, {"trains": False})


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (["pull", "hf://a/b"], ("pull", "hf://a/b", None)),
        (["pull", "hf://a/b", "out"], ("pull", "hf://a/b", Path("out"))),
        (["pull", "hf://a/b", "--output", "out"], ("pull", "hf://a/b", Path("out"))),
        (["pull", "--output", "out", "hf://a/b"], ("pull", "hf://a/b", Path("out"))),
        (["resume", "run"], ("resume", Path("run"), 600.0)),
        (["resume", "run", "--deadline_s=5"], ("resume", Path("run"), 5.0)),
    ],
)
def test_what_goes_to_and_from_the_hub(
    args: list[str], expected: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found: list[Any] = []

    def take(name: str, result: Any) -> Any:
        return lambda *args: (found.append((name, *args)), result)[1]

    monkeypatch.setattr(pull, "pull", take("pull", Path("there")))
    monkeypatch.setattr(worker, "resume", take("resume", ["one", "two"]))
    hub(args)
    assert found == [expected]
    assert capsys.readouterr().out == ("there\n" if args[0] == "pull" else "one\ntwo\n")


def test_what_is_skipped_is_named_once_and_only_where_it_may_be(capsys: pytest.CaptureFixture[str]) -> None:
    assert skip_of(SimpleNamespace(on_error="raise")) is None
    skip = skip_of(SimpleNamespace(on_error="skip"))
    assert skip is not None
    skip("a.jsonl, line 2", UserError("a.jsonl, line 2: no text"))
    skip("b", UserError("another reason"))
    assert capsys.readouterr().out == "skipped: a.jsonl, line 2: no text\nskipped: b: another reason\n"


def test_the_quickstart_ends_with_a_table_of_what_it_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[list[str]] = []
    rates = iter([0.9876, 0.0123, 0.01, 0.25])

    class Command:
        def __init__(self, args: list[str]) -> None:
            asked.append(args)
            self.trainer = SimpleNamespace(default_root_dir=str(tmp_path))
            if args[0] == "predict":
                (tmp_path / "predictions.metrics.json").write_text(json.dumps({"cer": next(rates)}))

    monkeypatch.setattr(quickstart, "DeepSynthCLI", Command)
    monkeypatch.setattr(quickstart, "PredictCLI", Command)
    quickstart.quickstart(["--trainer.max_steps=1"])
    fit, *predictions = asked
    assert (fit[0], fit[-1]) == ("fit", "--trainer.max_steps=1")
    names = ["dark-before", "dark-after", "light-before", "light-after"]
    assert [next(arg for arg in args if "run_name" in arg) for args in predictions] == [
        f"--run_name={n}" for n in names
    ]
    assert [f"--ckpt_path={tmp_path / 'adapter'}" in args for args in predictions] == [False, True] * 2
    assert ["--data.renderer.text_color=[black]" in args for args in predictions] == [False, False, True, True]
    assert all(f"--trainer.default_root_dir={tmp_path / 'unseen'}" in args for args in predictions)
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == [
        f"measuring on 32 passages that the model was not trained on, before and after: {kind} pages"
        for kind in ("dark", "light")
    ]
    assert lines[2:7] == [
        "",
        "character error rate on unseen passages     before   after",
        "new skill: light text on a dark background   0.988   0.012",
        "old skill: dark text on a light background   0.010   0.250",
        "",
    ]
    assert str(tmp_path / "gallery.html") in lines[7]
    assert str(tmp_path / "report.html") in lines[8]
    quickstart.quickstart(["--help"])
    assert len(asked) == 5
    assert capsys.readouterr().out.startswith("usage: deepsynth quickstart")


def test_export_prints_what_it_returns(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from deepsynth.export import merge

    monkeypatch.setattr(merge, "export_model", functools.wraps(merge.export_model)(lambda **options: options["output"]))
    COMMANDS["export"](["adapter", "--output", "merged"])
    assert capsys.readouterr().out == "merged\n"


def test_render_writes_so_many_pages_with_the_tokens_of_their_texts(
    tmp_path: Path, jsonl: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "tiny.yaml").write_text(TINY.replace("DOCS", str(jsonl)))
    folder = tmp_path / "pages"
    COMMANDS["render"](["--config", str(tmp_path / "tiny.yaml"), "--num=2", "--output", str(folder)])
    with (folder / "pages.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    tokenizer = tokenizer_of("deepsynth/tiny-random")
    texts = [json.loads(line)["text"] for line in jsonl.read_text().splitlines()]
    assert [int(row["text_tokens"]) for row in rows] == [len(tokenizer.tokenize(text)) for text in texts[:2]]
    assert len(list(folder.glob("*_0.png"))) == 2
    assert capsys.readouterr().out.splitlines()[-1] == f"2 pages, contact.png and pages.csv in {folder}"


def test_what_is_left_out_is_as_documented(tmp_path: Path, jsonl: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("tiny.yaml").write_text(TINY.replace("DOCS", str(jsonl)))
    plan = compression.PlanCLI(["--config", "tiny.yaml"]).config
    curve = {"modes": [], "font_sizes": [14.0], "text_tokens": [600, 1300], "bucket": 100, "num": 100, "control": True}
    assert {name: plan[name] for name in curve} == curve
    evaluated = model.EvaluateCLI(["predict", "--config", "tiny.yaml", "--trainer.limit_predict_batches=0"]).options
    signature = inspect.signature(Evaluate).parameters
    assert evaluated == {name: signature[name].default for name in evaluated}
    assert set(signature) - set(evaluated) == {"predictions", "output"}


def test_the_pages_that_are_pushed_are_those_of_training(
    tmp_path: Path, jsonl: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("tiny.yaml").write_text(TINY.replace("DOCS", str(jsonl)))
    found: list[Any] = []

    def push(documents: Any, pages: Any, target: Any, folder: Path, **options: Any) -> list[str]:
        first = next(iter(documents))
        found.append((first.id, [page.text for page in pages(first)], target, folder, options))
        with pytest.raises(UserError):
            pages(Document("bad", "x " * 10**5))
        return ["pushed"]

    monkeypatch.setattr(hub_data, "push_data", push)
    shared = ["push-data", "--config", "tiny.yaml", "--repo_id=owner/pages", "--data.renderer.on_overflow=error"]
    hub(shared)
    hub([*shared, "--shard=1/3", "--private=false", "--split=test", "--revision=next", "--seed_everything=5"])
    hub([*shared, "--work_folder=wait"])
    texts = json.loads(jsonl.read_text().splitlines()[0])
    assert {(identity, *pages) for identity, pages, *_ in found} == {(texts["id"], texts["text"])}
    assert [(target.repo_id, target.revision, target.private, target.repo_type) for _, _, target, *_ in found] == [
        ("owner/pages", "main", True, "dataset"),
        ("owner/pages", "next", False, "dataset"),
        ("owner/pages", "main", True, "dataset"),
    ]
    below = Path("runs/push-data/owner--pages")
    assert [folder for *_, folder, _ in found] == [below, below / "shard-1-of-3", Path("wait")]
    options = [options for *_, options in found]
    assert [one["split"] for one in options] == ["train", "test", "train"]
    assert [one["delivery"].part for one in options] == [(0, 1), (1, 3), (0, 1)]
    assert [one["recipe"]["seed"] for one in options] == [0, 5, 0]
    assert {"TextRenderer", "text", "seed"} <= set(options[0]["recipe"])
    assert capsys.readouterr().out == "pushed\n" * 3


def test_a_curve_s_conditions_are_checked_before_anything_is_done(tmp_path: Path) -> None:
    source = ["--data.source=PythonDocsSource", "--model.model_name=deepsynth/tiny-random"]
    for options, message in (
        (["--text_tokens=[9]"], "text_tokens"),
        (["--text_tokens=[0, 3]"], "text_tokens"),
        (["--bucket=0"], "--bucket is 0; it must be at least 1"),
        (["--font_sizes=[12, 0]"], "font_sizes"),
    ):
        with pytest.raises(UserError, match=message):
            compression.evaluate_compression([*source, f"--output={tmp_path / 'out'}", *options], print)
    assert not (tmp_path / "out").exists()


def test_the_pages_of_a_report_are_those_of_the_documents_that_it_shows(tmp_path: Path) -> None:
    taken: list[str] = []

    def source() -> Iterator[Document]:
        for name in "abcd":
            taken.append(name)
            yield Document(name, f"Text of {name}.")

    renderer = TextRenderer(page_width_px=64, page_height_px=64, margin_px=2)
    pipeline = SimpleNamespace(pages=lambda document, _, epoch: renderer(document, np.random.default_rng(epoch)))
    data: Any = SimpleNamespace(source=source(), pipeline=lambda: pipeline)
    assert model.page_images(data, []) == {}
    assert taken == []
    found = model.page_images(data, ["c", "a"])
    assert list(found) == ["a", "c"]
    assert [image.size for images in found.values() for image in images] == [(64, 64)] * 2
    assert taken == ["a", "b", "c"], "no more than it needs"


def test_a_curve_s_pages_are_predicted_in_every_condition(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: dict[str, list[str]] = {}

    class Command:
        def __init__(self, args: list[str]) -> None:
            folder = Path(args[-1].removeprefix("--output="))
            folder.mkdir(parents=True)
            (folder / "predictions.jsonl").write_text('{"id": "a", "prediction": "a b", "target": "a b"}\n' * 4)
            ran[folder.name] = args

    monkeypatch.setattr(compression, "CompressionCLI", Command)
    monkeypatch.setattr(compression, "plot", lambda *_: None)
    out, said = tmp_path / "out", list[str]()
    file = tmp_path / "long.jsonl"
    file.write_text(json.dumps({"id": "a", "text": " ".join(f"number {number}" for number in range(200))}))
    source = ["--data.source=JsonlSource", f"--data.source.path={file}", "--ckpt_path", "adapter"]
    source += ["--model.model_name=deepsynth/tiny"]
    conditions = ["--modes=[tiny, small]", "--font_sizes=[12, 16]", "--text_tokens=[20, 30]", "--num=3"]
    compression.evaluate_compression([*source, *conditions, f"--output={out}"], said.append)
    modes, sizes, ends = ("tiny", "small"), (12, 16), ("", "-tuned", "-shuffled", "-shuffled-tuned")
    assert list(ran) == [f"{mode}-{size}px{end}" for mode in modes for size in sizes for end in ends]
    for name, args in ran.items():
        mode, size, *rest = name.split("-")
        file = out / ("shuffled.jsonl" if "shuffled" in rest else "texts.jsonl")
        options = {f"--data.mode={mode}", f"--data.renderer.font_size_px={size[:-2]}", f"--data.source.path={file}"}
        assert options <= set(args)
        assert ("--ckpt_path" in args, "adapter" in args) == ("tuned" in rest,) * 2
    tokenizer = tokenizer_of("deepsynth/tiny")
    texts = [json.loads(line)["text"] for line in (out / "texts.jsonl").read_text().splitlines()]
    assert len(texts) == 3
    assert all(18 <= len(tokenizer.tokenize(text)) <= 30 for text in texts), "a word less where one more is too much"
    mixed = [json.loads(line)["text"] for line in (out / "shuffled.jsonl").read_text().splitlines()]
    assert [sorted(text) for text in mixed] == [sorted(text) for text in texts]
    assert not set(mixed) & set(texts)
    record = json.loads((out / "compression.json").read_text())
    assert [sum(point["pages"] for point in curve["points"]) for curve in record["curves"]] == [3] * 16
    assert said[-1] == f"compression.png, .md and .json in {out}"
    assert (out / "compression.md").read_text().splitlines() == said[:-1]
