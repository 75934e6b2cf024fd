"""Atomic files and folders: complete or absent, whatever goes wrong in between."""

from __future__ import annotations

import ctypes
import errno
import os
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file

from deepsynth.errors import UserError
from deepsynth.io.files import atomic_file, atomic_folder, explain_write_errors


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_appears_when_the_block_ends(tmp_path: Path) -> None:
    path = tmp_path / "new" / "deep" / "a.txt"
    with atomic_file(path) as temporary:
        temporary.write_text("one")
        assert not path.exists()
        assert temporary.parent.parent == path.parent  # the same file system
    assert path.read_text() == "one"
    assert names(path.parent) == ["a.txt"]


def test_a_failed_write_leaves_the_old_file_and_no_rest(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(FileNotFoundError), atomic_file(path) as temporary:
        temporary.with_name("missing").read_text()
    assert path.read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


def test_a_file_has_the_permissions_of_its_neighbors(tmp_path: Path) -> None:
    old = os.umask(0o027)
    try:
        with atomic_file(tmp_path / "a.txt") as temporary:
            temporary.write_text("one")
    finally:
        os.umask(old)
    assert (tmp_path / "a.txt").stat().st_mode & 0o777 == 0o640


def test_a_link_staged_in_advance_is_not_followed(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("mine")
    path = tmp_path / "a.txt"
    path.symlink_to(victim)
    with atomic_file(path) as temporary:
        temporary.write_text("new")
    assert victim.read_text() == "mine"
    assert path.read_text() == "new"
    assert not path.is_symlink()


def test_a_folder_takes_the_place_of_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "new" / "deep" / "adapter"
    for content in ("one", "two"):
        with atomic_folder(path) as new:
            assert names(new) == []
            (new / content).write_text(content)
    assert names(path) == ["two"]
    assert names(path.parent) == ["adapter"]


@pytest.mark.skipif(sys.platform != "linux", reason="needs a system that exchanges names")
def test_there_is_no_moment_without_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "adapter"
    with atomic_folder(path) as new:
        (new / "weights").write_text("one")

    def fail(*paths: object) -> None:
        raise AssertionError(f"a rename leaves a gap: {paths}")

    for name in ("rename", "replace"):
        monkeypatch.setattr(os, name, fail)
    with atomic_folder(path) as new:
        (new / "weights").write_text("two")
        assert (path / "weights").read_text() == "one"
    assert (path / "weights").read_text() == "two"
    assert names(tmp_path) == ["adapter"]


@pytest.fixture(
    params=[{}, {"renameat2": lambda *_: -1}, {"renamex_np": lambda *_: -1}], ids=["none", "Linux", "macOS"]
)
def no_exchange(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have a system that cannot exchange two names, or a file system for which the call fails."""
    monkeypatch.setattr(ctypes, "CDLL", lambda name: SimpleNamespace(**request.param))


@pytest.mark.usefixtures("no_exchange")
def test_a_file_system_that_cannot_exchange_names_renames(tmp_path: Path) -> None:
    for content in ("one", "two"):
        with atomic_folder(tmp_path / "adapter") as new:
            (new / content).write_text(content)
    assert names(tmp_path / "adapter") == ["two"]
    assert names(tmp_path) == ["adapter"]


def test_a_folder_and_its_files_have_the_permissions_of_their_neighbors(tmp_path: Path) -> None:
    old = os.umask(0o027)
    try:
        with atomic_folder(tmp_path / "adapter") as new:
            (new / "settings").write_text("one")
            save_file({"weight": torch.ones(1)}, new / "weights")  # which gives them to their owner alone
    finally:
        os.umask(old)
    assert (tmp_path / "adapter").stat().st_mode & 0o777 == 0o750
    assert {file.stat().st_mode & 0o777 for file in (tmp_path / "adapter").iterdir()} == {0o640}


def test_a_failed_folder_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "adapter"
    path.mkdir()
    (path / "one").write_text("one")
    with pytest.raises(FileNotFoundError), atomic_folder(path) as new:
        (new / "missing" / "half").write_text("half")
    assert names(path) == ["one"]
    assert names(tmp_path) == ["adapter"]


def test_what_a_killed_process_left_is_removed_once_it_is_old(tmp_path: Path) -> None:
    for name, age_s in ((".adapter.old.part", 90_000), (".adapter.new.part", 60), (".other.old.part", 90_000)):
        (tmp_path / name / "adapter").mkdir(parents=True)
        (tmp_path / name / "adapter" / "half").touch()
        then = time.time() - age_s
        os.utime(tmp_path / name, (then, then))
    with atomic_folder(tmp_path / "adapter"):
        pass
    assert names(tmp_path) == [".adapter.new.part", ".other.old.part", "adapter"]


def test_a_folder_is_on_the_disk_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []
    sync, rename = os.fsync, os.rename
    monkeypatch.setattr(os, "fsync", lambda descriptor: (events.append("fsync"), sync(descriptor)))
    monkeypatch.setattr(os, "rename", lambda *paths: (events.append("rename"), rename(*paths)))
    with atomic_folder(tmp_path / "adapter") as new:
        (new / "inner").mkdir()
        (new / "inner" / "weights").write_text("one")
        (new / "link").symlink_to("nowhere")
    assert events == ["fsync"] * 3 + ["rename", "fsync"]


@pytest.mark.usefixtures("no_exchange")
def test_the_old_folder_comes_back_when_the_new_one_cannot_take_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "adapter"
    path.mkdir()
    (path / "one").write_text("one")
    rename = os.rename

    def fail_into_place(source: Path, target: Path) -> None:
        if target == path and not str(source).endswith(".old"):
            raise PermissionError("no")
        rename(source, target)

    monkeypatch.setattr(os, "rename", fail_into_place)
    with pytest.raises(PermissionError), atomic_folder(path) as new:
        (new / "two").write_text("two")
    assert names(path) == ["one"]
    assert names(tmp_path) == ["adapter"]


@pytest.mark.parametrize("durable", [True, False])
def test_a_file_is_on_the_disk_before_it_has_its_name_unless_it_need_not(
    durable: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.append(os.readlink(f"/proc/self/fd/{descriptor}")))
    with atomic_file(tmp_path / "a.txt", durable=durable) as temporary:
        temporary.write_text("one")
    assert synced == [str(temporary)] * durable
    assert (tmp_path / "a.txt").read_text() == "one"


def test_the_longest_names_and_those_with_brackets_are_written(tmp_path: Path) -> None:
    for name in ("a" * 255, "ä[1]*"):
        with atomic_file(tmp_path / name) as file:
            file.write_text("one")
        assert (tmp_path / name).read_text() == "one"
    left = tmp_path / ".run[1].x.part"
    left.mkdir()
    then = time.time() - 90_000
    os.utime(left, (then, then))
    with atomic_folder(tmp_path / "run[1]"):
        pass
    assert not left.exists()


def test_what_cannot_be_written_is_one_line_with_the_reason() -> None:
    full = OSError(errno.ENOSPC, "No space left on device")
    locked = PermissionError(errno.EACCES, "Permission denied")
    for error, reason, remedy in (
        (full, "No space left on device", "make room, or choose"),
        (OSError("odd"), "odd", "make room, or choose"),
        (locked, "Permission denied", "choose"),
    ):
        with pytest.raises(UserError) as caught, explain_write_errors(Path("a/b"), "the table"):
            raise error
        expected = f"a/b: the table cannot be written ({reason}); {remedy} another place"
        assert str(caught.value) == expected
    with pytest.raises(KeyError), explain_write_errors(Path("a/b"), "the table"):
        raise KeyError


def test_what_is_in_the_way_is_named(tmp_path: Path) -> None:
    file, folder = tmp_path / "file", tmp_path / "folder"
    file.write_text("")
    folder.mkdir()
    ways = [
        (lambda: file.mkdir(exist_ok=True), f"{file} is a file, not a folder"),
        (lambda: (file / "a" / "b").mkdir(parents=True), f"{file} is a file, not a folder"),
        (lambda: folder.write_text(""), f"{folder} is a folder, not a file"),
    ]
    for write, reason in ways:
        with pytest.raises(UserError) as caught, explain_write_errors(tmp_path / "x", "the table"):
            write()
        assert str(caught.value) == f"{tmp_path}/x: the table cannot be written ({reason}); choose another place"
