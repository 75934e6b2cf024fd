"""The subcommands beside the Trainer's: each parses its own few options and calls one function of the package."""

from __future__ import annotations

import inspect
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser

from deepsynth.cli.errors import ParserError
from deepsynth.hub.data import push_data
from deepsynth.hub.pull import pull
from deepsynth.hub.snapshot import Target
from deepsynth.hub.worker import resume
from deepsynth.measurement.benchmark import benchmark_train
from deepsynth.measurement.benchmark_generate import benchmark_generate
from deepsynth.measurement.compare import compare
from deepsynth.measurement.pages import benchmark_data


def say(line: str) -> None:
    """Write a line of a command's result."""
    sys.stdout.write(line + "\n")


class CommandParser(ArgumentParser):  # type: ignore[misc]  # jsonargparse is not typed
    """Says what is wrong in one line, like the parser of the Trainer's subcommands."""

    def error(self, message: str, ex: Exception | None = None) -> Any:
        """Raise :class:`ParserError`."""
        raise ParserError(message) from ex


def parse(
    function: Callable[..., Any],
    prog: str,
    args: Sequence[str],
    *,
    skip: set[str] | None = None,
    positional: bool = True,
) -> dict[str, Any]:
    """Return a function's arguments, parsed by its signature.

    Args:
        function: whose typed signature and docstring give the options and their help.
        prog: the command, for its help.
        args: of the command line.
        skip: parameters that the command fills itself.
        positional: those without a default stand without their names.
    """
    summary = (inspect.getdoc(function) or "").partition("\n")[0]
    parser = CommandParser(prog=prog, description=summary)
    parser.add_function_arguments(function, as_positional=positional, skip=skip or set(), fail_untyped=False)
    parsed: dict[str, Any] = parser.instantiate_classes(parser.parse_args(spell_out(function, args))).as_dict()
    return parsed


def spell_out(function: Callable[..., Any], args: Sequence[str]) -> list[str]:
    """Return arguments as jsonargparse takes them: lists as ``--name=["a", "b"]``, flags as ``--name=true``.

    Args:
        function: whose parameters with a sequence may be given as ``--name a b`` or ``--name a --name b``, and those
            with a bool as ``--name``.
        args: of the command line.
    """
    kinds = {f"--{name}": str(p.annotation) for name, p in inspect.signature(function).parameters.items()}
    spelled: list[str] = []
    lists: dict[str, list[str]] = {}
    todo = list(args)
    while todo:
        arg = todo.pop(0)
        bare = not todo or todo[0].startswith("--")
        if kinds.get(arg, "").startswith("Sequence[") and not bare and not todo[0].startswith("["):
            while todo and not todo[0].startswith("--"):
                lists.setdefault(arg, []).append(todo.pop(0))
        elif kinds.get(arg) == "bool" and bare:
            spelled.append(f"{arg}=true")
        else:
            spelled.append(arg)
    return [*spelled, *(f"{name}={json.dumps(values)}" for name, values in lists.items())]


def choose(command: str, functions: dict[str, Callable[[list[str]], int]], args: list[str]) -> int:
    """Run the sub-subcommand that ``args`` begins with.

    Raises:
        ParserError: for none or an unknown one.
    """
    if args[:1] in (["-h"], ["--help"]):
        say(f"usage: deepsynth {command} {{{','.join(functions)}}} [--help]")
        return 0
    if not args or args[0] not in functions:
        raise ParserError(
            f"deepsynth {command} takes one of {', '.join(functions)}; found {args[0] if args else 'nothing'}"
        )
    return functions[args[0]](args[1:])


# ---------------------------------------------------------------------- render


def render(args: list[str]) -> int:
    """Run ``deepsynth render --config … --num 16 --out DIR``."""
    from deepsynth.cli.main import DeepSynthCLI
    from deepsynth.data.preview import format_table, write_preview

    own, rest = take(args, ("--out", "--num"))
    if "--help" in rest or "-h" in rest:
        say("usage: deepsynth render --config FILE --out DIR [--num 16] [the options of deepsynth fit]")
        return 0
    if "--out" not in own:
        raise ParserError("deepsynth render needs --out DIR, the folder for the pages")
    try:
        num = int(own.get("--num", "16"))
    except ValueError as error:
        raise ParserError(f"--num is {own['--num']!r}; it must be a whole number of pages") from error
    if num < 1:
        raise ParserError(f"--num is {num}; it must be at least 1")
    data = DeepSynthCLI(rest, run=False).datamodule
    folder = Path(own["--out"])
    tokenizer = data.processor.hf_processor.tokenizer
    reports = write_preview(
        data.source,
        data.pipeline(),
        folder,
        num,
        data.processor.layout,
        lambda text: len(tokenizer.encode(text, add_special_tokens=False)),
    )
    say(format_table(reports))
    say(f"{len(reports)} pages, contact.png and pages.csv in {folder}")
    return 0


