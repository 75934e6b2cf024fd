"""What the command line puts into a Trainer: callbacks, loggers, checkpoints, and the writer of predictions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch.callbacks import ModelCheckpoint

from deepsynth.callbacks import AdapterCheckpoint, PredictionWriter
from deepsynth.cli import trainer
from deepsynth.cli.predict import PredictCLI
from deepsynth.cli.trainer import DeepSynthCLI
from deepsynth.data.shards import Shard
from deepsynth.errors import UserError
from tests.cli.test_cli import TINY

BOTH = ["ProcessGuard", "VramMonitor"]
LOGGED = ["LearningRateMonitor", "RowsBeforeCheckpoints", "RunReport"]


@pytest.fixture
def config(tmp_path: Path, jsonl: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.yaml").write_text(TINY.replace("DOCS", str(jsonl)))
    return "tiny.yaml"


def names(cli: DeepSynthCLI) -> list[str]:
    """Return the names of the callbacks, without checkpoints and what Lightning adds."""
    found = [type(one).__name__ for one in cli.trainer.callbacks]  # type: ignore[attr-defined]
    return [name for name in found if name not in ("ModelSummary", "ModelCheckpoint", "RunConfig")]


def fit(config: str, *options: str, stage: str = "fit") -> DeepSynthCLI:
    """Run a fit of no step."""
    return DeepSynthCLI([stage, "--config", config, *(["--trainer.max_steps=0"] if stage == "fit" else []), *options])


def test_a_fit_has_its_callbacks_and_keeps_the_last_and_the_best(config: str, tmp_path: Path) -> None:
    cli = fit(config)
    assert sorted(names(cli)) == sorted([*BOTH, "Throughput", "RunPlan", *LOGGED, "SampleGallery", "AdapterCheckpoint"])
    checkpoints = [one for one in cli.trainer.checkpoint_callbacks if isinstance(one, ModelCheckpoint)]
    last, best = sorted(checkpoints, key=lambda one: one.monitor or "")
    for one, filename in ((last, "last"), (best, "best")):
        assert (one.filename, Path(str(one.dirpath))) == (filename, tmp_path / "runs/tiny/checkpoints")
    assert (last.monitor, best.monitor, best.mode) == (None, "val/cer", "min")
    (adapter,) = [one for one in cli.trainer.callbacks if isinstance(one, AdapterCheckpoint)]  # type: ignore[attr-defined]
    assert adapter.folder == str(Path("runs/tiny/adapter"))
    assert [type(logger).__name__ for logger in cli.trainer.loggers] == ["TensorBoardLogger", "MetricsCsv"]
    assert cli.trainer.loggers[0].save_dir == "runs/tiny"
    assert Path("runs/tiny/tensorboard").is_dir()


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (
            ["--trainer.logger=false", "--model.generation.samples=0"],
            [*BOTH, "Throughput", "RunPlan", "AdapterCheckpoint"],
        ),
        (
            ["--trainer.enable_checkpointing=false", "--data.val_fraction=0"],
            [*BOTH, "Throughput", "RunPlan", *LOGGED],
        ),
        (["--trainer.fast_dev_run=1"], []),
        (
            ["--trainer.logger=false", "--trainer.enable_checkpointing=false", "--trainer.callbacks+=VramMonitor"],
            ["VramMonitor", "ProcessGuard", "Throughput", "RunPlan", "SampleGallery"],
        ),
    ],
)
def test_what_is_switched_off_or_given_is_not_added(options: list[str], expected: list[str], config: str) -> None:
    cli = fit(config, *options)
    assert sorted(names(cli)) == sorted(expected)
    best = [one for one in cli.trainer.checkpoint_callbacks if isinstance(one, ModelCheckpoint) and one.monitor]
    assert not best


def test_a_validation_writes_no_checkpoint(config: str) -> None:
    cli = fit(config, "--trainer.limit_val_batches=1", "--model.generation.samples=0", stage="validate")
    assert sorted(names(cli)) == sorted(BOTH)
    assert cli.trainer.checkpoint_callbacks == []


@pytest.mark.parametrize(
    ("options", "file", "formats", "tokens", "shard"),
    [
        (
            ["--output=out", "--format", "txt, md,", "--token_logprobs"],
            "out/predictions.jsonl",
            ("txt", "md"),
            True,
            Shard(),
        ),
        (["--output=out", "--shard=1/3"], "out/predictions.1-of-3.jsonl", ("jsonl",), False, Shard(1, 3)),
    ],
)
def test_a_prediction_is_written_as_its_options_say(
    options: list[str],
    file: Any,
    formats: tuple[str, ...],
    tokens: bool,
    shard: Shard,
    config: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    with pytest.warns(UserWarning, match="deepsynth/tiny-random has random weights"):
        cli = PredictCLI(["predict", "--config", config, "--trainer.limit_predict_batches=0", *options])
    assert "predicting with deepsynth/tiny-random without fine-tuning" in caplog.text
    assert sorted(names(cli)) == sorted([*BOTH, "PredictionWriter"])
    (writer,) = [one for one in cli.trainer.callbacks if isinstance(one, PredictionWriter)]  # type: ignore[attr-defined]
    assert (writer.file, writer.formats, writer.token_logprobs, writer.resume) == (file, formats, tokens, False)
    assert cli.datamodule.predict_shard == shard


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--trainer.callbacks+=PredictionWriter", "--token_logprobs"], "has a PredictionWriter too"),
        (["--format=docx"], "docx"),
    ],
)
def test_options_of_a_second_writer_are_refused(options: list[str], message: str, config: str) -> None:
    with pytest.raises(UserError, match=message):
        PredictCLI(["predict", "--config", config, "--trainer.limit_predict_batches=0", *options])


def test_what_a_command_leaves_out_is_as_documented(
    tmp_path: Path, jsonl: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    cli = DeepSynthCLI(["--data.source=JsonlSource", f"--data.source.path={jsonl}"], run=False)
    assert (type(cli.model).__name__, cli.model.stays_on_device) == ("PeftModule", True)
    assert (cli.config["seed_everything"], cli.datamodule.seed) == (0, 0)
    assert (cli.trainer.log_every_n_steps, cli.trainer.precision) == (10, "32-true")
    assert "ModelSummary" not in {type(one).__name__ for one in cli.trainer.callbacks}  # type: ignore[attr-defined]
    assert "TQDMProgressBar" in names(cli)


def test_a_command_that_runs_nothing_and_other_processes_claim_no_folder(
    config: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = Path("runs")
    cli = DeepSynthCLI(["--config", config], run=False)
    assert (cli.choose_run_folder(root), root.exists()) == (root / "tiny", False)
    (root / "tiny").mkdir(parents=True)
    (root / "tiny/metrics.csv").touch()
    assert cli.choose_run_folder(root) == root / "tiny-2"
    first = fit(config, "--run_name=other")
    assert first.trainer.default_root_dir == "runs/other"
    monkeypatch.setattr(trainer, "launched_rank", lambda: 1)
    assert first.choose_run_folder(root) == root / "other-2"
    assert sorted(path.name for path in root.iterdir()) == ["other", "tiny"]


@pytest.mark.filterwarnings("ignore:You passed .* AMP with fp16 is not supported on CPU")
@pytest.mark.parametrize(
    ("options", "precision"),
    [
        (["--model.dtype=float16"], "bf16-mixed"),  # which is what Lightning makes of 16-mixed on a CPU
        (["--model.dtype=float16", "--trainer.precision=32-true"], "32-true"),
        (["--model.dtype=bfloat16"], "32-true"),
    ],
)
def test_weights_of_float16_have_their_loss_scaled(options: list[str], precision: str, config: str) -> None:
    assert DeepSynthCLI(["--config", config, *options], run=False).trainer.precision == precision


def test_the_table_of_metrics_comes_after_the_loggers_that_were_given(config: str) -> None:
    csv = '{"class_path": "lightning.pytorch.loggers.CSVLogger", "init_args": {"save_dir": "logs"}}'
    for given, count in ((csv, 1), (f"[{csv}, {csv}]", 2)):
        cli = DeepSynthCLI(["--config", config, f"--trainer.logger={given}"], run=False)
        assert [type(one).__name__ for one in cli.trainer.loggers] == [*(["CSVLogger"] * count), "MetricsCsv"]
