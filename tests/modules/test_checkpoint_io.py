"""A checkpoint that cannot be written leaves the previous one."""

from __future__ import annotations

import io
import os
import pickle
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from deepsynth.errors import UserError
from deepsynth.modules.checkpoint_io import AtomicCheckpointIO, read_checkpoint
from tests.helpers.training import make_data, make_module, make_trainer


@contextmanager
def disk_with(free_bytes: int) -> Iterator[None]:
    """Let no file of this process grow beyond a size: the write fails as on a disk that is full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (free_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_leaves_the_previous_checkpoint(tmp_path: Path) -> None:
    path, writer = tmp_path / "checkpoints" / "last.ckpt", AtomicCheckpointIO()
    writer.save_checkpoint({"step": torch.tensor(1)}, path)
    with (
        disk_with(100_000),
        pytest.raises(UserError, match=r"cannot be written \(File too large"),
    ):
        writer.save_checkpoint({"step": torch.tensor(2), "much": torch.zeros(100_000)}, path)
    assert writer.load_checkpoint(path, weights_only=True) == {"step": torch.tensor(1)}
    assert list(path.parent.iterdir()) == [path]


class Killed:
    """Stands where torch learns, while a checkpoint is written, that a worker was killed."""

    def __reduce__(self) -> Any:
        raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. ")


def test_a_killed_worker_is_no_fault_of_the_disk(tmp_path: Path) -> None:
    """The checkpoint at a run's error: the connection to the worker, an OSError, is what ended the run."""
    try:
        raise ConnectionResetError("Connection reset by peer")
    except ConnectionResetError:
        with pytest.raises(RuntimeError, match="is killed by signal"):
            AtomicCheckpointIO().save_checkpoint({"state": Killed()}, tmp_path / "last.ckpt")
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_pickled_leaves_the_previous_checkpoint(tmp_path: Path) -> None:
    path, writer = tmp_path / "last.ckpt", AtomicCheckpointIO()
    writer.save_checkpoint({"step": 1}, path)
    with pytest.raises(AttributeError, match=r"local object|<lambda>"):
        writer.save_checkpoint({"step": 2, "bad": lambda: None}, path)
    assert writer.load_checkpoint(path, weights_only=True) == {"step": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_a_run_on_a_full_disk_stops_and_goes_on_from_the_checkpoint_before(tmp_path: Path, jsonl: Path) -> None:
    path = tmp_path / "last.ckpt"
    trainer = make_trainer(tmp_path, max_steps=1)
    trainer.fit(make_module(), make_data(jsonl))
    assert type(trainer.strategy.checkpoint_io) is AtomicCheckpointIO
    trainer.save_checkpoint(path)
    with (
        disk_with(200_000),
        pytest.raises(UserError, match=r"cannot be written \(File too large"),
    ):
        trainer.save_checkpoint(path)
    resumed = make_trainer(tmp_path, max_steps=2)
    resumed.fit(make_module(), make_data(jsonl), ckpt_path=path)
    assert resumed.global_step == 2


class Harm:
    def __reduce__(self) -> Any:
        return os.system, ("echo ran > harm",)


@pytest.mark.parametrize("save", [torch.save, lambda value, path: path.write_bytes(pickle.dumps(value))])
def test_a_checkpoint_that_names_code_is_refused_in_our_own_words(
    save: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torch's advise to load it all the same, with weights_only=False."""
    monkeypatch.chdir(tmp_path)
    save({"deepsynth": Harm()}, tmp_path / "evil.ckpt")
    with pytest.raises(UserError, match=r"evil.ckpt' cannot be loaded: it .*; a checkpoint holds tensors") as caught:
        read_checkpoint(str(tmp_path / "evil.ckpt"))
    assert "weights_only" not in str(caught.value)
    assert not (tmp_path / "harm").exists()


def saved(value: object, length: int | None = None) -> bytes:
    """Return what torch writes for a value, or the beginning of it."""
    stream = io.BytesIO()
    torch.save(value, stream)
    return stream.getvalue()[:length]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is truncated or not a checkpoint"),
        (b"PK\x03\x04 and no more", "is truncated or not a checkpoint"),
        (b"epoch: 1", "is truncated or not a checkpoint"),  # torch's reader pops from an empty stack
        (b"{}", "cannot be loaded: it is damaged, or no checkpoint"),
        (b"Gold", "is truncated or not a checkpoint"),  # it takes this for a number of eight bytes
        (saved({"deepsynth": torch.zeros(1000)}, 100), "is truncated or not a checkpoint"),
        (saved({"deepsynth": torch.zeros(1000)}, 4000), "is truncated or not a checkpoint"),
        (saved({"state_dict": {}}), "was not written by DeepSynth: it has no 'deepsynth' entry"),
        (saved([1]), "was not written by DeepSynth: it has no 'deepsynth' entry"),
        (None, "and there is no such file"),
    ],
)
def test_what_is_no_checkpoint_is_named_in_one_line(content: bytes | None, said: str, tmp_path: Path) -> None:
    path = tmp_path / "a.ckpt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError) as caught:
        read_checkpoint(str(path))
    assert str(caught.value).startswith("--ckpt_path ")
    assert repr(str(path)) in str(caught.value)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_checkpoint_is_read(tmp_path: Path) -> None:
    torch.save({"deepsynth": {"a": 1}}, tmp_path / "a.ckpt")
    assert read_checkpoint(str(tmp_path / "a.ckpt")) == {"deepsynth": {"a": 1}}
