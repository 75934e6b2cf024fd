"""What a snapshot may hold."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from deepsynth.errors import UserError
from deepsynth.hub.snapshot import MARK_FILE, Snapshot, Target
from deepsynth.hub.spool import Spool, spools_of

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


def sealed(spool: Spool, step: int = 1, **settings: Any) -> Snapshot:
    staged = spool.stage()
    (staged / "README.md").write_text("x" * step)
    (staged / "sub").mkdir()
    (staged / "sub" / "b.json").write_text("ab")
    return spool.seal(staged, TARGET, f"step {step}", **settings)


def test_a_snapshot_is_read_back_as_it_was_sealed(tmp_path: Path) -> None:
    target = Target("alice/ocr", "trained", private=False, repo_type="dataset")
    spool = Spool.of_run(tmp_path, target)
    staged = spool.stage()
    (staged / "README.md").write_text("four")
    (staged / "sub").mkdir()
    (staged / "sub" / "b.json").write_text("ab")
    snapshot = spool.seal(staged, target, "step 7", tag="v1", delete=["old", "older"])
    assert spool.folder == tmp_path / "hub_spool" / "datasets--alice--ocr@trained"
    assert snapshot == Snapshot(
        snapshot.folder, snapshot.id, target, "step 7", "v1", {"README.md": 4, "sub/b.json": 2}, ("old", "older")
    )
    assert snapshot.size == 6
    assert snapshot.path("sub/b.json").read_text() == "ab"
    assert spool.pending() == [snapshot]
    assert not snapshot.attempted
    snapshot.mark_attempted()
    snapshot.mark_attempted()  # of the next attempt
    assert Snapshot.load(snapshot.folder).attempted
    assert sealed(Spool.of_run(tmp_path, target)).id != snapshot.id


def test_snapshots_are_in_the_order_of_sealing_whatever_was_pushed_meanwhile(tmp_path: Path) -> None:
    spool = Spool.of_run(tmp_path, TARGET)
    snapshots = [sealed(spool, step) for step in range(1, 12)]
    assert spool.pending() == snapshots, "the tenth is newer than the ninth"
    for snapshot in snapshots[:-1]:
        spool.remove(snapshot)
    again = sealed(spool, 12)
    assert spool.pending() == [snapshots[-1], again]
    assert [path.name[:7] for path in sorted(spool.folder.glob("0*"))] == ["000011-", "000012-"]


def test_the_spools_of_a_run_are_found_from_either_folder(tmp_path: Path) -> None:
    spools = [Spool.of_run(tmp_path, Target("alice/ocr", branch)) for branch in ("b", "a")]
    (tmp_path / "hub_spool" / "notes.txt").touch()
    expected = sorted(spool.folder for spool in spools)
    assert [spool.folder for spool in spools_of(tmp_path)] == expected
    assert [spool.folder for spool in spools_of(tmp_path / "hub_spool")] == expected
    with pytest.raises(UserError, match="there is no folder 'hub_spool' in it; give the folder of a run"):
        spools_of(tmp_path / "elsewhere")


def test_sweeping_removes_what_is_half_written_and_nothing_else(tmp_path: Path) -> None:
    spool = Spool.of_run(tmp_path, TARGET)
    snapshot, staged = sealed(spool), spool.stage()
    (staged / "half").touch()
    spool.sweep()
    assert not staged.exists()
    assert spool.pending() == [snapshot]


@pytest.mark.parametrize(("content", "found"), [("", 0), ("xx", 2), (None, None)])
def test_a_file_that_changed_after_it_was_sealed_is_named(
    content: str | None, found: int | None, tmp_path: Path
) -> None:
    snapshot = sealed(Spool.of_run(tmp_path, TARGET))
    file = snapshot.path("README.md")
    file.unlink()
    if content is not None:
        file.write_text(content)
    with pytest.raises(UserError, match=f"README.md: it has {found} bytes, not 1; delete {snapshot.folder}"):
        Snapshot.load(snapshot.folder)


@pytest.mark.parametrize("repo_id", ["alice/ocr", "a-b_c/d.e-f", "A1/_x"])
@pytest.mark.parametrize("revision", ["main", "refs/pr/1", "v1.0"])
def test_names_that_the_hub_has_are_taken(repo_id: str, revision: str) -> None:
    assert Target(repo_id, revision).folder_name == f"{repo_id}@{revision}".replace("/", "--")


@pytest.mark.parametrize(
    "settings",
    [
        {"repo_id": name}
        for name in ("ocr", "/home/me/ocr", "alice/ocr/x", "alice/a..b", "", "alice/--b", ".a/b", "a/.b")
    ]
    + [{"revision": name} for name in ("", "a b", "../x", "/x", "x/", "a\tb", "a..b")],
    ids=str,
)
def test_names_that_the_hub_cannot_have_are_refused(settings: dict[str, str]) -> None:
    ((key, value),) = settings.items()
    with pytest.raises(UserError, match=f"^{key} is {re.escape(repr(value))}; it must be"):
        Target(**{"repo_id": "alice/ocr", **settings})
