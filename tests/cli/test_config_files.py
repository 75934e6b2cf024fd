"""Configurations by name, from any folder; modules of the current folder."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
import yaml

from deepsynth.__main__ import main
from deepsynth.cli.config_files import find_config, with_config_files
from deepsynth.errors import UserError

CONFIGS = Path(__file__).parents[2] / "configs"
QUICKSTART, PEFT = str(CONFIGS / "quickstart.yaml"), str(CONFIGS / "backend/peft.yaml")


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", ["backend/peft", "backend/peft.yaml", "configs/backend/peft.yaml", "./backend/peft"])
def test_a_name_stands_for_a_shipped_file(name: str) -> None:
    assert find_config(name) == PEFT


def test_a_file_comes_before_a_shipped_one_and_a_folder_does_not(empty_folder: Path) -> None:
    (empty_folder / "quickstart").mkdir()
    assert find_config("quickstart") == QUICKSTART
    (empty_folder / "backend").mkdir()
    (empty_folder / "backend/peft").write_text("seed_everything: 1\n")
    assert find_config("backend/peft") == "backend/peft"


@pytest.mark.parametrize("text", ["{seed_everything: 1}", "a: 1", "hf://owner/repo/run.yaml", '["a"]', ""])
def test_what_is_no_name_is_left_to_the_parser(text: str) -> None:
    assert find_config(text) == text


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("quickstrat", "did you mean quickstart?"),
        ("unsloth", "did you mean backend/unsloth?"),
        ("configs/backend/peft_nf.yaml", "did you mean backend/peft_nf4"),
        ("nothing/like/it.yaml", "`deepsynth configs` lists"),
        ("../quickstart.yaml", "did you mean quickstart?"),
    ],
)
def test_an_unknown_name_is_one_line_with_the_nearest(name: str, hint: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError):
        find_config(name)
    assert main(["fit", "--config", name]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"deepsynth: there is no file '{name}'")
    assert hint in said
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        ("fit --config quickstart --trainer.max_steps 2", f"fit --config {QUICKSTART} --trainer.max_steps 2"),
        ("fit --config=quickstart -c backend/peft", f"fit --config={QUICKSTART} -c {PEFT}"),
        ("fit --config quickstart quickstart", f"fit --config {QUICKSTART} quickstart"),
        ("render --num 4 --config quickstart --output pages", f"render --num 4 --config {QUICKSTART} --output pages"),
        (
            "compare --config quickstart --backends backend/peft quickstart --output backend/peft",
            f"compare --config {QUICKSTART} --backends {PEFT} {QUICKSTART} --output backend/peft",
        ),
        ("benchmark train --backends backend/peft", f"benchmark train --backends {PEFT}"),
        ("predict --data.path=configs/quickstart_unseen.jsonl",
         f"predict --data.path={CONFIGS}/quickstart_unseen.jsonl"),
        ("predict --data.path configs/quickstart_unseen.jsonl",
         f"predict --data.path {CONFIGS}/quickstart_unseen.jsonl"),
        ("render --output configs/pages --output=configs/pages",
         "render --output configs/pages --output=configs/pages"),
        ("fit --config", "fit --config"),
    ],
)  # fmt: skip
def test_the_command_line_is_completed(args: str, expected: str) -> None:
    assert with_config_files(args.split()) == expected.split()


def test_a_file_of_the_user_below_configs_stays(empty_folder: Path) -> None:
    (empty_folder / "configs").mkdir()
    (empty_folder / "configs/quickstart_unseen.jsonl").write_text("{}\n")
    args = ["predict", "--data.source.path=configs/quickstart_unseen.jsonl"]
    assert with_config_files(args) == args


def test_a_run_by_name_has_that_name(empty_folder: Path) -> None:
    short = ["--trainer.max_steps=1", "--trainer.limit_val_batches=0", "--data.max_train_documents=2"]
    assert main(["fit", "--config", "quickstart", "--config", "data/inverse_video", *short]) == 0
    config = yaml.safe_load((empty_folder / "runs/quickstart/config.yaml").read_text())
    assert config["data"]["init_args"]["augmenter"]["init_args"]["preset"] == "none"  # of the second configuration


def test_the_list_has_every_configuration(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["configs"]) == 0
    lines = capsys.readouterr().out.splitlines()
    names = [line.split()[0] for line in lines if line.startswith("  ")]
    assert sorted(names) == sorted(f.relative_to(CONFIGS).with_suffix("").as_posix() for f in CONFIGS.rglob("*.yaml"))
    assert names[:2] == ["finetune", "quickstart"]
    assert len({re.match(r"  \S+ +", line).end() for line in lines if line.startswith("  ")}) == 1, "one column"  # type: ignore[union-attr]
    assert "Teach the built-in model" in lines[1]
    assert str(CONFIGS) in lines[-2]


def test_the_list_takes_no_arguments(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["configs", "quickstart"]) == 2
    assert capsys.readouterr().err == "deepsynth: deepsynth configs takes no arguments; found quickstart\n"
    for asked in (["--help"], ["-h"], ["--debug", "-h"]):
        assert main(["configs", *asked]) == 0
        assert "usage: deepsynth configs" in capsys.readouterr().out
    assert main(["configs", "--debug"]) == 0
    assert "usage:" not in capsys.readouterr().out


def test_modules_of_the_current_folder_are_found(empty_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only for the installed script: who calls ``main`` with arguments has a path of their own."""
    monkeypatch.setattr(sys, "path", ["elsewhere"])
    assert main(["--version"]) == 0
    assert sys.path == ["elsewhere"]
    monkeypatch.setattr(sys, "argv", ["deepsynth", "--version"])
    assert [main(), main()] == [0, 0]
    assert sys.path == [str(empty_folder), "elsewhere"]
