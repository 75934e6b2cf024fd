"""The parser's complaints in one line that names what was found, where, and what is allowed."""

from __future__ import annotations

import difflib
import errno
import math
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import NoReturn

from lightning.pytorch import callbacks, loggers
from lightning.pytorch.cli import LightningArgumentParser
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from deepsynth.cli.help.spellings import suggestion
from deepsynth.cli.help.subcommands import RUN_COMMANDS, command_of
from deepsynth.compat.jsonargparse import (
    class_not_chosen,
    innermost_error,
    missing_argument,
    other_base,
    unknown_class,
    unknown_option,
    unusable_path,
    wrong_value,
)
from deepsynth.distributed.support import REFUSED_OPTIONS
from deepsynth.errors import UserError
from deepsynth.io.text import shortened, visible

#: Room below which a disk counts as full.
_FULL_BYTES = 64 * 1024


class ParserError(Exception):
    """Arguments or a configuration that cannot be used."""


class DeepSynthArgumentParser(LightningArgumentParser):
    """Says what is wrong in one line, without the usage text."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raise :class:`ParserError`, which :func:`run` turns into a line and exit code 2."""
        raise ParserError(message) from ex


def is_user_error(error: BaseException) -> bool:
    """Return whether an error is a mistake that the user can fix: it is shown as one line.

    Those are this package's own :class:`~deepsynth.errors.UserError`, what Lightning says of the Trainer's options, and
    a file that cannot be read or written, which the message names, or a full disk. Anything else is a bug and shows its
    traceback.
    """
    if isinstance(error, OSError):
        return error.filename is not None or error.errno in (errno.ENOSPC, errno.EDQUOT)
    return isinstance(error, (UserError, MisconfigurationException))


