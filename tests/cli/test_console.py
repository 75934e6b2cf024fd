"""What is left out of the terminal is what the libraries really write."""

from __future__ import annotations

import logging
import os
import re
import sys
import warnings
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint, RichProgressBar, TQDMProgressBar
from packaging.version import Version

from deepsynth import PeftModule
from deepsynth.__main__ import main
from deepsynth.cli import console
from deepsynth.cli.commands import print_line
from deepsynth.cli.console import (
    KNOWN_CHATTER,
    KNOWN_NOISE,
    NOISE_WITHOUT_TRAINING,
    LineHandler,
    check_accelerator,
    check_loggers,
    check_weights,
    prepare,
    progress_bar,
    quiet,
    results,
)
from deepsynth.cli.errors import one_line
from deepsynth.cli.main import OUTPUT_NOT_READ
from deepsynth.errors import UserError

TESTED = (Path(__file__).parents[2] / "constraints" / "tested.txt").read_text()


@pytest.mark.parametrize(("module", "pattern"), [*KNOWN_NOISE, *NOISE_WITHOUT_TRAINING, *KNOWN_CHATTER])
def test_the_library_still_writes_it(module: str, pattern: str) -> None:
    """An upgrade that rewords a message shows here; fields of a text and breaks of its lines are left out.

    A library that is older than the pinned one may not write it yet.
    """
    spec = find_spec(module)
    assert spec is not None
    assert spec.origin is not None
    source = re.sub(r'"\n\s*r?f?"', "", Path(spec.origin).read_text(encoding="utf-8"))
    literal = max(re.split(r"\.\*|`list`|False", pattern), key=len).replace("\\", "")
    library = module.partition(".")[0]
    pinned = re.search(rf"^{library}==(.+)$", TESTED, re.MULTILINE)
    assert pinned is not None
    assert literal in source or Version(version(library)) < Version(pinned[1])


def test_an_id_cannot_command_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    handler = LineHandler()
    handler.emit(logging.LogRecord("deepsynth", logging.INFO, "", 0, "document %s", ("\x1b]0;evil\x07\rdone",), None))
    assert capsys.readouterr().err == "document \\x1b]0;evil\\x07\\rdone\n"
    print_line("page \x1b[2J\u202e")
    assert capsys.readouterr().out == "page \\x1b[2J\\u202e\n"
    assert one_line("FILE: \x1b[31m'id'\n is twice") == "FILE: \\x1b[31m'id' is twice"


def test_a_long_id_hides_neither_the_file_nor_the_way_out() -> None:
    line = one_line(f"FILE, line 2: the id {'x' * 10_000!r} is twice; remove it")
    assert line.startswith("FILE, line 2: the id 'xxx")
    assert line.endswith("xxx' is twice; remove it")
    assert len(line) <= 600


def test_advertisements_are_dropped_and_news_are_not(caplog: pytest.LogCaptureFixture) -> None:
    prepare(trains=True)
    logger = logging.getLogger("lightning.pytorch.utilities.rank_zero")
    with caplog.at_level(logging.INFO, logger=logger.name):
        for _, text in KNOWN_CHATTER:
            logger.info(text)
        logger.info("the run folder")
    assert [record.getMessage() for record in caplog.records] == ["the run folder"]


