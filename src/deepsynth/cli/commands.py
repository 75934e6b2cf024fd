"""The subcommands beside the Trainer's: each takes its options from a signature and calls one function."""

from __future__ import annotations

import inspect
import json
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

from jsonargparse import ArgumentParser, auto_parser
from jsonargparse.typing import PositiveInt
from lightning.pytorch import Trainer
from lightning.pytorch.cli import LightningArgumentParser

from deepsynth.cli.console import quiet
from deepsynth.cli.errors import ParserError
from deepsynth.cli.trainer import DeepSynthCLI
from deepsynth.compat.jsonargparse import ChoicesHelpFormatter
from deepsynth.io.text import counted, visible

#: Subcommands of a command by name; each is a function, or a class whose ``run`` does the work.
Components = dict[str, Callable[..., Any]]


def print_line(line: str) -> None:
    """Write a line of a command's result."""
    sys.stdout.write(visible(line) + "\n")


class CommandParser(ArgumentParser):  # type: ignore[misc]  # jsonargparse is not typed
    """A parser whose errors are one line, like those of the Trainer's subcommands."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raise :class:`ParserError`."""
        raise ParserError(message) from ex

    def format_help(self) -> str:
        """Return the help without the backticks of docstrings."""
        return str(super().format_help()).replace("``", "")


def call(command: str, components: Components | Callable[..., Any], args: Sequence[str]) -> Any:
    """Parse the options of a function, or of one of several by name, call it, and return what it returned.

    Parameters without a default are positional unless they are keyword-only.

    Args:
        command: for the help.
        components: what the typed signatures and docstrings of options and help are taken from.
        args: of the command line, without the command.
    """
    parser = auto_parser(
        components,
        prog=f"deepsynth {command}",
        parser_class=CommandParser,
        formatter_class=ChoicesHelpFormatter,
        return_instance=True,
        fail_untyped=False,
    )
    parsed = parser.instantiate_classes(parser.parse_args(split_values(components, args)))
    if isinstance(components, dict):
        components, parsed = components[parsed.subcommand], parsed[parsed.subcommand]
    names = inspect.signature(components).parameters  # the parser has its own options
    return components(**{name: value for name, value in parsed.items() if name in names})


def split_values(components: Components | Callable[..., Any], args: Sequence[str]) -> list[str]:
    """Return arguments as jsonargparse takes them: lists as ``--name=["a", "b"]``, flags as ``--name=true``.

    Args:
        components: of :func:`call`. Options whose type is a sequence may be given as ``--name a b`` or
            ``--name a --name b``, and those whose type is bool as ``--name``.
        args: of the command line.
    """
    target = components.get(args[0] if args else "") if isinstance(components, dict) else components
    if target is None:
        return list(args)
    types = {f"--{name}": str(p.annotation) for name, p in inspect.signature(target).parameters.items()}
    spelled: list[str] = []
    lists: dict[str, list[str]] = {}
    todo = list(args)
    while todo:
        arg = todo.pop(0)
        bare = not todo or todo[0].startswith("--")
        if types.get(arg, "").startswith("Sequence[") and not bare and not todo[0].startswith("["):
            while todo and not todo[0].startswith("--"):
                lists.setdefault(arg, []).append(todo.pop(0))
        elif types.get(arg) == "bool" and bare:
            spelled.append(f"{arg}=true")
        else:
            spelled.append(arg)
    return [*spelled, *(f"{name}={json.dumps(values)}" for name, values in lists.items())]


# ---------------------------------------------------------------------- pages


