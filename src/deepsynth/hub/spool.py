"""The spool: what waits to be pushed, on disk, each snapshot written complete or not at all.

One folder a target, ``RUN/hub_spool/OWNER--NAME@REVISION/``, so that two callbacks of a run never meet::

    000007-1f0c…/snapshot.json   what the commit shall be, and the size of every file
    000007-1f0c…/files/…         exactly the files of the commit
    .staged-…/                   being written; whatever a killed process left here is swept away later
    lock                         held by the one process that pushes from here
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import uuid
from collections.abc import Sequence
from dataclasses import asdict
from fnmatch import fnmatch
from pathlib import Path
from typing import IO

from deepsynth.hub.snapshot import MARK_FILE, Snapshot, Target
from deepsynth.io.files import atomic_folder

#: Folder inside a run's folder.
SPOOL_FOLDER = "hub_spool"


class Spool:
    """Snapshots of one target that wait to be pushed."""

    def __init__(self, folder: Path) -> None:
        """Open (and make) the spool; it takes no lock and reads nothing."""
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._lock: IO[str] | None = None

    @classmethod
    def of_run(cls, run: Path, target: Target) -> Spool:
        """Open the spool of a target in a run's folder."""
        return cls(run / SPOOL_FOLDER / target.folder_name)

    def lock(self) -> bool:
        """Become the one process that pushes from here; return whether that was possible.

        The lock goes away with the process, also when it is killed.
        """
        import fcntl

        handle = open(self.folder / "lock", "w")  # noqa: SIM115 - it stays open as long as the lock is held
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            handle.close()
            return False
        self._lock = handle
        return True

    def unlock(self) -> None:
        """Let another process push from here."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def stage(self) -> Path:
        """Return a new empty folder to write a snapshot's files into; `seal` or `discard` it."""
        return Path(tempfile.mkdtemp(prefix=".staged-", dir=self.folder))

    def discard(self, staged: Path) -> None:
        """Remove a staged folder that is not to become a snapshot."""
        shutil.rmtree(staged, ignore_errors=True)

    def seal(
        self,
        staged: Path,
        target: Target,
        message: str,
        *,
        allow: Sequence[str] | None = None,
        tag: str | None = None,
        delete: Sequence[str] = (),
    ) -> Snapshot:
        """Make a snapshot of a staged folder, in one step that a crash cannot cut in half.

        Args:
            staged: from `stage`; it is gone afterwards.
            target: where the snapshot goes.
            message: title of the commit.
            allow: names (``fnmatch`` patterns of paths) that may be pushed; anything else is left out. ``None``: all.
            tag: tag to set on the commit.
            delete: paths that the commit shall remove from the repository.

        Raises:
            ValueError: when nothing is left to push.
            OSError: when the disk is full or read-only; nothing half-written is left behind as a snapshot.
        """
        identity = uuid.uuid4().hex
        place = self.folder / f"{self._next_number():06d}-{identity}"
        files: dict[str, int] = {}
        try:
            with atomic_folder(place) as inner:
                for path in sorted(p for p in staged.rglob("*") if p.is_file() and not p.is_symlink()):
                    name = path.relative_to(staged).as_posix()
                    if allow is not None and not any(fnmatch(name, pattern) for pattern in allow):
                        continue
                    kept = inner / "files" / name
                    kept.parent.mkdir(parents=True, exist_ok=True)
                    os.replace(path, kept)
                    files[name] = kept.stat().st_size
                if not files:
                    raise ValueError(f"nothing to push to {target.repo_id}: no file of {staged} is on the list {allow}")
                snapshot = Snapshot(place, identity, target, message, tag, files, tuple(delete))
                fields = asdict(snapshot)
                del fields["folder"]
                (inner / MARK_FILE).write_text(json.dumps(fields, indent=1), encoding="utf-8")
        finally:
            shutil.rmtree(staged, ignore_errors=True)
        return snapshot

    def pending(self) -> list[Snapshot]:
        """Return the complete snapshots, oldest first.

        Raises:
            ValueError: for a snapshot that was damaged after it was written.
        """
        return [Snapshot.load(path) for path in self._folders()]

    def is_empty(self) -> bool:
        """Whether nothing waits."""
        return not self._folders()

    def remove(self, snapshot: Snapshot) -> None:
        """Forget a snapshot that was delivered."""
        _remove_whole(snapshot.folder)

    def remove_older(self, snapshot: Snapshot) -> None:
        """Forget the snapshots that this one replaces."""
        for folder in self._folders():
            if folder.name < snapshot.folder.name:
                _remove_whole(folder)

    def sweep(self) -> None:
        """Remove what a killed process left half-written; only for the holder of the lock."""
        for path in self.folder.glob(".*"):
            shutil.rmtree(path, ignore_errors=True)

    def _folders(self) -> list[Path]:
        return sorted(self.folder.glob("[0-9]*-*"))

    def _next_number(self) -> int:
        return 1 + max((int(path.name.split("-")[0]) for path in self._folders()), default=0)


def spools_of(run: Path) -> list[Spool]:
    """Return the spools in a run's folder, one a target.

    Raises:
        FileNotFoundError: when the folder holds no spool.
    """
    root = run if run.name == SPOOL_FOLDER else run / SPOOL_FOLDER
    if not root.is_dir():
        raise FileNotFoundError(
            f"{run} holds no folder {SPOOL_FOLDER!r}: expected the folder of a run with a HubCheckpoint callback"
        )
    return [Spool(path) for path in sorted(root.iterdir()) if path.is_dir()]


def _remove_whole(folder: Path) -> None:
    """Remove a folder so that a process killed in the middle leaves it whole or gone."""
    doomed = folder.with_name(f".staged-gone-{folder.name}")
    try:
        os.replace(folder, doomed)
    except FileNotFoundError:
        return
    shutil.rmtree(doomed, ignore_errors=True)
