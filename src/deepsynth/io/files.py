"""Files and folders that appear complete or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; rename it to ``path`` once the block ends without an error.

    The temporary file is new, has an unpredictable name and the permissions that the umask gives. Missing parent
    folders are made. After an error the temporary file is gone and ``path`` is as it was.

    Args:
        path: of the file to write or replace.

    Raises:
        OSError: when the disk is full or the folder cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with _folder_beside(path) as folder:
        temporary = folder / path.name
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield a new, empty folder beside ``path``; put it in the place of ``path`` once the block ends without an error.

    After an error the new folder is gone and ``path`` is as it was.

    Args:
        path: of the folder to make or replace.

    Raises:
        OSError: when the disk is full or the parent folder cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with _folder_beside(path) as folder:
        new = folder / path.name
        new.mkdir()
        yield new
        if path.exists():
            os.rename(path, folder / f"{path.name}.old")
        os.rename(new, path)


@contextmanager
def _folder_beside(path: Path) -> Iterator[Path]:
    """Yield a private folder on the same file system, which is removed afterwards: a full disk needs the room."""
    folder = Path(tempfile.mkdtemp(prefix=f".{path.name[:100]}.", suffix=".part", dir=path.parent))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
