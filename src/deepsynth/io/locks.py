"""Locks that end with their process."""

from __future__ import annotations

import errno
import logging
import os
import socket
import sys
from pathlib import Path
from typing import IO
from weakref import WeakSet

log = logging.getLogger(__name__)

#: What file systems say that have no locks, such as some network mounts.
_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)


class FileLock:
    """A lock that at most one process holds, in the form of a file.

    The operating system releases it when the process ends, even if it is killed. The file is there while the lock is
    held; one that a killed process left means nothing. Workers that are forked meanwhile do not hold the lock.

    Args:
        path: the file, in a folder that exists. A link in its place is not followed.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: IO[str] | None = None
        _LOCKS.add(self)

    def acquire(self) -> bool:
        """Take the lock, without waiting, and return whether this object holds it now.

        Raises:
            OSError: when the file cannot be written.
        """
        flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)
        while self._file is None:
            file = os.fdopen(os.open(self.path, flags, 0o666), "r+", encoding="utf-8")
            if not _lock(file, self.path):
                file.close()
                return False
            if not self._is_in_place(file):  # its last holder removed it after it was opened
                file.close()
                continue
            self._file = file
            file.truncate(0)
            file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
            file.flush()
        return True

    def release(self) -> None:
        """Release the lock, if it is held, and remove the file."""
        if self._file is None:
            return
        if os.name != "nt":  # Windows removes no open file; elsewhere another must not take it in between
            self.path.unlink(missing_ok=True)
        self._file.close()
        self._file = None

    def holder(self) -> str:
        """Return who holds the lock, for messages: ``process 12 on host``."""
        try:
            return self.path.read_text(encoding="utf-8").strip() or "another process"
        except (OSError, UnicodeDecodeError):
            return "another process"

    def _is_in_place(self, file: IO[str]) -> bool:
        try:
            return os.path.samestat(os.fstat(file.fileno()), os.stat(self.path, follow_symlinks=False))
        except FileNotFoundError:
            return False

    def forget(self) -> None:
        """Close the file in a forked process: the lock is its parent's, and ends with that."""
        if self._file is not None:
            self._file.close()
            self._file = None


#: All locks of this process.
_LOCKS: WeakSet[FileLock] = WeakSet()


def _forget_all() -> None:
    for lock in list(_LOCKS):
        lock.forget()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_all)


def _lock(file: IO[str], path: Path) -> bool:
    """Lock an open file for this process alone; return whether no other process holds the lock."""
    if sys.platform == "win32":
        import msvcrt

        try:
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True
    import fcntl

    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        log.warning("%s: this file system has no locks; take care that two runs do not share a folder", path)
    return True
