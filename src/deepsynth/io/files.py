"""Files and folders that appear complete or not at all."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import glob
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from deepsynth.errors import UserError

#: Age in seconds at which an unfinished folder counts as left by a process that was killed.
_ABANDONED_S = 86_400.0

#: Constants of the operating systems: AT_FDCWD and RENAME_EXCHANGE of Linux, RENAME_SWAP of macOS.
_CURRENT_FOLDER, _LINUX_EXCHANGE, _MACOS_SWAP = -100, 2, 2


@contextmanager
def atomic_file(path: Path, *, durable: bool = True) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; rename it to ``path`` once the block ends without an error.

    The temporary file is new, has an unpredictable name and the permissions that the umask gives. Missing parent
    folders are made. After an error the temporary file is gone and ``path`` is as it was.

    Args:
        path: file to write or replace.
        durable: whether to wait until it is on the disk; a cache need not.

    Raises:
        OSError: when the disk is full or the folder cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with _folder_beside(path) as folder:
        temporary = folder / path.name
        yield temporary
        if durable:
            _sync(temporary)
        os.replace(temporary, path)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield a new, empty folder beside ``path``; put it in the place of ``path`` once the block ends without an error.

    Its files are on the disk before it gets its name, and have the permissions that the umask gives, whatever wrote
    them. After an error the new folder is gone and ``path`` is as it was.
    Where the file system can exchange two names, as on Linux and macOS, there is always a folder at ``path``.

    Args:
        path: folder to make or replace.

    Raises:
        OSError: when the disk is full or the parent folder cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(path)
    with _folder_beside(path) as folder:
        new = folder / path.name
        new.mkdir()
        shared = new.stat().st_mode & 0o666
        yield new
        for inner in (*new.rglob("*"), new):
            if not inner.is_symlink():
                inner.chmod(inner.stat().st_mode | shared)  # safetensors writes files that only their owner can read
                _sync(inner)
        if not (os.path.lexists(path) and _exchange(new, path)):
            _replace_folder(new, path, old=folder / f"{path.name}.old")
        _sync(path.parent)


@contextmanager
def explain_write_errors(path: Path, what: str) -> Iterator[None]:
    """Turn an ``OSError`` of the block, such as a full disk, into a :class:`~deepsynth.errors.UserError`.

    Args:
        path: file or folder that the block writes.
        what: subject of the message, such as ``"the gallery"``.

    Raises:
        UserError: for any ``OSError``.
    """
    try:
        yield
    except OSError as error:
        raise UserError(f"{path}: {what} cannot be written {reason_and_remedy(error, 'another place')}") from error


def reason_and_remedy(error: Exception, other: str) -> str:
    """Return why a write failed, and what to do: ``(No space left on device); make room, or choose another place``.

    Args:
        error: of the write; an ``OSError``, or a library's own error.
        other: what can be chosen instead, such as ``"another place"``.
    """
    reason = str(getattr(error, "strerror", None) or error)
    if isinstance(error, (FileExistsError, NotADirectoryError, IsADirectoryError)) and error.filename is not None:
        path = Path(os.fsdecode(error.filename))
        found = next(place for place in (path, *path.parents) if os.path.lexists(place))
        kind = "a folder, not a file" if found.is_dir() else "a file, not a folder"
        return f"({found} is {kind}); choose {other}"
    if isinstance(error, OSError) and error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"({reason}); choose {other}"
    return f"({reason}); make room, or choose {other}"


def _exchange(first: Path, second: Path) -> bool:
    """Exchange the names of two files or folders in one step; return whether the system and the file system can."""
    if os.name != "posix":
        return False
    library = ctypes.CDLL(None)
    names = os.fsencode(first), os.fsencode(second)
    if hasattr(library, "renameat2"):
        failed = library.renameat2(_CURRENT_FOLDER, names[0], _CURRENT_FOLDER, names[1], _LINUX_EXCHANGE)
    elif hasattr(library, "renamex_np"):
        failed = library.renamex_np(*names, _MACOS_SWAP)
    else:
        return False
    return not failed


def _replace_folder(new: Path, path: Path, old: Path) -> None:
    """Rename a folder to ``path``, and what is there to ``old``, which comes back if that fails."""
    if os.path.lexists(path):
        os.rename(path, old)
    try:
        os.rename(new, path)
    except OSError:
        if os.path.lexists(old):
            os.rename(old, path)
        raise


def _prefix(path: Path) -> str:
    return f".{path.name[:100]}."


@contextmanager
def _folder_beside(path: Path) -> Iterator[Path]:
    """Yield a private folder on the same file system, which is removed afterwards: a full disk needs the room."""
    folder = Path(tempfile.mkdtemp(prefix=_prefix(path), suffix=".part", dir=path.parent))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _remove_abandoned(path: Path) -> None:
    """Remove what processes that were killed long ago left beside ``path``."""
    for folder in path.parent.glob(f"{glob.escape(_prefix(path))}*.part"):
        with contextlib.suppress(FileNotFoundError):  # another process removed it
            if time.time() - folder.stat().st_mtime > _ABANDONED_S:
                shutil.rmtree(folder, ignore_errors=True)


def _sync(path: Path) -> None:
    """Wait until a file or folder is on the disk."""
    windows = os.name == "nt"
    if windows and path.is_dir():  # Windows opens no folders
        return
    descriptor = os.open(path, os.O_RDWR if windows else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