@pytest.mark.parametrize(
    ("settings", "subcommand", "checkpoint", "warned", "told"),
    [
        ({"model_name": "deepsynth/tiny-random"}, "fit", None, True, False),
        ({"model_name": "deepsynth/tiny", "weights": "random"}, "fit", None, True, False),
        ({"model_name": "deepsynth/tiny"}, "fit", None, False, False),
        ({"model_name": "deepsynth/tiny"}, "predict", None, False, True),
        ({"model_name": "deepsynth/tiny"}, "predict", "run.ckpt", False, False),
        ({"model_name": "deepsynth/tiny-random"}, "predict", None, True, True),
        ({"model_name": "deepsynth/tiny-random", "adapter": "folder"}, "predict", None, False, False),
    ],
)
def test_random_weights_and_an_untuned_model_are_named(
    settings: dict[str, Any],
    subcommand: str,
    checkpoint: str | None,
    warned: bool,
    told: bool,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        check_weights(PeftModule(**settings), subcommand, checkpoint)
    said = [str(warning.message) for warning in found]
    assert [f"{settings['model_name']} has random weights" in line for line in said] == [True] * warned
    assert all(("or an adapter" in line) == told for line in said)
    assert (f"predicting with {settings['model_name']} without fine-tuning" in caplog.text) == told


def test_a_warning_of_ours_is_one_line_and_others_keep_their_place(capsys: pytest.CaptureFixture[str]) -> None:
    prepare(trains=True)
    shown = warnings.formatwarning("two\nlines \x1b", UserWarning, "/x/deepsynth/cli/console.py", 1)
    assert shown == "warning: two lines \\x1b\n"
    assert warnings.formatwarning("late", UserWarning, "/x/lightning/core.py", 1) == "warning: late\n"
    for kind, file in ((FutureWarning, "/x/numpy/core.py"), (UserWarning, "/x/numpy/core.py"),
                       (FutureWarning, "/x/deepsynth/core.py")):  # fmt: skip
        assert warnings.formatwarning("gone", kind, file, 7) == f"{file}:7: {kind.__name__}: gone\n"


@pytest.mark.parametrize(
    ("asked", "cuda", "mps", "refused"),
    [
        ("gpu", False, False, True),
        ("cuda", False, False, True),
        ("cuda", False, True, True),
        ("gpu", False, True, False),
        ("gpu", True, False, False),
        ("cuda", True, False, False),
        ("cpu", False, False, False),
        ("auto", False, False, False),
        (None, False, False, False),
    ],
)
def test_a_gpu_that_is_not_there_is_named(
    asked: str | None, cuda: bool, mps: bool, refused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    if refused:
        with pytest.raises(UserError, match=rf"trainer.accelerator is '{asked}', but PyTorch .* sees no GPU here: set"):
            check_accelerator({"accelerator": asked})
    else:
        check_accelerator({"accelerator": asked})


def test_a_bar_comes_unless_it_is_switched_off_or_given() -> None:
    for settings in ({}, {"enable_progress_bar": True}, {"enable_progress_bar": None}):
        assert [type(bar) for bar in progress_bar(settings, [ModelCheckpoint()])] == [TQDMProgressBar]
    assert progress_bar({"enable_progress_bar": False}, []) == []
    assert progress_bar({}, [ModelCheckpoint(), RichProgressBar()]) == []


@pytest.mark.parametrize(("name", "package"), [("WandbLogger", "wandb"), ("CometLogger", "comet-ml")])
def test_a_logger_without_its_package_is_named(name: str, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    there: set[str] = set()
    monkeypatch.setattr(console, "find_spec", lambda module: module in there or None)
    logger = SimpleNamespace(class_path=f"lightning.pytorch.loggers.{name}")
    known = SimpleNamespace(class_path="lightning.pytorch.loggers.CSVLogger")
    for loggers in (logger, [known, logger]):
        with pytest.raises(UserError, match=rf"^trainer.logger is {name}, which needs {package}: pip install"):
            check_loggers(loggers)
    for loggers in (True, False, None, known, [known]):
        check_loggers(loggers)
    there.add(package.replace("-", "_"))
    check_loggers([logger])


@pytest.mark.parametrize("trains", [True, False])
def test_what_a_checkpoint_s_callbacks_miss_is_news_where_a_command_trains(trains: bool) -> None:
    with warnings.catch_warnings(record=True) as found:
        warnings.resetwarnings()
        prepare(trains=trains)
        for text in ("callbacks used to create the checkpoint", "callbacks of another kind"):
            warnings.warn(f"Be aware that when using `ckpt_path`, {text} are missing", UserWarning, stacklevel=1)
        warnings.warn("The 'train_dataloader' does not have many workers", UserWarning, stacklevel=1)
    assert len(found) == 1 + trains


def test_quiet_hides_news_and_ends(caplog: pytest.LogCaptureFixture) -> None:
    logger = logging.getLogger("deepsynth.somewhere")
    prepare(trains=True)
    with quiet():
        logger.info("hidden")
        logger.warning("shown")
    logger.info("after")
    assert [record.getMessage() for record in caplog.records] == ["shown", "after"]


def test_a_fit_ends_with_its_last_and_its_best_error_and_where_its_files_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    best = ModelCheckpoint(monitor="val/cer")
    best.best_model_path, best.best_model_score = str(tmp_path / "runs/a/best.ckpt"), torch.tensor(0.125)
    trainer = Trainer(callbacks=[best], default_root_dir="runs/a", logger=False, accelerator="cpu")
    trainer.callback_metrics["val/cer"] = torch.tensor(0.25)
    assert results(trainer) == [
        "character error rate (val/cer): 0.2500 after the last step; best 0.1250: runs/a/best.ckpt",
        "run folder: runs/a",
    ]
    (tmp_path / "runs/a").mkdir(parents=True, exist_ok=True)
    (tmp_path / "runs/a/report.html").touch()
    assert results(trainer)[-1] == "report: runs/a/report.html"
    best.best_model_path = "/elsewhere/best.ckpt"
    assert results(trainer)[0].endswith("; best 0.1250: /elsewhere/best.ckpt")
    best.best_model_score = None
    assert results(trainer)[0] == "character error rate (val/cer): 0.2500 after the last step"
    best.best_model_path, best.best_model_score = "", torch.tensor(0.125)
    assert results(trainer)[0] == "character error rate (val/cer): 0.2500 after the last step"
    trainer.callback_metrics.clear()
    assert results(trainer)[0] == "run folder: runs/a"


def test_a_reader_that_leaves_ends_the_command_without_a_traceback(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    child = os.fork()
    if not child:
        code = -1
        try:
            os.dup2(writer, 1)
            sys.stdout, sys.stderr = open(1, "w"), (tmp_path / "said").open("w")  # noqa: SIM115 - until the end
            ended = main(["predict", "--help"])
            sys.stdout.flush()  # as the interpreter does at its end
            sys.stderr.flush()
            code = ended
        finally:
            os._exit(code)
    os.close(writer)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == OUTPUT_NOT_READ
    assert (tmp_path / "said").read_text() == ""
