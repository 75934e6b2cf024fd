"""What a snapshot may hold."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from deepsynth.errors import UserError
from deepsynth.hub.snapshot import MARK_FILE, Snapshot, Target
from deepsynth.hub.spool import Spool

TARGET = Target("alice/ocr")


def test_a_link_is_never_pushed_with_what_it_points_to(tmp_path: Path) -> None:
    secret = tmp_path / "outside" / "secret.json"
    secret.parent.mkdir()
    secret.write_text("{}")
    spool = Spool.of_run(tmp_path / "run", TARGET)
    staged = spool.stage()
    (staged / "adapter_config.json").write_text("{}")
    (staged / "link.json").symlink_to(secret)
    (staged / "folder").symlink_to(secret.parent, target_is_directory=True)
    snapshot = spool.seal(staged, TARGET, "step 1")
    assert set(snapshot.files) == {"adapter_config.json"}
    assert [path.name for path in (snapshot.folder / "files").rglob("*")] == ["adapter_config.json"]
    assert secret.read_text() == "{}"


def test_only_links_are_nothing_to_push(tmp_path: Path) -> None:
    spool = Spool.of_run(tmp_path / "run", TARGET)
    staged = spool.stage()
    (tmp_path / "file").write_text("")
    (staged / "link").symlink_to(tmp_path / "file")
    with pytest.raises(ValueError, match="nothing to push"):
        spool.seal(staged, TARGET, "step 1")
    assert spool.is_empty()
    assert not staged.exists()


def test_only_what_is_allowed_is_in_a_snapshot(tmp_path: Path) -> None:
    spool = Spool.of_run(tmp_path / "run", TARGET)
    staged = spool.stage()
    for name in ("adapter_config.json", "notes.txt", "README.md"):
        (staged / name).write_text(name)
    snapshot = spool.seal(staged, TARGET, "step 1", allow=["*.json", "README.md"])
    assert set(snapshot.files) == {"adapter_config.json", "README.md"}
    assert [found.id for found in spool.pending()] == [snapshot.id]


@pytest.mark.parametrize(
    "change", [("target", {}), ("target", None), ("delete", 3), ("files", None), ("files", [1]), ("x", 1)]
)
def test_a_mark_with_other_fields_is_no_snapshot(change: tuple[str, object], tmp_path: Path) -> None:
    spool = Spool.of_run(tmp_path / "run", TARGET)
    staged = spool.stage()
    (staged / "README.md").write_text("text")
    snapshot = spool.seal(staged, TARGET, "step 1")
    mark = snapshot.folder / MARK_FILE
    fields = json.loads(mark.read_text())
    assert Snapshot.load(snapshot.folder) == snapshot
    mark.write_text(json.dumps(fields | dict([change])))
    with pytest.raises(UserError, match=f"{MARK_FILE}: not a snapshot of a push .*; delete"):
        Snapshot.load(snapshot.folder)


@pytest.mark.parametrize("content", [b"", b"{", b"null", b"[]", b"3", b"{}", b"\xff", None])
def test_a_broken_mark_is_no_snapshot(content: bytes | None, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / MARK_FILE).write_bytes(content)
    with pytest.raises(UserError, match=f"{MARK_FILE}: not a snapshot of a push .*; delete"):
        Snapshot.load(tmp_path)


def test_a_snapshot_that_is_gone_already_is_removed_in_silence(tmp_path: Path) -> None:
    spool = Spool.of_run(tmp_path / "run", TARGET)
    snapshots = []
    for step in (1, 2, 3):
        staged = spool.stage()
        (staged / "README.md").write_text(str(step))
        snapshots.append(spool.seal(staged, TARGET, f"step {step}"))
    spool.remove_older(snapshots[1])
    assert [found.id for found in spool.pending()] == [snapshot.id for snapshot in snapshots[1:]]
    for _ in range(2):  # as when a run that resumes has pushed it meanwhile
        spool.remove(snapshots[1])
        assert [found.id for found in spool.pending()] == [snapshots[2].id]
    assert not spool.is_empty()
    spool.remove(snapshots[2])
    assert spool.is_empty()