def take(args: Sequence[str], names: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """Split ``--name value`` and ``--name=value`` of the given names from the other arguments.

    Raises:
        ParserError: for a name without a value.
    """
    found: dict[str, str] = {}
    rest: list[str] = []
    todo = list(args)
    while todo:
        arg = todo.pop(0)
        name, equals, value = arg.partition("=")
        if name not in names:
            rest.append(arg)
        elif equals:
            found[name] = value
        elif todo:
            found[name] = todo.pop(0)
        else:
            raise ParserError(f"{name} needs a value")
    return found, rest


# ---------------------------------------------------------------------- benchmark, export, hub


def benchmark(args: list[str]) -> int:
    """Run ``deepsynth benchmark data | train | generate``."""

    def command(function: Callable[..., Any]) -> Callable[[list[str]], int]:
        name = function.__name__.replace("_", " ")

        def run(args: list[str]) -> int:
            function(**parse(function, f"deepsynth {name}", args, skip={"report"}), report=say)
            return 0

        return run

    functions = (benchmark_data, benchmark_train, benchmark_generate)
    return choose("benchmark", {f.__name__.partition("_")[2]: command(f) for f in functions}, args)


def compare_backends(args: list[str]) -> int:
    """Run ``deepsynth compare --config … --backends … --output DIR``."""
    compare(**parse(compare, "deepsynth compare", args, skip={"report"}, positional=False), report=say)
    return 0


def export(args: list[str]) -> int:
    """Run ``deepsynth export``."""
    from deepsynth.export.merge import export_model

    say(str(export_model(**parse(export_model, "deepsynth export", args))))
    return 0


def hub(args: list[str]) -> int:
    """Run ``deepsynth hub resume | pull | push-data``."""

    def resume_run(args: list[str]) -> int:
        for line in resume(**parse(resume, "deepsynth hub resume", args, skip={"backoff"})):
            say(line)
        return 0

    def pull_adapter(args: list[str]) -> int:
        say(str(pull(**parse(pull, "deepsynth hub pull", args))))
        return 0

    return choose("hub", {"resume": resume_run, "pull": pull_adapter, "push-data": push_pages}, args)


def push_pages(args: list[str]) -> int:
    """Run ``deepsynth hub push-data --config … --repo_id owner/name``: the pages that training would see."""
    from deepsynth.cli.main import DeepSynthCLI

    own, rest = take(args, ("--repo_id", "--revision", "--private", "--split", "--work_folder"))
    if "--repo_id" not in own:
        raise ParserError("deepsynth hub push-data needs --repo_id owner/name")
    if own.get("--private", "true") not in ("true", "false"):
        raise ParserError(f"--private is {own['--private']!r}; it must be true or false")
    target = Target(
        own["--repo_id"], own.get("--revision", "main"), own.get("--private", "true") == "true", repo_type="dataset"
    )
    cli = DeepSynthCLI(rest, run=False)
    pipeline = cli.datamodule.pipeline()
    stages = (pipeline.renderer, pipeline.augmenter)
    recipe: dict[str, Any] = {type(stage).__name__: repr(stage) for stage in stages if stage is not None}
    work_folder = Path(own.get("--work_folder", f"runs/push-data/{target.repo_id.replace('/', '--')}"))
    lines = push_data(
        cli.datamodule.source,
        lambda document: pipeline.pages(document, None, 0),
        target,
        work_folder,
        split=own.get("--split", "train"),
        recipe={**recipe, "seed": pipeline.seed},
    )
    for line in lines:
        say(line)
    return 0


COMMANDS: dict[str, Callable[[list[str]], int]] = {
    "render": render,
    "export": export,
    "benchmark": benchmark,
    "compare": compare_backends,
    "hub": hub,
}
