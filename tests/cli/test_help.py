"""Every command has help with an example that its options exist for; wrong options are answered with the right one."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest

from deepsynth.__main__ import SUBCOMMANDS, main
from deepsynth.cli.help.options import Option, all_options, class_names, class_options, kind_of, options_of
from deepsynth.cli.help.page import OWN_OPTIONS, help_page
from deepsynth.cli.help.spellings import ALIASES, suggestion
from deepsynth.cli.help.subcommands import EXAMPLES, RUN_COMMANDS, examples
from deepsynth.data import TextRenderer


@dataclass
class Group:
    """Settings that belong together.

    Attributes:
        size: of ``it``, see
            :class:`~deepsynth.data.Source`.
        scale: how large.
    """

    __module__ = "deepsynth"  # the descriptions of other packages are not ours
    size: int = 3
    scale: tuple[float, float] = (0.5, 1.0)


class Base:
    """A base.

    Args:
        seed: where it begins.
        own: not this one, as a subclass has it too.
    """

    __module__ = "deepsynth"

    def __init__(self, seed: int = 7, own: int = 8) -> None: ...


class Leaf(Base):
    """A class whose options are shown.

    Args:
        path: where it is.
        own: of the leaf.
    """

    __module__ = "deepsynth"

    def __init__(
        self,
        path: Path | None,
        params: Any,
        *rest: int,
        own: bool = False,
        group: Group | None = None,
        names: Sequence[str] = ("a", "b"),
        made: object = field,
        **kwargs: Any,
    ) -> None: ...


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
    assert of_class.startswith("--data.source=DocumentSource: ")
    assert "\n\noptions of DocumentSource:\n  --data.source." in of_class
    assert help_page("fit", "RunReport").startswith("--trainer.callbacks+=RunReport: ")
    assert help_page("fit", "VISION").replace("VISION", "vision") == help_page("fit", "vision")
    assert main(["fit", "--help", "vision"]) == 0
    assert set(re.findall(r"^  --([\w.]+)", capsys.readouterr().out, re.MULTILINE)) == {
        key for key in all_options() if "vision" in key
    }
    assert main(["fit", "--help", "nothing_like_it"]) == 0
    assert "no option has 'nothing_like_it' in its name" in capsys.readouterr().out


def test_the_options_of_a_class_are_its_parameters_its_groups_and_those_of_its_bases() -> None:
    assert options_of(Leaf, "data.leaf", leave_out=("params",)) == [
        Option("data.leaf.path", "PATH", "", "where it is."),
        Option("data.leaf.own", "true|false", "false", "of the leaf."),
        Option("data.leaf.group.size", "N", "3", "of it, see deepsynth.data.Source."),
        Option("data.leaf.group.scale", "[NUMBER, NUMBER]", "[0.5, 1.0]", "how large."),
        Option("data.leaf.names", "[TEXT, …]", "[a, b]", ""),
        Option("data.leaf.made", "object", "", ""),
        Option("data.leaf.seed", "N", "7", "where it begins."),
    ]


@pytest.mark.parametrize(
    ("annotation", "shown"),
    [
        (int | None, "N"),
        (str | list[str], "TEXT|[TEXT, …]"),
        (float | int | float, "NUMBER|N"),
        (Literal["a", 1] | None, "a|1"),
        (tuple[int, ...], "[N, …]"),
        (tuple[int, str], "[N, TEXT]"),
        (dict[str, int], "[TEXT, N, …]"),
        (Callable[[], int], "CLASS"),
        (Option, "Option"),
        ("int", "N"),
        ("Elsewhere", "Elsewhere"),
        ("list", "list"),
    ],
)
def test_a_type_is_shown_as_its_values_are_written(annotation: Any, shown: str) -> None:
    assert kind_of(annotation) == shown


def sections(page: str) -> dict[str, list[str]]:
    """Return the lines below each heading of a help page."""
    found: dict[str, list[str]] = {}
    for part in page.split("\n\n"):
        heading, *lines = part.strip("\n").split("\n")
        found[heading.split(":")[0]] = lines
    return found


@pytest.mark.parametrize(("columns", "width"), [(20, 60), (90, 90), (300, 120)])
def test_the_help_is_as_wide_as_the_terminal_within_bounds(
    columns: int, width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    found = sections(help_page("render"))
    options = found["options"]
    assert options[:4] == [
        "  --output=DIR",
        "      folder for the pages, contact.png and pages.csv",
        "  --num=N",
        "      number of pages (default 16)",
    ]
    assert "  --print_config" in options
    texts = [line for line in found["model"] if not line.startswith("  --")]
    assert all(re.match(" {6}[^ ]", line) for line in texts)
    assert width - 5 < max(map(len, texts)) <= width
    trainers = found["trainer"]
    assert all(line.startswith("  --trainer.") for line in trainers), "a line each"
    assert max(map(len, trainers)) <= width
    assert "  --trainer.num_nodes=N (default 1)" in trainers


def test_the_help_names_the_classes_below_their_options(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    page = help_page("predict")
    assert page.startswith("usage: deepsynth predict [PATH] [--config NAME|FILE ...] [--KEY=VALUE ...]\n\nGenerate a ")
    lines = page.partition("classes by name; deepsynth predict --help NAME")[2].partition("\n\n")[2].split("\n\n")[0]
    entries: list[str] = []
    for line in lines.splitlines():
        assert len(line) <= 100
        if line.startswith("--"):
            entries.append(line)
        else:
            assert re.match(" {6}[^ ]", line)
            entries[-1] += " " + line.strip()
    heads = [entry.partition(": ")[0] for entry in entries]
    assert heads == [
        *("--data.source=NAME (sources)", "--data.renderer=NAME (renderers)", "--data.augmenter=NAME (augmenters)"),
        *("--data.processor=NAME (processors)", "--trainer.callbacks+=NAME (callbacks)"),
    ]
    named = [set(entry.partition(": ")[2].split(", ")) for entry in entries]
    examples_of = ("JsonlSource", "TextRenderer", "PageAugmenter", "OcrProcessor", "VramMonitor")
    assert all(name in names for name, names in zip(examples_of, named, strict=True))
    assert set().union(*named) == set(class_options())
    found = class_names()
    assert found == sorted(set(found))
    assert {*class_options(), "PeftModule", "UnslothModule", "FullModule", "TextImageDataModule"} <= {*found}


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
        ("--model_name=deepsynth/tiny", "did you mean --model.model_name=deepsynth/tiny?"),
        ("--model.lr", "did you mean --model.optimizer.lr=…?"),
        ("--lr=3", "did you mean --model.optimizer.lr=3?"),
        ("--epochs=3", "did you mean --trainer.max_epochs=3?"),
        ("--per-device-train-batch-size=4", "did you mean --data.batch_size=4?"),
        ("--data.bach_size=1", "did you mean --data.batch_size=1?"),
        ("--model.lora.rnk=3", "did you mean --model.lora.rank=3?"),
        ("--model.init_args.optimizer.lrr=3", "did you mean --model.optimizer.lr=3?"),
        ("--data.renderer.font_size=9", "did you mean --data.renderer.font_size_px=9?"),
        ("--LR=3", "did you mean --model.optimizer.lr=3?"),
        ("--model.lora.rank_=3", "did you mean --model.lora.rank=3?"),
        ("--data.dora", "did you mean --model.lora.dora=…?"),
        ("--", "deepsynth fit --help WORD shows the options with a word, such as: deepsynth fit --help source"),
        ("--wholly.unlike_anything", "deepsynth fit --help WORD shows the options with a word, such as: deepsynth fit "
         "--help anything"),
    ],
)  # fmt: skip
def test_a_wrong_option_is_answered_with_the_right_one(typed: str, answer: str) -> None:
    assert suggestion(typed, all_options()) == answer


def test_a_wrong_option_that_is_like_two_is_answered_with_both() -> None:
    answer = suggestion("--a.stepz=3", ["data.a.steps", "model.b.stepx"])
    assert answer == "did you mean --model.b.stepx or --data.a.steps? For example --model.b.stepx=3"
    assert suggestion("--data.stepz", ["data.a.steps", "model.b.stepx"]) == "did you mean --data.a.steps=…?"
    assert suggestion("--steep", ["a.x.steps", "a.steps"]).startswith("did you mean --a.steps=…?")
    three = suggestion("--stepz", ["a.steps", "b.stepx", "c.stepy"])
    assert three.count("--") == 3, "two, and an example"


def test_an_option_that_another_command_does_not_have_gets_that_commands_help(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["evaluate", "predictions.jsonl", "--epochs=3"]) == 2
    assert "deepsynth evaluate --help lists the options" in capsys.readouterr().err
    assert main(["fit", "--config", "quickstart", "--lr", "3"]) == 2
    assert "did you mean --model.optimizer.lr=3?" in capsys.readouterr().err
    assert main(["fit"]) == 2
    assert "data.source is missing" in capsys.readouterr().err


def test_a_class_without_options_says_so() -> None:
    page = help_page("fit", "VramMonitor")
    assert page.endswith("\n\nVramMonitor has no options\n")
    assert page.startswith("--trainer.callbacks+=VramMonitor: Logs memory")
    assert "options of VramMonitor" not in page
