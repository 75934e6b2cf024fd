"""Mistakes that a user can fix are one line; bugs show their tracebacks."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

import pytest
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from deepsynth.__main__ import main
from deepsynth.cli.errors import explain, is_user_error, one_line, what_failed, wrapped_user_error
from deepsynth.errors import UserError
from tests.cli.test_cli import TINY, one_line_of


class Raise(Callback):
    """Raises in the first step what a library, this package or the operating system may raise."""

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def on_train_batch_start(self, trainer: Trainer, *args: object) -> None:
        if self.kind == "library":
            int("not a number")
        if self.kind == "user":
            raise UserError("data.batch_size is 0; it must be at least 1")
        if self.kind == "file":
            Path("no/such/file").read_text()


def fit(tmp_path: Path, jsonl: Path, kind: str, *options: str) -> int:
    (tmp_path / "tiny.yaml").write_text(TINY.replace("DOCS", str(jsonl)))
    callback = f'{{"class_path": "tests.cli.test_errors.Raise", "init_args": {{"kind": "{kind}"}}}}'
    short = ["--trainer.max_steps=1", "--trainer.limit_val_batches=0", f"--trainer.default_root_dir={tmp_path}"]
    return main(["fit", "--config", str(tmp_path / "tiny.yaml"), f"--trainer.callbacks+={callback}", *short, *options])


def test_a_value_error_of_a_library_shows_its_traceback(tmp_path: Path, jsonl: Path) -> None:
    with pytest.raises(ValueError, match="invalid literal for int"):
        fit(tmp_path, jsonl, "library")


def test_what_a_user_can_fix_is_one_line(tmp_path: Path, jsonl: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert fit(tmp_path, jsonl, "file") == 1
    captured = capsys.readouterr().err
    assert "Traceback" not in captured
    assert "deepsynth: no/such/file: No such file or directory" in captured.splitlines()


def test_debug_shows_the_traceback_and_the_line(
    tmp_path: Path, jsonl: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fit(tmp_path, jsonl, "user", "--debug") == 1
    captured = capsys.readouterr().err
    assert "Traceback (most recent call last)" in captured
    assert "in on_train_batch_start" in captured
    assert captured.splitlines()[-1] == "deepsynth: data.batch_size is 0; it must be at least 1"
    assert main(["fit", "--debug", "--no_such_option=1"]) == 2
    assert "Traceback (most recent call last)" in capsys.readouterr().err


def test_the_trainers_options_are_the_users(tmp_path: Path, jsonl: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert fit(tmp_path, jsonl, "none", "--trainer.gradient_clip_algorithm=middle") == 1
    assert "gradient_clip_algorithm" in one_line_of(capsys)


def test_errors_without_a_file_are_bugs() -> None:
    assert not is_user_error(ConnectionError("reset"))
    assert not is_user_error(ImportError("no module"))
    assert not is_user_error(RuntimeError("shapes"))
    assert is_user_error(FileNotFoundError(errno.ENOENT, "no such file", "a.txt"))
    assert is_user_error(MisconfigurationException("devices"))
    assert is_user_error(OSError(errno.ENOSPC, "full"))
    assert is_user_error(OSError(errno.EDQUOT, "over the quota"))
    assert not is_user_error(OSError(errno.EIO, "a device"))


def test_a_user_error_is_found_below_what_was_raised_for_it() -> None:
    mistake = UserError("data.x is 0")
    cause, context, bug = ValueError("wrapped"), RuntimeError("again"), ValueError("a bug")
    cause.__cause__, context.__context__, bug.__cause__ = mistake, cause, KeyError("x")
    assert [wrapped_user_error(error) for error in (mistake, cause, context, bug)] == [mistake] * 3 + [None]


def test_the_error_of_a_worker_is_its_last_line() -> None:
    told = "Caught ValueError in DataLoader worker process 0.\nOriginal Traceback (most recent call last):\n  File\n"
    assert one_line(f"{told}deepsynth.errors.UserError: a.jsonl, line 2: no text\n") == "a.jsonl, line 2: no text"
    assert one_line(f"{told}KeyboardInterrupt").endswith("File KeyboardInterrupt"), "all of it, without a text"
    assert one_line("x" * 700) != "x" * 700
    assert one_line("x" * 600) == "x" * 600


def test_a_full_disk_is_named_where_the_system_does_not_name_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "full").mkdir()
    usage = shutil.disk_usage
    full = usage(tmp_path)._replace(free=4096)
    monkeypatch.setattr(shutil, "disk_usage", lambda place: full if Path(place).name == "full" else usage(place))
    error = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    args = ["fit", f"--trainer.default_root_dir={tmp_path}/full", "--run_name", "n" * 5000]
    assert what_failed(error, args) == f"No space left on device: make room on the disk of {tmp_path}/full"
    (tmp_path / "runs/full").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "runs")
    both = [*args, "full", f"--output={tmp_path}/full"]
    assert what_failed(error, both).endswith(f"disk of {tmp_path}/full and full")
    named = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), b"a.csv")
    assert what_failed(named, args) == "a.csv: No space left on device"
    assert what_failed(OSError("a text"), args) == "a text"
    assert what_failed(UserError("a mistake"), args) == "a mistake"


WRONG = "Parser key \"data.batch_size\": Expected a <class 'int'>. Got value: many"


@pytest.mark.parametrize(
    ("message", "args", "line"),
    [
        (WRONG, ["fit", "--data.batch_size=many"], "(--data.batch_size=many)"),
        (WRONG, ["fit", "--config={file}"], "({file}, line 2)"),
        (WRONG, ["fit", "--config", "{file}"], "({file}, line 2)"),
        (WRONG, ["fit", "--config={file}", "--data.batch_size=many"], "(--data.batch_size=many)"),
        (WRONG, ["fit", "--config={folder}/batch_size.yaml"], "Got value: many"),  # the name of a file is no place
        (WRONG, ["fit", "--data.batch_sizes=many"], "Got value: many"),
        (
            "Expected a dot import path string: JsonlSorce",
            ["fit", "--data.source=JsonlSorce"],
            "(--data.source=JsonlSorce); did you mean JsonlSource or CsvSource?",
        ),
        (
            "Expected a dot import path string: Other",
            ["fit"],
            "there is no class 'Other'; there are CsvSource, JsonlSource; a class of your own is given as module.Name",
        ),
        (
            "Expected a dot import path string: WandLogger",
            ["fit", "--trainer.logger=WandLogger"],
            "no class 'WandLogger' (--trainer.logger=WandLogger); did you mean WandbLogger or Logger or LitLogger?",
        ),
        (
            "Parser key \"data.source\": Problem with given class_path 'mine.Poems': No module named 'mine'",
            ["fit", "--data.source=mine.Poems"],
            "mine.Poems: there is no module 'mine' (--data.source=mine.Poems); a file mine.py of the current folder "
            "would be one",
        ),
        (
            "expects a function or a callable class: module 'deepsynth.types' has no attribute 'Documents'. "
            "Got value: deepsynth.types.Documents",
            ["fit"],
            "module 'deepsynth.types' has no 'Documents'; did you mean Document?",
        ),
        (
            'Parser key "trainer.logger": the following arguments are required: save_dir - Expected a bool',
            ["fit", "--trainer.logger=CSVLogger"],
            "trainer.logger has no save_dir; add --trainer.logger.save_dir=… (--trainer.logger=CSVLogger)",
        ),
        (
            'Parser key "data.augmenter": Import path does not correspond to a subclass of Augmenter',
            ["fit", "--data.augmenter=mine.Poems"],
            "data.augmenter: it must be a subclass of Augmenter (--data.augmenter=mine.Poems)",
        ),
        (
            "unrecognized arguments: --data.batch_siz",
            ["fit", "--data.batch_siz=2"],
            "(--data.batch_siz=2); did you mean --data.batch_size=2?",
        ),
        (
            "the following arguments are required: source",
            ["fit"],
            "--data.source=DocumentSource --data.source.path=FOLDER",
        ),
        (
            'Parser key "data.source": Expected an instantiatable class, but deepsynth.data.Source is abstract',
            ["fit", "--data.source.path=scans"],
            "name it first: --data.source=JsonlSource|CsvSource",
        ),
        (
            "Expected a dot import path string: Sources",
            ["fit", "--config=missing.yaml", "-c", "{file}"],
            "there is no class 'Sources' ({file}, line 3); did you mean CsvSource or JsonlSource?",
        ),
        (
            "Option 'strategy.fsdp' is not accepted",
            ["fit", "--batch-sizes", "--data.batch_size", "3"],
            "there is no option 'strategy.fsdp'; deepsynth fit --help WORD shows the options with a word, such as: "
            "deepsynth fit --help strategy",
        ),
        (
            "unrecognized arguments: --batch_sizes",
            ["fit", "--num", "4", "--batch_sizes", "--x"],
            "(--batch_sizes); did you mean --data.batch_size=…?",
        ),
        ("unrecognized arguments: --batch_sizes", ["data", "check", "--batch_sizes", "5"], "=5?"),
        (
            "unrecognized arguments: --batch_sizes",
            ["compare", "--batch_sizes", "5"],
            "(--batch_sizes); deepsynth compare --help lists the options",
        ),
        ('Parser key "config": no such file', ["fit", "--config=a"], 'Parser key "config": no such file'),
        ("something\n  else", ["fit"], "something else"),
    ],
)
def test_a_mistake_is_shown_where_it_stands(message: str, args: list[str], line: str, tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("data:\n  batch_size: many\n  source: Sources\n")
    (tmp_path / "batch_size.yaml").write_text("data:\n  batch: 1\n")
    places = {"{file}": str(file), "{folder}": str(tmp_path)}
    for name, value in places.items():
        args = [arg.replace(name, value) for arg in args]
        line = line.replace(name, value)
    found = explain(message, args, ["JsonlSource", "CsvSource"], ["data.batch_size"])
    assert found.endswith(line)
    assert "\n" not in found
