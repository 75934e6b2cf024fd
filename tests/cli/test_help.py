"""Every command has help with an example that its options exist for; wrong options are answered with the right one."""

from __future__ import annotations

import re

import pytest

from deepsynth.__main__ import SUBCOMMANDS, main
from deepsynth.cli.help.options import all_options, class_options, options_of
from deepsynth.cli.help.page import OWN_OPTIONS
from deepsynth.cli.help.spellings import ALIASES, suggestion
from deepsynth.cli.help.subcommands import EXAMPLES, RUN_COMMANDS, examples
from deepsynth.data import TextRenderer

EXAMPLE_LINES = [line for lines in EXAMPLES.values() for line in lines]


def help_of(command: str, capsys: pytest.CaptureFixture[str]) -> str:
    capsys.readouterr()
    assert main([*command.split(), "--help"]) == 0
    return capsys.readouterr().out


def test_every_command_of_the_tree_has_help_with_its_example(capsys: pytest.CaptureFixture[str]) -> None:
    waiting = sorted({*SUBCOMMANDS, *EXAMPLES})
    seen = set()
    while waiting:
        command = waiting.pop()
        text = help_of(command, capsys)
        assert f"  {EXAMPLES[command][0]}" in text, command
        seen.add(command)
        below = re.search(r"^usage: .*\{([\w,-]+)\} \.\.\.", text, re.MULTILINE)
        if below and command not in RUN_COMMANDS:
            waiting += [f"{command} {name}" for name in below[1].split(",")]
    assert seen == set(EXAMPLES)


@pytest.mark.parametrize("line", EXAMPLE_LINES)
def test_the_options_of_an_example_exist(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    command = max((name for name in EXAMPLES if line.startswith(f"deepsynth {name}")), key=len)
    options = re.findall(r"--([\w.]+)", line)
    if command in RUN_COMMANDS:
        own = {option.key for option in OWN_OPTIONS.get(command, ())}
        assert set(options) <= own | set(all_options())
    elif options:
        text = help_of(command, capsys)
        assert all(f"--{name}" in text for name in options)


def test_examples_are_below_a_heading_that_says_how_many_there_are() -> None:
    assert examples("render") == f"example:\n  {EXAMPLES['render'][0]}\n"
    assert examples("models").splitlines() == ["examples:", *(f"  {line}" for line in EXAMPLES["models"])]


def test_the_help_of_a_run_shows_our_options_first_and_the_trainers_behind_a_line(
    capsys: pytest.CaptureFixture[str],
) -> None:
    ours, line, trainers = help_of("fit", capsys).partition("options of Lightning's Trainer")
    assert line
    assert "--trainer.max_steps" in trainers
    assert "--trainer.max_steps" not in ours
    assert ours.index("--config=") < ours.index("--model.model_name=") < ours.index("--data.batch_size=")
    assert "--model.optimizer.lr=NUMBER\n      learning rate. (default 0.0002)" in ours


def test_help_with_a_word_shows_the_options_of_a_class_or_those_with_the_word(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["fit", "--help", "DocumentSource"]) == 0
    of_class = capsys.readouterr().out
    assert "--data.source.ground_truth=" in of_class
    assert "--model." not in of_class
    assert main(["fit", "--help", "vision"]) == 0
    assert set(re.findall(r"^  --([\w.]+)", capsys.readouterr().out, re.MULTILINE)) == {
        key for key in all_options() if "vision" in key
    }
    assert main(["fit", "--help", "nothing_like_it"]) == 0
    assert "no option has 'nothing_like_it' in its name" in capsys.readouterr().out


def test_every_option_of_ours_has_a_description() -> None:
    silent = [
        key
        for key, option in all_options().items()
        if not option.text and not key.startswith("trainer.") and not key.endswith(".probability")
    ]
    assert silent == []
    assert {option.key for option in options_of(TextRenderer, "data.renderer")} <= set(all_options())
    assert all(options for _, _, options in class_options().values() if options)


def test_the_option_of_every_alias_exists() -> None:
    assert set(ALIASES.values()) <= set(all_options())


@pytest.mark.parametrize(
    ("typed", "answer"),
    [
        ("--model.learning_rate=1e-4", "did you mean --model.optimizer.lr=1e-4?"),
        ("--model.lr", "did you mean --model.optimizer.lr=…?"),
        ("--lr=3", "did you mean --model.optimizer.lr=3?"),
        ("--epochs=3", "did you mean --trainer.max_epochs=3?"),
        ("--per-device-train-batch-size=4", "did you mean --data.batch_size=4?"),
        ("--data.bach_size=1", "did you mean --data.batch_size=1?"),
        ("--model.lora.rnk=3", "did you mean --model.lora.rank=3?"),
        ("--model.init_args.optimizer.lrr=3", "did you mean --model.optimizer.lr=3?"),
        ("--data.renderer.font_size=9", "did you mean --data.renderer.font_size_px=9?"),
        ("--wholly.unlike_anything", "deepsynth fit --help WORD shows the options with a word, such as: deepsynth fit "
         "--help anything"),
    ],
)  # fmt: skip
def test_a_wrong_option_is_answered_with_the_right_one(typed: str, answer: str) -> None:
    assert suggestion(typed, all_options()) == answer


def test_a_wrong_option_that_is_like_two_is_answered_with_both() -> None:
    answer = suggestion("--a.stepz=3", ["data.a.steps", "model.b.stepx"])
    assert answer == "did you mean --model.b.stepx or --data.a.steps? For example --model.b.stepx=3"


def test_an_option_that_another_command_does_not_have_gets_that_commands_help(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["evaluate", "predictions.jsonl", "--epochs=3"]) == 2
    assert "deepsynth evaluate --help lists the options" in capsys.readouterr().err
    assert main(["fit", "--config", "quickstart", "--lr", "3"]) == 2
    assert "did you mean --model.optimizer.lr=3?" in capsys.readouterr().err
    assert main(["fit"]) == 2
    assert "data.source is missing" in capsys.readouterr().err
