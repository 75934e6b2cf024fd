"""The real command line on small data: what it writes, what it says, how it ends."""

from __future__ import annotations

import csv
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from lightning.pytorch import Callback

from deepsynth.__main__ import SUBCOMMANDS, main
from deepsynth.cli.run_folder import RunFolder
from deepsynth.cli.trainer import DeepSynthCLI
from deepsynth.errors import UserError
from deepsynth.modules import PeftModule
from tests.conftest import TEXTS

TINY = """
model:
  class_path: PeftModule
  init_args:
    generation: {max_new_tokens: 8, samples: 2}
    optimizer: {class_path: torch.optim.AdamW, init_args: {lr: 0.002}}
data:
  class_path: TextImageDataModule
  init_args:
    source: {class_path: JsonlSource, init_args: {path: DOCS}}
    renderer:
      class_path: TextRenderer
      init_args: {page_width_px: 384, page_height_px: 384, margin_px: 10, font_size_px: 14}
    batch_size: 2
    val_fraction: 0.3
    test_fraction: 0.2
trainer: {accelerator: cpu, num_sanity_val_steps: 0, enable_progress_bar: false, log_every_n_steps: 1}
"""


#: For runs whose figures nobody looks at: neither they nor a report of them are drawn.
NO_LOG = "--trainer.logger=false"