class PagesCLI(DeepSynthCLI):
    """The options of ``deepsynth fit`` and some more, for what is done with the pages that training would see.

    Args:
        args: of the command line.
        command: for the help.
    """

    def __init__(self, args: Sequence[str], command: str) -> None:
        summary = inspect.getdoc(type(self)) or ""
        parser = {"prog": f"deepsynth {command}", "description": summary.partition("\n")[0]}
        super().__init__(args, run=False, parser_kwargs=parser)

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Make the trainer without its lines about GPUs, which pages do not use."""
        with quiet():
            return super().instantiate_trainer(**kwargs)


class RenderCLI(PagesCLI):
    """Write the pages that training would see, a contact sheet and a table of their density."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the folder and the number of pages."""
        super().add_arguments_to_parser(parser)
        parser.add_argument(
            "--output", type=Path, required=True, help="Folder for the pages, contact.png and pages.csv."
        )
        parser.add_argument("--num", type=PositiveInt, default=16, help="Number of pages.")


def render(args: list[str]) -> None:
    """Run ``deepsynth render --config … --num 16 --output DIR``."""
    from deepsynth.data.preview import format_table, write_preview

    cli = RenderCLI(args, "render")
    data, folder = cli.datamodule, Path(cli.config["output"])
    tokenizer = data.processor.hf_processor.tokenizer
    reports = write_preview(
        data.source,
        data.pipeline(),
        folder,
        int(cli.config["num"]),
        data.processor.layout,
        lambda text: len(tokenizer.encode(text, add_special_tokens=False)),
    )
    print_line(format_table(reports))
    print_line(f"{counted(len(reports), 'page')}, contact.png and pages.csv in {folder}")


# ---------------------------------------------------------------------- the Hub, export, measurements


def export(args: list[str]) -> None:
    """Run ``deepsynth export``."""
    from deepsynth.export.merge import export_model

    print_line(str(call("export", export_model, args)))


def benchmark(args: list[str]) -> None:
    """Run ``deepsynth benchmark data | train | generate``."""
    from deepsynth.measurement.benchmark import FitBenchmark, GenerateBenchmark, TrainBenchmark
    from deepsynth.measurement.pages import DataBenchmark

    components: Components = {
        "data": DataBenchmark,
        "train": TrainBenchmark,
        "fit": FitBenchmark,
        "generate": GenerateBenchmark,
    }
    call("benchmark", components, args).run(print_line)


def serve(args: list[str]) -> None:
    """Run ``deepsynth serve --ckpt_path FOLDER``."""
    from deepsynth.cli.console import prepare
    from deepsynth.serving.command import Serve

    call("serve", Serve, args).run(print_line, partial(prepare, trains=False))


def compare(args: list[str]) -> None:
    """Run ``deepsynth compare --config … --backends … --output DIR``."""
    from deepsynth.measurement.compare import CompareBackends

    call("compare", CompareBackends, args).run(print_line)


#: Options with which ``deepsynth evaluate`` predicts first.
_OF_A_MODEL = ("--config", "-c", "--ckpt_path", "--model", "--data", "--trainer", "--run_name")


def evaluate(args: list[str]) -> None:
    """Run ``deepsynth evaluate`` with predictions, with a model (``--config …``), a benchmark, or ``compression``."""
    if args[:1] == ["compression"]:
        from deepsynth.cli.evaluation.compression import evaluate_compression

        evaluate_compression(args[1:], print_line)
        return
    if any(arg.startswith("-") and arg.split("=")[0].split(".")[0] in _OF_A_MODEL for arg in args):
        from deepsynth.cli.evaluation.model import evaluate_model

        evaluate_model(args, print_line)
        return
    from deepsynth.measurement.evaluation.command import Evaluate
    from deepsynth.measurement.published.commands import EvaluateOlmocr, EvaluateOmniDocBench

    benchmarks: Components = {"olmocr": EvaluateOlmocr, "omnidocbench": EvaluateOmniDocBench}
    call("evaluate", benchmarks if args and args[0] in benchmarks else Evaluate, args).run(print_line)


COMMANDS: dict[str, Callable[[list[str]], None]] = {
    "render": render,
    "export": export,
    "benchmark": benchmark,
    "compare": compare,
    "evaluate": evaluate,
    "serve": serve,
}
