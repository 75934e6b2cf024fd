"""``deepsynth predict PATH --ckpt_path …``: what it leaves to be understood."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from deepsynth.__main__ import main
from deepsynth.cli.predict import with_defaults
from deepsynth.data import TextRenderer
from deepsynth.errors import UserError
from deepsynth.types import Document

CONFIG = """
model:
  class_path: PeftModule
  init_args: {model_name: deepsynth/tiny, generation: {max_new_tokens: 24, samples: 0}}
data:
  class_path: TextImageDataModule
  init_args:
    source: {class_path: JsonlSource, init_args: {path: DOCS}}
    renderer:
      class_path: TextRenderer
      init_args: {page_width_px: 256, page_height_px: 256, margin_px: 10, font_size_px: 12}
    augmenter: {class_path: PageAugmenter, init_args: {preset: hard}}
    val_fraction: 0.0
trainer: {accelerator: cpu, max_steps: 1, enable_progress_bar: false}
"""


def test_the_settings_are_those_of_the_run_and_the_pages_stay_as_they_are(
    tmp_path: Path, jsonl: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.yaml").write_text(CONFIG.replace("DOCS", str(jsonl)))
    assert main(["fit", "--config", "mine.yaml"]) == 0
    renderer = TextRenderer(page_width_px=256, page_height_px=256, margin_px=10, font_size_px=12.0)
    (page,) = renderer(Document("a", "Scan number 7."), np.random.default_rng(0))
    Path("new/deep").mkdir(parents=True)
    page.image.save("new/deep/a.png")
    args = ["predict", "new", "--ckpt_path", "runs/mine", "--output", "results", "--format", "txt"]
    assert main([*args, "--trainer.enable_progress_bar=false"]) == 0
    assert Path("results/deep/a.txt").read_text() == "Scan number 7.\n", "the page was not degraded"
    assert "settings of" in caplog.text
    assert "without fine-tuning" not in caplog.text
    assert sorted(path.name for path in Path("runs").iterdir()) == ["mine", "mine-predict"]
    assert with_defaults(["predict", "new", "--ckpt_path", "runs/mine"]) == [
        *("predict", "--config", str(Path("runs/mine/config.yaml").resolve()), "--run_name=mine-predict"),
        *("--ckpt_path=null", "--data.source=DocumentSource", "--data.source.path=new", "--data.augmenter=null"),
        *("--data.source.recursive=true", "--ckpt_path", "runs/mine"),
    ]


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("a.jsonl", "JsonlSource"),
        ("a.json", "JsonlSource"),
        ("a.CSV", "CsvSource"),
        ("a.tsv", "CsvSource"),
        ("a.parquet", "ParquetSource"),
        ("a.pdf", "DocumentSource"),
    ],
)
def test_the_source_follows_from_the_path(name: str, source: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.touch()
    found = with_defaults(["predict", str(path), "--config", "mine.yaml"])
    assert found[1:] == [
        *("--config", "mine.yaml"),
        *(f"--data.source={source}", f"--data.source.path={path}", "--data.augmenter=null"),
    ]


def test_no_configuration_replaces_the_path(tmp_path: Path) -> None:
    """What a configuration sets counts where no option before it says otherwise, and one may have a source."""
    (tmp_path / "a.jsonl").touch()
    found = with_defaults(["predict", str(tmp_path / "a.jsonl"), "--x", "1", "--config=b", "-c", "d", "--y=2"])
    assert found == [
        *("predict", "--config=b", "-c", "d"),
        *("--data.source=JsonlSource", f"--data.source.path={tmp_path}/a.jsonl", "--data.augmenter=null"),
        *("--x", "1", "--y=2"),
    ]


def test_without_a_path_nothing_is_added() -> None:
    args = ["predict", "--config", "mine.yaml", "--ckpt_path", "nowhere.ckpt"]
    assert with_defaults(args) == args


def test_the_settings_of_the_run_are_taken_where_no_others_are_named(tmp_path: Path) -> None:
    run = tmp_path / "mine"
    (run / "adapter").mkdir(parents=True)
    (run / "config.yaml").touch()
    settings = ["--config", str(run / "config.yaml"), "--run_name=mine-predict", "--ckpt_path=null"]
    for given in (["--ckpt_path", str(run)], [f"--ckpt_path={run}/adapter"], ["--a=1", "--ckpt_path", str(run), "b"]):
        assert with_defaults(["predict", *given]) == ["predict", *settings, *given]
        for own in (["-c", "x"], ["--config=x"], ["--config", "x"]):
            assert with_defaults(["predict", *given, *own]) == ["predict", *given, *own]
    for without in (["--ckpt_path"], ["--ckpt_path="], ["--config_path", str(run)]):
        assert with_defaults(["predict", *without]) == ["predict", *without]


def test_a_path_that_is_not_there_is_a_mistake() -> None:
    with pytest.raises(UserError, match=r"nowhere: no such file or folder to predict"):
        with_defaults(["predict", "nowhere"])


@pytest.mark.parametrize(
    ("option", "logger", "package"), [("=", "WandbLogger", "wandb"), ("+=", "MLFlowLogger", "mlflow")]
)
def test_a_logger_without_its_package_is_one_line(
    option: str, logger: str, package: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["fit", "--config", "quickstart", f"--trainer.logger{option}{logger}"]) == 1
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("deepsynth: ")]
    assert lines == [f"deepsynth: trainer.logger is {logger}, which needs {package}: pip install {package}"]
