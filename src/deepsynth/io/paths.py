"""Names and paths that came in a file: what they may reach."""

from __future__ import annotations

import stat
from pathlib import Path

from deepsynth.errors import UserError
from deepsynth.io.text import shortened

#: Longest name of a file or folder on the usual file systems, in bytes.
_LONGEST_NAME = 255


def file_below(folder: Path, name: str | Path, *, outside: bool = False) -> Path:
    """Return the path of a regular file that a data file names.

    Args:
        folder: folder that the name is relative to.
        name: relative, or absolute; links are followed.
        outside: whether the file may lie elsewhere.

    Raises:
        UserError: when there is no such file, it is a pipe or device, or it lies elsewhere.
    """
    path = folder / name
    try:
        mode = path.stat().st_mode
        elsewhere = not outside and not path.resolve().is_relative_to(folder.resolve())
    except (OSError, ValueError, RuntimeError) as error:  # too long, a null byte, links in a circle
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"no file {shortened(str(path))} ({reason})") from None
    if elsewhere:
        raise UserError(
            f"the file {shortened(str(name))} lies outside {folder}; move it there, or set outside_paths=true if you "
            "trust what names it"
        )
    if not stat.S_ISREG(mode):
        raise UserError(f"{shortened(str(path))} is not a regular file; a source needs files that can be read again")
    return path


def check_regular_file(path: Path) -> None:
    """Refuse a pipe or device: a source is read several times.

    Raises:
        UserError: for what is there and is no regular file.
    """
    if path.exists() and not path.is_file():
        raise UserError(f"{path}: not a regular file; a source needs files that can be read again")


def check_name(key: str, name: str) -> None:
    """Refuse the name of a file or folder that would be a path.

    Args:
        key: option, for the message.
        name: its value.

    Raises:
        UserError: for separators, control characters, the names of folders themselves, and what is too long.
    """
    if name in ("", ".", "..") or any(c in "/\\" or not c.isprintable() for c in name):
        raise UserError(f"{key} is {shortened(repr(name))}; it must be a name, without / and control characters")
    if len(name.encode()) > _LONGEST_NAME - 55:  # what is written beside it has longer names
        raise UserError(f"{key} is {shortened(repr(name))}, {len(name)} characters; it must have at most 200 bytes")