def wrapped_user_error(error: BaseException) -> UserError | None:
    """Return the user error that an error is, or that it was raised for."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, UserError):
        cause = cause.__cause__ or cause.__context__
    return cause


def one_line(message: str, limit: int = 600) -> str:
    """Return a message without line breaks, repeated spaces and control characters, of at most ``limit``."""
    if "Original Traceback" in message:  # from a DataLoader worker: the last line is the worker's own error
        message = message.strip().splitlines()[-1].partition(": ")[2] or message
    text = visible(" ".join(innermost_error(message).split()))
    return shortened(text, limit)


def what_failed(error: BaseException, args: Sequence[str]) -> str:
    """Return an error's message; of a full disk that the system does not name, the folders that are full.

    Args:
        error: of :func:`is_user_error`.
        args: of the command line, whose values may be folders.
    """
    if not isinstance(error, OSError) or not error.strerror:
        return str(error)
    if error.filename is not None:
        return f"{os.fsdecode(error.filename)}: {error.strerror}"
    named = [Path(arg.rpartition("=")[2]).expanduser() for arg in args]
    places = [*named, Path("runs"), Path.cwd(), Path(tempfile.gettempdir()), Path.home()]
    full = [str(place) for place in places if _free_bytes(place) < _FULL_BYTES]
    where = " and ".join(dict.fromkeys(full)) or "of the run folder, TMPDIR or HF_HOME"
    return f"{error.strerror}: make room on the disk of {where}" if full else f"{error.strerror} on a disk {where}"


def _free_bytes(place: Path) -> float:
    """Return the room on the disk of a folder or file; infinity for what is none."""
    try:
        return shutil.disk_usage(place).free
    except (OSError, ValueError):
        return math.inf


def explain(message: str, args: Sequence[str], classes: Sequence[str], options: Collection[str]) -> str:
    """Return a parser's message with the place of the mistake and the nearest name that exists.

    Args:
        message: of jsonargparse.
        args: of the command line.
        classes: short names of all classes that a configuration may name.
        options: whole names of all options.
    """
    text = one_line(message)
    if name := unknown_class(text):
        return f"there is no class {name!r}{_place(name, args)}; {_nearest(name, classes)}"
    if found := unusable_path(text):
        return _why_unusable(*found, args)
    if key := unknown_option(text):
        leaf = key.rpartition(".")[2]
        command = command_of(args)
        hint = REFUSED_OPTIONS.get(leaf) or f"deepsynth {command} --help lists the options"
        if command in RUN_COMMANDS:
            hint = REFUSED_OPTIONS.get(leaf) or suggestion(_typed(key, args), options)
        return f"there is no option {key!r}{_place(leaf, args)}; {hint}"
    if re.search("the following arguments are required: source", text):
        return (
            "data.source is missing: give a --config (`deepsynth configs` lists the shipped ones), or "
            "--data.source=DocumentSource --data.source.path=FOLDER"
        )
    if (found := wrong_value(text)) and found[0] != "config":
        key, reason = found
        if base := class_not_chosen(reason):
            fitting = [name for name in classes if name.endswith(base.rpartition(".")[2])]
            return f"{key} has no class to give this option to; name it first: --{key}={'|'.join(fitting)}"
        if missing := missing_argument(reason):
            return f"{key} has no {missing}; add --{key}.{missing}=…{_place(key.rpartition('.')[2], args)}"
        reason = f"it must be a subclass of {base}" if (base := other_base(reason)) else reason
        return f"{key}: {reason}{_place(key.rpartition('.')[2], args)}"
    return text


def _nearest(name: str, known: Sequence[str]) -> str:
    """Return the names that are like a class's, Lightning's too; all of the package where none is."""
    if near := difflib.get_close_matches(name, [*known, *loggers.__all__, *callbacks.__all__], n=3, cutoff=0.6):
        return f"did you mean {' or '.join(near)}?"
    return f"there are {', '.join(sorted(set(known)))}; a class of your own is given as module.Name"


def _why_unusable(path: str, reason: str, args: Sequence[str]) -> str:
    """Return what is wrong with the dotted path of a user's own class or function."""
    module, _, name = path.rpartition(".")
    place = _place(name, args)
    if reason.startswith("No module"):
        missing = reason.split("'")[1]
        return f"{path}: there is no module {missing!r}{place}; a file {missing}.py of the current folder would be one"
    names = [own for own in vars(sys.modules[module]) if not own.startswith("_")] if module in sys.modules else []
    near = difflib.get_close_matches(name, names, n=1)
    return f"{path}: module {module!r} has no {name!r}{place}" + (f"; did you mean {near[0]}?" if near else "")


def _typed(key: str, args: Sequence[str]) -> str:
    """Return an option as written on the command line, with its value; the key itself for one of a file."""
    leaf = key.rpartition(".")[2]
    for position, arg in enumerate(args):
        name, equals, value = arg.partition("=")
        if name.startswith("--") and name.replace("-", "_").endswith(leaf.replace("-", "_")):
            following = args[position + 1 : position + 2]
            if not equals and following and not following[0].startswith("-"):
                value = following[0]
            return f"{name}={value}"
    return key


def _place(name: str, args: Sequence[str]) -> str:
    """Return " (FILE, line N)" or " (--key=value)" for the last place where the name stands, or nothing."""
    word = re.compile(rf"(?<![\w.]){re.escape(name)}(?!\w)")
    for arg in reversed(args):
        if (
            arg.startswith("--")
            and not arg.startswith("--config")
            and word.search(arg.replace(".", " ").replace("=", " "))
        ):
            return f" ({arg})"
    for file in reversed(_config_files(args)):
        try:
            lines = file.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError):
            continue  # the parser has its own message about a file that cannot be read
        for number, line in enumerate(lines, 1):
            if word.search(line):
                return f" ({file}, line {number})"
    return ""


def _config_files(args: Sequence[str]) -> list[Path]:
    files = [arg.partition("=")[2] for arg in args if arg.startswith("--config=")]
    files += [args[i + 1] for i, arg in enumerate(args[:-1]) if arg in ("--config", "-c")]
    return [Path(file) for file in files]
