"""The help of commands that take the options of a run: DeepSynth's own first, Lightning's Trainer behind a line."""

from __future__ import annotations

import shutil
import sys
import textwrap
from collections.abc import Iterable, Sequence

from deepsynth.cli.help.options import (
    Option,
    class_options,
    data_options,
    first_line,
    module_options,
    optimizer_options,
    trainer_options,
)
from deepsynth.cli.help.subcommands import RUN_COMMANDS, examples

#: What every run takes beside the options of its parts.
COMMON_OPTIONS = (
    Option(
        "config", "NAME|FILE", "", "configuration; may be repeated, later ones over earlier ones (`deepsynth configs`)"
    ),
    Option("ckpt_path", "PATH|last|best", "", "checkpoint to resume, or folder of a run or adapter to start from"),
    Option("run_name", "NAME", "", "name of the run's folder below runs/; by default that of the first configuration"),
    Option("seed_everything", "N", "0", "seed of everything random"),
    Option("print_config", "", "", "print the merged configuration and exit"),
    Option("debug", "", "", "show the traceback of an error"),
)
#: Options that single commands have of their own.
OWN_OPTIONS: dict[str, tuple[Option, ...]] = {
    "predict": (
        Option("output", "DIR", "", "folder for predictions.jsonl and the other results; by default that of the run"),
        Option("format", "NAMES", "jsonl", "of jsonl, txt, md, page and alto, with commas between; a file a document"),
        Option("resume", "", "", "continue what --output has of an interrupted run"),
        Option("shard", "I/N", "", "part I of N of the documents, I from 0, for several commands with one --output"),
        Option("token_logprobs", "", "", "add the log-probability of each token to predictions.jsonl"),
    ),
    "render": (
        Option("output", "DIR", "", "folder for the pages, contact.png and pages.csv"),
        Option("num", "N", "16", "number of pages"),
    ),
    "data check": (
        Option("output", "DIR", "", "folder for contact.png and check.json; by default none"),
        Option("num", "N", "16", "number of pages on the contact sheet"),
    ),
    "data convert": (
        Option("output", "DIR", "", "folder for the files"),
        Option("format", "jsonl|parquet|txt|page|alto", "jsonl", "format of the files"),
        Option("shard", "I/N", "", "part I of N of the documents, I from 0; by default torchrun's rank, or all"),
        Option("num", "N", "", "number of documents, the first; by default all"),
    ),
    "hub push-data": (
        Option("repo_id", "OWNER/NAME", "", "dataset repository"),
        Option("revision", "TEXT", "main", "branch"),
        Option("split", "TEXT", "train", "name of the split"),
        Option("private", "true|false", "true", "whether a new repository is private"),
        Option("work_folder", "DIR", "", "where shards wait; by default below runs/push-data"),
    ),
}


def help_page(command: str, word: str = "") -> str:
    """Return the help of a command.

    Args:
        command: its words, such as ``data check``.
        word: part of a name; then only the options whose names have it, or the options of that class.
    """
    if word:
        return _search(command, word)
    own = OWN_OPTIONS.get(command, ())
    positional = "[PATH] " if command == "predict" else ""
    parts = [
        f"usage: deepsynth {command} {positional}[--config NAME|FILE ...] [--KEY=VALUE ...]\n",
        f"{RUN_COMMANDS[command].capitalize()}.\n",
        examples(command),
        _section("options", (*own, *COMMON_OPTIONS)),
        _section("model: the model, its adapters, how it computes and generates", module_options()),
        _section("the optimizer, AdamW unless model.optimizer names another class", optimizer_options()),
        _section("data: documents, pages, batches", data_options()),
        _classes(command),
        f"{'-' * 20} options of Lightning's Trainer {'-' * 20}\n",
        _section(
            "trainer: https://lightning.ai/docs/pytorch/stable/common/trainer.html", trainer_options(), brief=True
        ),
    ]
    return "\n".join(parts)


def show_help(command: str, args: Sequence[str]) -> bool:
    """Print the help of a command if its arguments ask for it, and return whether they do."""
    asked = next((position for position, arg in enumerate(args) if arg in ("-h", "--help")), None)
    if asked is None:
        return False
    word = next((arg for arg in args[asked + 1 : asked + 2] if not arg.startswith("-")), "")
    sys.stdout.write(help_page(command, word))
    return True


def _search(command: str, word: str) -> str:
    classes = class_options()
    if word in classes:
        key, owner, options = classes[word]
        usage = f"--{key}={word}" if not key.endswith("callbacks") else f"--{key}+={word}"
        about = _section(f"options of {word}", options) if options else f"{word} has no options\n"
        return f"{usage}: {first_line(owner)}\n\n{about}"
    groups = [module_options(), optimizer_options(), data_options(), trainer_options()]
    groups += [options for _, _, options in classes.values()]
    found = {option.key: option for group in groups for option in group if word.lower() in option.key.lower()}
    if not found:
        return f"no option has {word!r} in its name; deepsynth {command} --help shows all\n"
    return _section(f"options with {word!r} in their name", found.values())


def _classes(command: str) -> str:
    width = shutil.get_terminal_size((100, 24)).columns
    titles = {
        "data.source": "sources",
        "data.renderer": "renderers",
        "data.augmenter": "augmenters",
        "data.processor": "processors",
        "trainer.callbacks": "callbacks",
    }
    lines = [f"classes by name; deepsynth {command} --help NAME shows the options of one. Your own: module.Class", ""]
    for key, title in titles.items():
        names = [name for name, (place, _, _) in class_options().items() if place == key]
        sign = "+=" if key == "trainer.callbacks" else "="
        lines += textwrap.wrap(f"--{key}{sign}NAME ({title}): {', '.join(names)}", width, subsequent_indent=" " * 6)
    return "\n".join(lines) + "\n"


def _section(title: str, options: Iterable[Option], *, brief: bool = False) -> str:
    width = max(60, min(shutil.get_terminal_size((100, 24)).columns, 120))
    lines = [f"{title}:"]
    for option in options:
        head = f"  --{option.key}" + (f"={option.kind}" if option.kind else "")
        default = f" (default {option.default})" if option.default else ""
        if brief:
            lines.append(f"{head}{default}"[:width])
            continue
        lines.append(head)
        text = (option.text + default).strip()
        lines += textwrap.wrap(text, width, initial_indent=" " * 6, subsequent_indent=" " * 6)
    return "\n".join(lines) + "\n"
