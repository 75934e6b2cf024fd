"""The spool: a queue on disk of snapshots that wait to be pushed, each complete or absent.

Each target has a folder ``RUN/hub_spool/OWNER--NAME@REVISION/``, so that two callbacks of a run never conflict::

    000007-1f0c…/snapshot.json   description of the commit, and the size of every file
    000007-1f0c…/files/…         exactly the files of the commit
    .…                           folders that are being written; those of killed processes are removed later
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

from deepsynth.errors import UserError
from deepsynth.hub.snapshot import MARK_FILE, Snapshot, Target
from deepsynth.io.files import atomic_folder
from deepsynth.io.locks import FileLock

#: Folder inside a run's folder.
SPOOL_FOLDER = "hub_spool"


class Spool:
    """Snapshots of one target that wait to be pushed."""

    def __init__(self, folder: Path) -> None:
        """Open the spool, and create its folder; this takes no lock and reads nothing."""
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._lock = FileLock(folder / "lock")

    @classmethod
    def of_run(cls, run: Path, target: Target) -> Spool:
        """Open the spool of a target in a run's folder."""
        return cls(run / SPOOL_FOLDER / target.folder_name)

    def lock(self) -> bool:
        """Become the one process that pushes from here; return whether that was possible.

        The operating system releases the lock when the process ends, even if it is killed.
        """
        return self._lock.acquire()

    def unlock(self) -> None:
        """Let another process push from here."""
        self._lock.release()

    def stage(self) -> Path:
        """Return a new empty folder for the files of a snapshot; :meth:`seal` or :meth:`discard` it."""
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
        """Make a snapshot of a staged folder, in one step that a crash cannot interrupt.

        Args:
            staged: folder of :meth:`stage`, or one inside it; it is removed.
            target: repository and branch of the snapshot.
            message: title of the commit.
            allow: ``fnmatch`` patterns of the paths that may be pushed, ``None`` for all; others are left out.
            tag: tag to set on the commit.
            delete: paths that the commit removes from the repository.

        Raises:
            ValueError: when no file is left to push.
            OSError: when the disk is full or read-only; no incomplete snapshot is left behind.
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
            UserError: for a snapshot that was damaged after it was written.
        """
        return [Snapshot.load(path) for path in self._folders()]

    def is_empty(self) -> bool:
        """Return whether no snapshot waits."""
        return not self._folders()

    def remove(self, snapshot: Snapshot) -> None:
        """Remove a snapshot that was delivered."""
        _remove_whole(snapshot.folder)

    def remove_older(self, snapshot: Snapshot) -> None:
        """Remove the snapshots that are older than this one."""
        for folder in self._folders():
            if folder.name < snapshot.folder.name:
                _remove_whole(folder)

    def sweep(self) -> None:
        """Remove incomplete folders of killed processes; only for the holder of the lock."""
        for path in self.folder.glob(".*"):
            shutil.rmtree(path, ignore_errors=True)

    def _folders(self) -> list[Path]:
        return sorted(self.folder.glob("[0-9]*-*"))

    def _next_number(self) -> int:
        return 1 + max((int(path.name.split("-")[0]) for path in self._folders()), default=0)


def spools_of(run: Path) -> list[Spool]:
    """Return the spools in the folder of a run, one per target.

    Raises:
        UserError: when the folder has no spool.
    """
    root = run if run.name == SPOOL_FOLDER else run / SPOOL_FOLDER
    if not root.is_dir():
        raise UserError(
            f"{run}: there is no folder {SPOOL_FOLDER!r} in it; give the folder of a run with a HubCheckpoint callback"
        )
    return [Spool(path) for path in sorted(root.iterdir()) if path.is_dir()]


def _remove_whole(folder: Path) -> None:
    """Remove a folder; a process that is killed meanwhile leaves it complete or absent."""
    doomed = folder.with_name(f".staged-gone-{folder.name}")
    try:
        os.replace(folder, doomed)
    except FileNotFoundError:
        return
    shutil.rmtree(doomed, ignore_errors=True)
