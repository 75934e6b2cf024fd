"""Locks: one holder, released with its process, however that ends."""

from __future__ import annotations

import errno
import fcntl
import multiprocessing
import os
import signal
import socket
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from deepsynth.io.locks import FileLock


def hold(path: Path, pipe: Connection) -> None:
    pipe.send(FileLock(path).acquire())
    lock = FileLock(path)
    pipe.send(lock.acquire())
    pipe.recv()


def test_one_process_at_a_time_holds_a_lock_and_a_killed_one_holds_none(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    mine, theirs = context.Pipe()
    other = context.Process(target=hold, args=(tmp_path / "lock", theirs))
    other.start()
    assert mine.recv(), "nobody held it"
    assert mine.recv(), "an object that is gone holds nothing"
    lock = FileLock(tmp_path / "lock")
    assert not lock.acquire()
    assert lock.holder().startswith(f"process {other.pid} on ")
    assert other.pid is not None
    os.kill(other.pid, signal.SIGKILL)
    other.join()
    assert lock.acquire()
    assert lock.acquire(), "it has it already"
    assert not FileLock(tmp_path / "lock").acquire()
    lock.release()
    assert list(tmp_path.iterdir()) == []


def wait(pipe: Connection) -> None:
    pipe.send("forked")
    pipe.recv()


def test_a_worker_that_was_forked_meanwhile_does_not_hold_it(tmp_path: Path) -> None:
    lock = FileLock(tmp_path / "lock")
    assert lock.acquire()
    context = multiprocessing.get_context("fork")
    mine, theirs = context.Pipe()
    worker = context.Process(target=wait, args=(theirs,), daemon=True)
    worker.start()
    assert mine.recv() == "forked"
    lock.forget()  # as when this process is killed
    assert FileLock(tmp_path / "lock").acquire()
    mine.send("end")
    worker.join()


def test_a_lock_that_its_holder_removes_meanwhile_is_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else two would hold it: one the file that is gone, and the next the one in its place."""
    first, second = FileLock(tmp_path / "lock"), FileLock(tmp_path / "lock")
    assert first.acquire()
    opened = os.open

    def open_late(*args: object) -> int:
        descriptor = opened(*args)  # type: ignore[arg-type]
        first.release()
        return descriptor

    monkeypatch.setattr(os, "open", open_late)
    assert second.acquire()
    monkeypatch.undo()
    assert not FileLock(tmp_path / "lock").acquire()


def test_a_link_in_its_place_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("text")
    (tmp_path / "lock").symlink_to(tmp_path / "mine")
    with pytest.raises(OSError, match="lock"):
        FileLock(tmp_path / "lock").acquire()
    assert (tmp_path / "mine").read_text() == "text"


def test_the_holder_is_who_took_it_last(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    lock = FileLock(path)
    assert lock.holder() == "another process"
    for left in (b"", b"\xff", b"process 123456789 on a machine with a long name that has long ended\n" * 9):
        path.write_bytes(left)
        if left[:1] != b"p":
            assert lock.holder() == "another process"
    assert lock.acquire()
    assert path.read_text() == f"process {os.getpid()} on {socket.gethostname()}\n"
    assert lock.holder() == path.read_text().strip()
    lock.release()
    lock.release()
    assert not path.exists()


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS])
def test_a_file_system_without_locks_is_named_and_used(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", fail)
    assert FileLock(tmp_path / "lock").acquire()
    assert f"{tmp_path / 'lock'}: this file system has no locks" in caplog.text


def test_another_error_of_a_lock_is_raised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(fcntl, "flock", fail)
    with pytest.raises(OSError, match="Input/output error"):
        FileLock(tmp_path / "lock").acquire()