@pytest.fixture
def config(tmp_path: Path, jsonl: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.yaml").write_text(TINY.replace("DOCS", str(jsonl)))
    return "tiny.yaml"


@pytest.fixture(scope="module")
def one_step(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint of a fit of one step, for tests that only read it."""
    folder = tmp_path_factory.mktemp("one_step")
    rows = [json.dumps({"id": f"d{i}", "text": text}) for i, text in enumerate(TEXTS)]
    (folder / "docs.jsonl").write_text("\n".join(rows))
    (folder / "tiny.yaml").write_text(TINY.replace("DOCS", str(folder / "docs.jsonl")))
    short = ["--trainer.max_steps=1", "--trainer.limit_val_batches=0", f"--trainer.default_root_dir={folder}"]
    assert main(["fit", "--config", str(folder / "tiny.yaml"), NO_LOG, *short]) == 0
    return folder / "tiny/checkpoints/last.ckpt"


def one_line_of(capsys: pytest.CaptureFixture[str]) -> str:
    """Return the one line of an error, after whatever Lightning said before."""
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("deepsynth: ")]
    assert len(lines) == 1, lines
    return lines[0]


def test_a_run_writes_its_folder_and_the_next_stages_have_their_own(config: str, tmp_path: Path) -> None:
    assert main(["fit", "--config", config, "--trainer.max_steps=3"]) == 0
    run = tmp_path / "runs" / "tiny"
    last = run / "checkpoints" / "last.ckpt"
    for path in ("config.yaml", "metrics.csv", "tensorboard", "checkpoints/last.ckpt", "checkpoints/best.ckpt",
                 "adapter/adapter_config.json", "adapter/adapter_model.safetensors"):  # fmt: skip
        assert (run / path).exists(), path
    assert yaml.safe_load((run / "config.yaml").read_text())["trainer"]["default_root_dir"] == "runs"

    before = sorted(run.rglob("*"))
    columns: set[str] = set()
    for stage in ("validate", "test", "predict"):
        assert main([stage, "--config", config, "--ckpt_path", str(last)]) == 0
    assert sorted(run.rglob("*")) == before, "nothing comes into the folder of another run"
    for folder in (run, tmp_path / "runs/tiny-validate", tmp_path / "runs/tiny-test"):
        with (folder / "metrics.csv").open() as file:
            columns |= set(csv.DictReader(file).fieldnames or ())
    assert {"train/loss", "val/loss", "val/cer", "test/cer", "train/samples_per_s", "step"} <= columns
    rows = [json.loads(line) for line in (tmp_path / "runs/tiny-predict/predictions.jsonl").open()]
    assert [row["id"] for row in rows] == [f"d{i}" for i in range(8)]
    fields = {"id", "prediction", "target", "stop", "mean_logprob", "page_mean_logprobs", "prompt"}
    assert all(set(row) == fields for row in rows)
    names = sorted(p.name for p in (tmp_path / "runs").iterdir())
    assert names == ["tiny", "tiny-predict", "tiny-test", "tiny-validate"]
    left = [p.name for p in (tmp_path / "runs").rglob("*") if p.name.endswith((".partial", ".lock", ".part"))]
    assert left == []


def test_the_model_of_a_command_is_not_moved_when_the_trainer_is_done(config: str) -> None:
    command = DeepSynthCLI(["--config", config], run=False)
    assert command.model.to("meta").cpu().device.type == "meta"
    assert PeftModule().to("meta").cpu().device.type == "cpu"


def test_the_adapter_loads_in_plain_peft_and_computes_the_same(config: str, tmp_path: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForImageTextToText

    from deepsynth import PeftModule
    from deepsynth.models.registry import resolve_model_name

    arguments = ["--model.lora.experts=all", "--model.lora.mlp=true", "--trainer.max_steps=2", NO_LOG]
    arguments += ["--trainer.limit_val_batches=0"]
    assert main(["fit", "--config", config, *arguments]) == 0
    run = tmp_path / "runs" / "tiny"
    base = AutoModelForImageTextToText.from_pretrained(resolve_model_name("deepsynth/tiny-random"), dtype=torch.float32)
    plain = PeftModel.from_pretrained(base, str(run / "adapter")).eval()
    ours = PeftModule.load_from_checkpoint(run / "checkpoints" / "last.ckpt", weights_only=True)
    tokens = {"input_ids": torch.arange(10, 30)[None], "attention_mask": torch.ones(1, 20, dtype=torch.long)}
    with torch.no_grad():
        assert torch.equal(plain(**tokens).logits, ours.model.eval()(**tokens).logits)
        base_alone = AutoModelForImageTextToText.from_pretrained(
            resolve_model_name("deepsynth/tiny-random"), dtype=torch.float32
        )
        assert not torch.equal(plain(**tokens).logits, base_alone.eval()(**tokens).logits)


def test_a_checkpoint_holds_the_adapter_alone(one_step: Path) -> None:
    checkpoint = torch.load(one_step, weights_only=True)
    assert checkpoint["state_dict"]
    assert all("lora_" in name for name in checkpoint["state_dict"])
    assert checkpoint["deepsynth"]["prompt"] == "<image>\nFree OCR."


def test_a_run_goes_on_from_its_last_checkpoint_and_is_tested_with_its_best(
    config: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    fit = ["fit", "--config", config, "--ckpt_path", "last", "--trainer.val_check_interval=1", NO_LOG]
    fit += ["--trainer.limit_val_batches=1", "--model.generation.max_new_tokens=2"]
    assert main([*fit, "--trainer.max_steps=1"]) == 0
    assert main([*fit, "--trainer.max_steps=2"]) == 0
    assert [p.name for p in (tmp_path / "runs").iterdir()] == ["tiny"]
    checkpoints = tmp_path / "runs" / "tiny" / "checkpoints"
    assert torch.load(checkpoints / "last.ckpt", weights_only=True)["global_step"] == 2
    assert "so this one begins anew" in caplog.text
    assert main(["test", "--config", config, "--ckpt_path", "best"]) == 0
    assert f"--ckpt_path best: {Path('runs/tiny/checkpoints/best.ckpt')}" in caplog.text
    assert main([*fit, "--trainer.max_steps=3", "--data.max_train_documents=3"]) == 0
    assert "resumed with other data: 3 training samples, where the interrupted run had" in caplog.text


def test_another_run_of_the_same_name_gets_its_own_folder(config: str, tmp_path: Path) -> None:
    for _ in range(2):
        assert main(["fit", "--config", config, NO_LOG, "--trainer.max_steps=1", "--trainer.limit_val_batches=0"]) == 0
    assert sorted(p.name for p in (tmp_path / "runs").iterdir()) == ["tiny", "tiny-2"]


def test_resuming_goes_on_in_the_folder_and_keeps_the_metrics(
    config: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert main(["fit", "--config", config, "--trainer.max_steps=1", "--model.lora.rank=4"]) == 0
    run = tmp_path / "runs" / "tiny"
    last = str(run / "checkpoints" / "last.ckpt")
    assert (
        main(
            [
                "fit",
                "--config",
                config,
                "--trainer.max_steps=3",
                "--ckpt_path",
                last,
                "--model.generation.max_new_tokens=5",
            ]
        )
        == 0
    )
    said = caplog.text
    assert "model.lora.rank: 4 as in the checkpoint, not 16" in said
    assert "model.generation.max_new_tokens: 5 as asked for, not 8 as in the checkpoint" in said
    with (run / "metrics.csv").open() as file:
        steps = [int(row["step"]) for row in csv.DictReader(file) if row.get("train/loss")]
    assert steps == [0, 1, 2]
    assert (run / "config-2.yaml").exists()


def test_a_run_starts_from_an_adapter_folder(config: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert main(["fit", "--config", config, "--trainer.max_steps=2", "--model.lora.rank=4"]) == 0
    adapter = tmp_path / "runs/tiny/adapter"
    assert main(["validate", "--config", config, "--ckpt_path", str(adapter), "--run_name", "again"]) == 0
    assert f"weights of {adapter}" in caplog.messages
    with (tmp_path / "runs/again/metrics.csv").open() as file:
        again = next(csv.DictReader(file))["val/loss"]
    with (tmp_path / "runs/tiny/metrics.csv").open() as file:
        before = [row["val/loss"] for row in csv.DictReader(file) if row.get("val/loss")][-1]
    assert float(again) == pytest.approx(float(before), abs=1e-5)


def test_a_foreign_adapter_sets_the_settings_of_its_adapter_alone(
    config: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its file once said where vision features are kept, and they were written there."""
    short = ["--trainer.max_steps=1", "--trainer.limit_val_batches=0", NO_LOG]
    assert main(["fit", "--config", config, *short, "--model.lora.rank=4"]) == 0
    adapter, elsewhere = tmp_path / "runs/tiny/adapter", tmp_path / "elsewhere"
    file = adapter / "deepsynth.json"
    stored = json.loads(file.read_text())
    hostile = {**stored, "adapter": "/etc", "optimizer": "os.system", "warmup_steps": 7, "dtype": "float16"}
    hostile["engine"] = {**stored["engine"], "vision_cache": str(elsewhere), "attn_implementation": "evil/kernel"}
    hostile["generation"] = {**stored["generation"], "max_new_tokens": 999}
    file.write_text(json.dumps(hostile))
    fit = ["fit", "--config", config, *short, "--ckpt_path", str(adapter), "--run_name=again"]
    assert main(fit) == 0
    assert not elsewhere.exists()
    model = yaml.safe_load((tmp_path / "runs/again/config.yaml").read_text())["model"]["init_args"]
    assert model["lora"]["rank"] == 4
    assert (model["engine"]["vision_cache"], model["engine"]["attn_implementation"]) == ("none", "sdpa")
    assert (model["generation"]["max_new_tokens"], model["warmup_steps"], model["dtype"]) == (8, 0, "auto")
    capsys.readouterr()
    for wrong, said in (
        ({**stored, "lora": {**stored["lora"], "rank": "4"}}, "deepsynth.json: lora.rank is '4'; it must be int"),
        ({**stored, "lora": {**stored["lora"], "experts": "evil"}}, "deepsynth.json: lora.experts is 'evil'; it must"),
        ([], "deepsynth.json: a JSON list; it must be an object"),
    ):
        file.write_text(json.dumps(wrong))
        assert main(fit) == 1
        assert said in one_line_of(capsys)


def test_a_foreign_checkpoint_names_neither_files_nor_code(
    config: str, one_step: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stored = torch.load(one_step, weights_only=True)
    foreign, elsewhere = tmp_path / "foreign.ckpt", tmp_path / "elsewhere"
    settings = stored["hyper_parameters"]
    settings |= {"optimizer": "os.system", "adapter": "/etc"}
    settings["engine"] = {**settings["engine"], "vision_cache": str(elsewhere)}
    torch.save(stored, foreign)
    fit = ["fit", "--config", config, NO_LOG, "--trainer.max_steps=2", "--trainer.limit_val_batches=0"]
    fit += ["--ckpt_path", str(foreign), "--run_name=again"]
    assert main(fit) == 0
    assert not elsewhere.exists()
    settings["engine"] = {**settings["engine"], "attn_implementation": "evil/kernel"}
    torch.save(stored, foreign)
    capsys.readouterr()
    assert main(fit) == 1
    line = one_line_of(capsys)
    assert "engine.attn_implementation" in line
    assert "evil/kernel" in line
    assert f"(a setting of --ckpt_path '{foreign}')" in line


def test_summaries_train_validate_and_predict(config: str, tmp_path: Path, summaries: Path) -> None:
    data = ["--data.source=JsonlSource", f"--data.source.path={summaries}", "--data.source.target_field=target", NO_LOG]
    assert main(["fit", "--config", config, *data, "--trainer.max_steps=1"]) == 0
    last = str(tmp_path / "runs/tiny/checkpoints/last.ckpt")
    assert main(["predict", "--config", config, *data, "--ckpt_path", last]) == 0
    rows = [json.loads(line) for line in (tmp_path / "runs/tiny-predict/predictions.jsonl").open()]
    assert rows[0]["target"] == "The"


def test_scans_are_read_without_the_renderer(config: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    from PIL import Image

    folder = tmp_path / "scans"
    folder.mkdir()
    Image.new("L", (300, 200), 255).save(folder / "one.png")
    (folder / "one.txt").write_text("known text")
    Image.new("RGB", (200, 300), "white").save(folder / "two.jpg")
    (folder / "two.txt").write_text("other text")
    data = ["--data.source=ImageSource", f"--data.source.path={folder}"]
    assert main(["predict", "--config", config, *data]) == 0
    rows = [json.loads(line) for line in (tmp_path / "runs/tiny/predictions.jsonl").read_text().splitlines()]
    assert [row["target"] for row in rows] == ["known text", "other text"]
    assert "2 documents with a known text: cer" in caplog.text
    results = ["--output", str(tmp_path / "results"), "--format", "txt,md"]
    assert main(["predict", "--config", config, *data, *results]) == 0
    names = sorted(path.name for path in (tmp_path / "results").iterdir())
    assert names == ["one.md", "one.txt", "predictions.jsonl", "predictions.metrics.json", "two.md", "two.txt"]
    assert [row["id"] for row in map(json.loads, (tmp_path / "results/predictions.jsonl").open())] == [
        "one.png",
        "two.jpg",
    ]
    assert (tmp_path / "results/one.txt").read_text().strip("\n") == rows[0]["prediction"].strip("\n")


def test_a_prediction_goes_on_in_its_folder(config: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    out = tmp_path / "results"
    out.mkdir()
    args = ["predict", "--config", config, "--output", str(out)]
    assert main(args) == 0
    rows = (out / "predictions.jsonl").read_text()
    first = json.loads(rows.splitlines()[0])
    page = {"id": first["id"], "document_id": first["id"], "page": 0, "tokens": 1, **first, "prediction": "kept"}
    page["id"] = f"{first['id']}#0"
    (out / "predictions.jsonl.partial").write_text(json.dumps(page) + "\n")
    assert main([*args, "--resume"]) == 0
    assert json.loads((out / "predictions.jsonl").read_text().splitlines()[0])["prediction"].startswith("kept")
    assert (out / "predictions-1.jsonl").read_text() == rows


def test_parts_of_a_prediction_are_all_of_it(config: str, tmp_path: Path) -> None:
    out = tmp_path / "results"
    args = ["predict", "--config", config, "--output", str(out), "--format", "txt"]
    for part in ("0/3", "1/3", "2/3"):
        assert main([*args, "--shard", part]) == 0
    found = {
        path.name: [json.loads(line)["id"] for line in path.open()] for path in out.glob("predictions.*-of-3.jsonl")
    }
    assert found == {f"predictions.{part}-of-3.jsonl": [f"d{i}" for i in range(part, 8, 3)] for part in range(3)}
    assert len(list(out.glob("d*.txt"))) == 8


@pytest.mark.parametrize("option", ["--resume", "--shard=0/2"])
def test_resuming_and_sharing_need_the_folder(option: str, config: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["predict", "--config", config, option]) == 1
    assert f"{option.partition('=')[0]} needs --output" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("args", "code", "parts"),
    [
        (["--data.batch_size=0"], 1, ["data.batch_size is 0"]),
        (["--data.bach_size=1"], 2, ["bach_size", "did you mean --data.batch_size=1?"]),
        (["--model.lora.rnk=3"], 2, ["rnk", "did you mean --model.lora.rank=3?"]),  # an option of a base class
        (["--model.optimizer.lr=-1"], 1, ["model.optimizer", "Invalid learning rate: -1"]),
        (["--model.lora.rank=x"], 2, ["model.lora.rank", "x"]),
        (["--model=PefModule"], 2, ["PefModule", "did you mean PeftModule"]),
        (["--data.source.path=missing.jsonl"], 1, ["missing.jsonl"]),
        (["--data.source.text_field=body"], 1, ["body", "line 1", "'id', 'text'"]),
        (["--model.model_name=no/such/folder"], 1, ["no/such/folder"]),
        (["--model.model_name=nobody/no-such-model"], 1, ["nobody/no-such-model"]),
        (["--model.engine.attn_implementation=flash_attention_2"], 1, ["install flash-attn,", "sdpa"]),
        (
            ["--trainer.strategy=deepspeed_stage_2"],
            1,
            ["trainer.strategy is deepspeed_stage_2", "--config trainer/fsdp2"],
        ),
        (["--data.max_tokens=150"], 1, ["document", "budget is 150", "data.max_tokens"]),
        (["--ckpt_path=none.ckpt"], 1, ["none.ckpt"]),
        (["--run_name=../../elsewhere"], 1, ["--run_name is '../../elsewhere'; it must be a name, without /"]),
        (["--run_name="], 1, ["--run_name is ''; it must be a name"]),
        (["--data.prompt=Read."], 1, ["<image>"]),
    ],
)
def test_a_mistake_is_one_line(
    config: str, capsys: pytest.CaptureFixture[str], args: list[str], code: int, parts: list[str]
) -> None:
    assert main(["fit", "--config", config, "--trainer.max_steps=1", *args]) == code
    line = one_line_of(capsys)
    for part in parts:
        assert part in line


@pytest.mark.parametrize("damage", ["cut", "foreign", "other-adapter"])
def test_a_checkpoint_that_does_not_fit_is_one_line(
    config: str, one_step: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], damage: str
) -> None:
    path = tmp_path / "bad.ckpt"
    if damage == "cut":
        whole = one_step.read_bytes()
        path.write_bytes(whole[: len(whole) // 2])
    elif damage == "foreign":
        torch.save({"state_dict": {}, "hyper_parameters": {}}, path)
    else:
        good = torch.load(one_step, weights_only=True)
        good["state_dict"].popitem()
        torch.save(good, path)
    capsys.readouterr()
    assert main(["validate", "--config", config, "--ckpt_path", str(path)]) == 1
    line = one_line_of(capsys)
    assert {"cut": "is truncated or not", "foreign": "not written by DeepSynth", "other-adapter": "1 missing"}[
        damage
    ] in line


def test_a_broken_line_in_a_config_names_file_and_line(
    config: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "over.yaml").write_text("trainer:\n  max_stepz: 3\n")
    assert main(["fit", "--config", config, "--config", "over.yaml"]) == 2
    assert "over.yaml, line 2" in one_line_of(capsys)


def test_a_run_that_never_began_leaves_no_folder(config: str, tmp_path: Path) -> None:
    arguments = ["fit", "--config", config, "--trainer.max_steps=1", "--trainer.limit_val_batches=0"]
    assert main([*arguments, "--data.source.path=missing.jsonl"]) == 1
    assert not (tmp_path / "runs" / "tiny").exists()
    assert main([*arguments, NO_LOG]) == 0
    assert main([*arguments, "--run_name=tiny", "--data.source.path=missing.jsonl"]) == 1
    assert sorted(p.name for p in (tmp_path / "runs").iterdir()) == ["tiny"]
    assert (tmp_path / "runs/tiny/checkpoints/last.ckpt").is_file()


class Terminates(Callback):
    """Sends SIGTERM to this process in a hook."""

    def __init__(self, hook: str) -> None:
        setattr(self, hook, lambda *_, **__: signal.raise_signal(signal.SIGTERM))


@pytest.mark.skipif(os.name != "posix", reason="signals")
@pytest.mark.parametrize(
    ("stage", "hook"),
    [("fit", "setup"), ("fit", "on_fit_start"), ("fit", "on_validation_end"), ("predict", "on_predict_start")],
)
def test_sigterm_before_the_first_step_leaves_nothing(stage: str, hook: str, config: str, tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)
    callback = [f"--trainer.callbacks+={__name__}.Terminates", f"--trainer.callbacks.hook={hook}"]
    arguments = ["--config", config, "--trainer.num_sanity_val_steps=1", *callback]
    assert main([stage, *arguments]) == 143
    assert not (tmp_path / "runs").exists()
    assert signal.getsignal(signal.SIGTERM) is before


class Fails(Callback):
    """Ends the run by an error in its first step, and keeps the workers that there are."""

    def on_train_batch_end(self, *_: Any) -> None:
        WORKERS[:] = multiprocessing.active_children()
        raise UserError("it fails")


#: What :class:`Fails` has found.
WORKERS: list[Any] = []


def test_a_run_that_fails_leaves_no_worker(config: str) -> None:
    """Lightning calls no teardown then, and at the interpreter's end torch waits for each."""
    before = multiprocessing.active_children()
    options = ["--data.num_workers=2", "--trainer.limit_val_batches=0", f"--trainer.callbacks+={__name__}.Fails"]
    assert main(["fit", "--config", config, *options]) == 1
    assert len(set(WORKERS) - set(before)) == 2
    assert set(multiprocessing.active_children()) <= set(before)


class KillsWorker(Callback):
    """Kills a worker, as Linux does when memory runs out."""

    def on_train_batch_end(self, *_: Any) -> None:
        os.kill(multiprocessing.active_children()[-1].pid or 0, signal.SIGKILL)


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_a_worker_that_is_killed_is_one_line(config: str, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--data.num_workers=1", "--trainer.limit_val_batches=0", f"--trainer.callbacks+={__name__}.KillsWorker"]
    assert main(["fit", "--config", config, *options, "--trainer.max_steps=50"]) == 1
    line = one_line_of(capsys)
    assert "a worker of the data loader was killed (" in line
    assert "set data.num_workers lower" in line


def test_a_failed_resume_leaves_the_run_as_it_was(config: str, tmp_path: Path) -> None:
    arguments = ["fit", "--config", config, "--trainer.limit_val_batches=0"]
    assert main([*arguments, "--trainer.max_steps=1"]) == 0
    run = tmp_path / "runs/tiny"
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*") if path.is_file()}
    resume = ["--ckpt_path", str(run / "checkpoints/last.ckpt"), "--trainer.max_steps=2"]
    assert main([*arguments, *resume, "--data.source.path=missing.jsonl"]) == 1
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*") if path.is_file()} == before
    held = RunFolder.resume(run)
    assert main([*arguments, *resume]) == 1
    held.release()
    assert main([*arguments, *resume]) == 0


@pytest.mark.parametrize(("logger", "rows"), [("lightning.pytorch.loggers.CSVLogger", True), ("false", False)])
def test_a_logger_of_the_user_does_not_replace_metrics_csv(
    logger: str, rows: bool, config: str, tmp_path: Path
) -> None:
    options = [f"--trainer.logger={logger}", *(["--trainer.logger.save_dir=logs"] if rows else [])]
    assert main(["fit", "--config", config, "--trainer.max_steps=1", "--trainer.limit_val_batches=0", *options]) == 0
    assert (tmp_path / "runs/tiny/metrics.csv").exists() == rows
    assert bool(list(tmp_path.glob("logs/**/metrics.csv"))) == rows


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_one_line(config: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", "--config", config, "--trainer.accelerator=gpu"]) == 1
    line = one_line_of(capsys)
    assert "trainer.accelerator is 'gpu'" in line
    assert "auto or cpu" in line


@pytest.mark.slow
def test_the_console_says_nothing_that_a_user_cannot_act_on(config: str, tmp_path: Path) -> None:
    """A resumed fit, a validation and a prediction, as a user sees them: no warning, no advertisement."""
    assert main(["fit", "--config", config, "--trainer.max_steps=1", "--trainer.limit_val_batches=0"]) == 0
    last = "--ckpt_path=runs/tiny/checkpoints/last.ckpt"
    program = "import sys; from deepsynth.__main__ import main; [main(a.split()) for a in sys.argv[1:]]"
    commands = [
        f"fit --config {config} {last} --trainer.max_steps=2 --trainer.limit_val_batches=1",
        f"validate --config {config} {last}",
        f"predict --config {config} {last} --trainer.limit_predict_batches=1",
    ]
    done = subprocess.run([sys.executable, "-c", program, *commands], capture_output=True, text=True, check=True)
    for noise in (
        "Warning",
        "/lightning/",
        "Be aware",
        "not in the checkpoint",
        "Tip:",
        "TPU",
        "dirpath",
        "is not empty",
    ):
        assert noise not in done.stderr, done.stderr
    lines = done.stderr.splitlines()
    assert "run folder: runs/tiny" in lines
    assert sum(line.startswith("RAM: peak") for line in lines) == 3, "lines of their own, not at the end of a bar"


def test_a_checkpoint_loads_without_a_list_of_the_base(one_step: Path, recwarn: pytest.WarningsRecorder) -> None:
    from deepsynth import PeftModule

    PeftModule.load_from_checkpoint(one_step, weights_only=True)
    assert not [warning for warning in recwarn if "Found keys" in str(warning.message)]


@pytest.mark.parametrize("argument", [[], ["--help"], ["--version"], ["configs"], ["models"]])
def test_the_bare_command_imports_no_library(argument: list[str]) -> None:
    code = (
        "import sys; from deepsynth.__main__ import main; code = main(sys.argv[1:]);"
        "heavy = {'torch', 'lightning', 'transformers', 'numpy'} & set(sys.modules);"
        "assert not heavy, heavy; sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", code, *argument], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "deepsynth" in done.stdout


@pytest.mark.slow
def test_a_configuration_is_parsed_without_peft() -> None:
    """jsonargparse runs the type-checking imports of modules with settings, and peft imports bitsandbytes."""
    code = (
        "import sys; from deepsynth.__main__ import main; c = main(['fit', '--model.lora.rank=4', '--print_config']);"
        "heavy = {'peft', 'bitsandbytes', 'datasets'} & set(sys.modules); assert not heavy, heavy; sys.exit(c)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_config_with_a_name_that_no_file_can_have_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", "--config", "n" * 5000]) == 2
    line = one_line_of(capsys)
    assert "File name too long" in line
    assert len(line) < 700


def test_an_unknown_subcommand_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train"]) == 2
    assert "unknown subcommand 'train'; choose from quickstart, fit" in one_line_of(capsys)


def test_the_table_of_subcommands_is_the_real_one() -> None:
    from deepsynth.cli.commands import COMMANDS
    from deepsynth.cli.data_commands import DATA_COMMANDS
    from deepsynth.cli.trainer import DeepSynthCLI

    own = {*DeepSynthCLI.subcommands(), *COMMANDS, *DATA_COMMANDS}
    assert set(SUBCOMMANDS) == own | {"configs", "models", "quickstart"}


def run_forked(command: list[str]) -> None:
    """Run a command in a process that need not import anything again."""
    torch.set_num_threads(1)  # those of the parent are not there
    sys.exit(main(command))


@pytest.mark.skipif(os.name != "posix", reason="signals")
@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_an_interrupted_run_leaves_a_checkpoint_that_goes_on(config: str, tmp_path: Path, number: int) -> None:
    command = ["fit", "--config", config, "--trainer.max_steps=100000", "--trainer.limit_val_batches=0"]
    process = multiprocessing.get_context("fork").Process(target=run_forked, args=(command,))
    process.start()
    try:
        metrics = tmp_path / "runs/tiny/metrics.csv"
        deadline = time.monotonic() + 180
        while not metrics.exists():  # written after some steps: the run is in the midst of training
            assert process.is_alive()
            assert time.monotonic() < deadline
            time.sleep(0.2)
        os.kill(process.pid or 0, number)
        process.join(120)
    finally:
        process.kill()
    assert process.exitcode == 143
    last = tmp_path / "runs/tiny/checkpoints/last.ckpt"
    step = torch.load(last, weights_only=True)["global_step"]
    assert step > 0
    arguments = ["--trainer.limit_val_batches=0", f"--trainer.max_steps={step + 1}", "--ckpt_path", str(last)]
    assert main(["fit", "--config", config, *arguments]) == 0
    assert torch.load(last, weights_only=True)["global_step"] == step + 1
