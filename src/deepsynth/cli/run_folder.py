"""Where a run keeps its files: ``<trainer.default_root_dir>/<run_name>/``, which belongs to one run at a time."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from itertools import count
from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.cli import SaveConfigCallback

from deepsynth.errors import UserError
from deepsynth.io.files import explain_write_errors
from deepsynth.io.locks import FileLock

#: The file in a run's folder that says that the run is alive.
LOCK_FILE = "run.lock"

#: What a run writes before its first step.
_STARTED = ("config*.yaml", "hparams.yaml", "gallery.html", "report.html", "events.out.tfevents.*", "lock", LOCK_FILE)

#: How often a folder is made whose parents other runs remove.
_ATTEMPTS = 10


class RunFolder:
    """A folder that one run has for itself, from :meth:`claim` to :meth:`release`.

    Attributes:
        path: the folder.
    """

    def __init__(self, path: Path, lock: FileLock, earlier: frozenset[Path], made: Sequence[Path] = ()) -> None:
        """Make the object; :meth:`claim` and :meth:`resume` are the ways to get one."""
        self.path = path
        self._lock = lock
        self._earlier = earlier  # what was in the folder
        self._made = made  # the folder and its parents, innermost first, as far as they were missing

    @classmethod
    def claim(cls, root: Path, name: str) -> RunFolder:
        """Take a folder for a new run: ``name``, or ``name-2``, ``name-3``, … when that is another run's.

        Of several processes that ask for one name at the same time, each gets another folder. A folder that holds no
        file, or only the lock of a run that was killed, is free.

        Args:
            root: the parent of all run folders; made when it is missing.
            name: what the run is called.

        Raises:
            UserError: when the folder cannot be made.
        """
        for path in free_names(root, name):
            with explain_write_errors(path, "the run's folder"):
                made = _make_folders(path)
                folder = cls._lock_folder(path, made)
            if folder is not None and is_unused(path):
                return folder
            if folder is not None:  # another run has written here since it was looked at
                folder.release()
        raise AssertionError("there is always a free name")

    @classmethod
    def resume(cls, path: Path) -> RunFolder:
        """Take the folder of an earlier run to resume it.

        Raises:
            UserError: when that run is still alive, or the folder cannot be written.
        """
        with explain_write_errors(path, "the run's folder"):
            folder = cls._lock_folder(path)
        if folder is None:
            raise UserError(
                f"{path}: its run is still running ({FileLock(path / LOCK_FILE).holder()}); wait until it ends, or "
                "copy the checkpoint to a folder outside the run to start another one from it"
            )
        return folder

    @classmethod
    def _lock_folder(cls, path: Path, made: Sequence[Path] = ()) -> RunFolder | None:
        """Return the folder, or nothing when another process has it."""
        earlier = frozenset(path.rglob("*"))
        lock = FileLock(path / LOCK_FILE)
        try:
            taken = lock.acquire()
        except FileNotFoundError:  # its run has just removed it
            return None
        return cls(path, lock, earlier, made) if taken else None

    def discard_start(self, *, started: Sequence[str] = ()) -> None:
        """Remove what this run has written if that is no more than a run writes before its first step.

        Files that were there before stay, and so does everything when there is anything else that is new.

        Args:
            started: patterns of more such files.
        """
        new = [path for path in self.path.rglob("*") if path not in self._earlier]
        files = [path for path in new if path.is_symlink() or not path.is_dir()]
        patterns = (*_STARTED, *started)
        if not all(any(map(path.match, patterns)) or not path.stat().st_size for path in files):
            return
        for path in files:
            if path.name != LOCK_FILE:
                path.unlink(missing_ok=True)
        self._lock.release()
        _remove_empty([*sorted(new, key=lambda path: len(path.parts), reverse=True), *self._made])

    def release(self) -> None:
        """Release the folder; remove it and the parents that were made for this run if they are empty."""
        self._lock.release()
        _remove_empty(self._made)


def _make_folders(path: Path) -> list[Path]:
    """Make a folder with its parents, and return those that were missing, innermost first."""
    for attempt in count(1):
        missing = [folder for folder in (path, *path.parents) if not folder.exists()]
        try:
            path.mkdir(parents=True, exist_ok=True)
        except FileNotFoundError:  # another run that did nothing has just removed the parent that it had made
            if attempt == _ATTEMPTS:
                raise
        else:
            break
    return missing


def _remove_empty(folders: Iterable[Path]) -> None:
    for folder in folders:
        if folder.is_dir():
            with contextlib.suppress(OSError):  # it holds files
                folder.rmdir()


class RunConfig(SaveConfigCallback):
    """Keeps the merged configuration beside the run's checkpoints; an earlier one stays."""

    def save_config(self, trainer: Trainer, pl_module: Any, stage: str) -> None:
        """Write ``config.yaml``, or ``config-2.yaml``, … for a resumed fit; other stages only where there is none."""
        folder = Path(trainer.default_root_dir)
        file, number = folder / "config.yaml", 2
        if file.exists() and stage != "fit":
            return
        while file.exists():
            file, number = folder / f"config-{number}.yaml", number + 1
        folder.mkdir(parents=True, exist_ok=True)
        self.parser.save(self.config, str(file), skip_none=False, overwrite=False, multifile=False)


def run_of(checkpoint: str) -> Path | None:
    """Return the folder of the run that a checkpoint or adapter belongs to, if it lies in one, or is one."""
    path = Path(checkpoint).resolve()
    if not checkpoint:
        return None
    if (path / "config.yaml").is_file() and (path / "adapter").is_dir():
        return path
    for folder in (path.parent, path.parent.parent):
        if (folder / "config.yaml").is_file() and path.relative_to(folder).parts[0] in ("checkpoints", "adapter"):
            return folder
    return None


def free_names(root: Path, name: str) -> Iterator[Path]:
    """Yield the folders that a run may have, ``name``, ``name-2``, …, those left out that hold files."""
    number = 1
    while True:
        path = root / (name if number == 1 else f"{name}-{number}")
        if not path.exists() or (path.is_dir() and is_unused(path)):
            yield path
        number += 1


def is_unused(folder: Path) -> bool:
    """Return whether a folder holds nothing yet: no file, however deep, but a lock."""
    return not any(path.is_file() and path.name != LOCK_FILE for path in folder.rglob("*"))
