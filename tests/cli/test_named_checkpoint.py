"""``--ckpt_path last`` and ``best``: which file they stand for, and what is said without one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from deepsynth.cli.named_checkpoint import find_checkpoint
from deepsynth.errors import UserError


def write(root: Path, run: str, name: str, seconds: int) -> str:
    file = root / run / "checkpoints" / f"{name}.ckpt"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(b"")
    os.utime(file, (seconds, seconds))
    return str(file)


def test_the_words_stand_for_files_of_the_newest_run_of_the_name(tmp_path: Path) -> None:
    write(tmp_path, "mine", "best", 9)
    write(tmp_path, "mine", "last", 10)
    last = write(tmp_path, "mine-2", "last", 30)
    best = write(tmp_path, "mine-2", "best", 20)
    write(tmp_path, "mine-other", "last", 40)
    write(tmp_path, "others", "best", 50)
    assert find_checkpoint("last", tmp_path, "mine", new=True) == last
    assert find_checkpoint("best", tmp_path, "mine", new=False) == best
    assert find_checkpoint("some/file.ckpt", tmp_path, "mine", new=True) == "some/file.ckpt"


def test_the_last_checkpoint_is_the_newest_whatever_its_name(tmp_path: Path) -> None:
    write(tmp_path, "mine", "last", 10)
    newer = write(tmp_path, "mine", "step-200", 20)
    assert find_checkpoint("last", tmp_path, "mine", new=True) == newer
    same = write(tmp_path, "mine", "last", 20)
    assert find_checkpoint("last", tmp_path, "mine", new=True) == same


def test_a_fit_begins_anew_where_there_is_no_last_one(tmp_path: Path) -> None:
    assert find_checkpoint("last", tmp_path, "mine", new=True) is None
    with pytest.raises(UserError, match=r"^--ckpt_path is 'last', and no run mine in .* has a checkpoint"):
        find_checkpoint("last", tmp_path, "mine", new=False)
    with pytest.raises(UserError, match=r"^--ckpt_path is 'best', and no run mine in .* has a checkpoint"):
        find_checkpoint("best", tmp_path, "mine", new=True)


def test_a_run_without_a_best_checkpoint_is_named(tmp_path: Path) -> None:
    write(tmp_path, "mine", "last", 10)
    write(tmp_path, "mine-2", "best", 5)
    with pytest.raises(UserError, match=r"mine/checkpoints holds no best\.ckpt"):
        find_checkpoint("best", tmp_path, "mine", new=False)
