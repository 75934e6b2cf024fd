"""One attempt of a push, call by call, with a Hub that is an object; what it does at once is in ``test_worker.py``."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

from deepsynth.hub.client import Outcome
from deepsynth.hub.commit import push_once
from deepsynth.hub.snapshot import Snapshot, Target
from deepsynth.hub.spool import Spool


class Hub:
    """Answers as the Hub does, and keeps what it was asked; each method raises its error, if it has one."""

    def __init__(self) -> None:
        self.files = ["README.md", "old", "kept"]
        self.private = True
        self.commits: list[tuple[str, str]] = []
        self.tags: dict[str, str] = {}
        self.missing: Exception | None = None
        self.appears = True
        self.calls: list[tuple[str, dict[str, Any]]] = []

    def names(self) -> list[str]:
        return [name for name, _ in self.calls]

    def asked(self, name: str) -> dict[str, Any]:
        (found,) = [asked for called, asked in self.calls if called == name]
        return found

    def repo_info(self, **asked: Any) -> Any:
        self.calls.append(("repo_info", asked))
        if self.missing is not None:
            raise self.missing
        return SimpleNamespace(
            sha="head", private=self.private, siblings=[SimpleNamespace(rfilename=name) for name in self.files]
        )

    def create_repo(self, **asked: Any) -> None:
        self.calls.append(("create_repo", asked))
        self.missing = self.missing if not self.appears else None

    def create_branch(self, **asked: Any) -> None:
        self.calls.append(("create_branch", asked))

    def list_repo_commits(self, **asked: Any) -> Any:
        self.calls.append(("list_repo_commits", asked))
        return [SimpleNamespace(commit_id=commit, message=message) for commit, message in self.commits]

    def create_commit(self, **asked: Any) -> Any:
        self.calls.append(("create_commit", asked))
        return SimpleNamespace(oid="made")

    def list_repo_refs(self, **asked: Any) -> Any:
        self.calls.append(("list_repo_refs", asked))
        return SimpleNamespace(tags=[SimpleNamespace(name=n, target_commit=c) for n, c in self.tags.items()])

    def delete_tag(self, **asked: Any) -> None:
        self.calls.append(("delete_tag", asked))

    def create_tag(self, **asked: Any) -> None:
        self.calls.append(("create_tag", asked))


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Hub:
    hub = Hub()
    monkeypatch.setattr("huggingface_hub.HfApi", lambda **settings: hub)
    return hub


def sealed(tmp_path: Path, target: Target, **settings: Any) -> Snapshot:
    spool = Spool.of_run(tmp_path, target)
    staged = spool.stage()
    (staged / "README.md").write_text("text")
    (staged / "b.json").write_text("{}")
    return spool.seal(staged, target, "step 7", **settings)


def gone(kind: Any = RepositoryNotFoundError, status: int = 404) -> Exception:
    error: Exception = kind("none", response=SimpleNamespace(status_code=status, headers={}, request=None))
    return error


WHERE = {"repo_id": "alice/ocr", "repo_type": "dataset"}
TARGET = Target("alice/ocr", "trained", repo_type="dataset")
DELIVERED = Outcome("delivered", "step 7 is on alice/ocr@trained", "made")


def test_a_first_attempt_commits_upon_what_it_has_seen(hub: Hub, tmp_path: Path) -> None:
    snapshot = sealed(tmp_path, TARGET, delete=["old", "never there"])
    assert push_once(snapshot) == DELIVERED
    assert snapshot.attempted
    assert hub.names() == ["repo_info", "create_commit"]
    assert hub.asked("repo_info") == {**WHERE, "revision": "trained"}
    asked = hub.asked("create_commit")
    operations = [(type(one).__name__.removeprefix("CommitOperation"), one.path_in_repo) for one in asked["operations"]]
    assert operations == [("Add", "README.md"), ("Add", "b.json"), ("Delete", "old")]
    assert asked["operations"][1].path_or_fileobj == str(snapshot.path("b.json"))
    del asked["operations"]
    assert asked == {
        **WHERE,
        "commit_message": "step 7",
        "commit_description": f"Snapshot-Id: {snapshot.id}",
        "revision": "trained",
        "parent_commit": "head",
    }


@pytest.mark.parametrize("there", [True, False])
def test_a_later_attempt_looks_for_the_commit_of_an_earlier_one(there: bool, hub: Hub, tmp_path: Path) -> None:
    snapshot = sealed(tmp_path, TARGET)
    snapshot.mark_attempted()
    own = [("own", f"step 7\n\nSnapshot-Id: {snapshot.id}")] if there else []
    hub.commits = [("another", "step 7\n\nSnapshot-Id: of another"), *own, ("first", "step 7")]
    outcome = push_once(snapshot)
    assert outcome.status == "delivered"
    assert outcome.commit == ("own" if there else "made")
    assert ("create_commit" in hub.names()) != there
    assert hub.asked("list_repo_commits") == {**WHERE, "revision": "head"}


@pytest.mark.parametrize(
    ("asked", "private", "refused"),
    [(True, True, False), (True, False, True), (False, False, False), (False, True, False)],
)
def test_what_is_to_be_private_is_not_pushed_where_all_see_it(
    asked: bool, private: bool, refused: bool, hub: Hub, tmp_path: Path
) -> None:
    hub.private = private
    outcome = push_once(sealed(tmp_path, Target("alice/ocr", private=asked)))
    assert (outcome.status == "refused") == refused
    assert ("create_commit" in hub.names()) != refused
    if refused:
        assert outcome.message == ("private is true, but alice/ocr is public; make it private, or set private=false")


@pytest.mark.parametrize("kind", [RepositoryNotFoundError, RevisionNotFoundError])
@pytest.mark.parametrize(("revision", "branches"), [("main", 0), ("trained", 1)])
def test_a_repository_and_its_branch_are_made(
    revision: str, branches: int, kind: Any, hub: Hub, tmp_path: Path
) -> None:
    hub.missing = gone(kind)
    assert push_once(sealed(tmp_path, Target("alice/ocr", revision, private=True))).status == "delivered"
    where = {"repo_id": "alice/ocr", "repo_type": "model"}
    assert hub.asked("create_repo") == {**where, "private": True, "exist_ok": True}
    assert hub.names().count("create_branch") == branches
    if branches:
        assert hub.asked("create_branch") == {**where, "branch": "trained", "exist_ok": True}
    assert hub.names().count("repo_info") == 2


def test_a_repository_that_does_not_show_yet_is_tried_again(hub: Hub, tmp_path: Path) -> None:
    hub.missing, hub.appears = gone(), False
    outcome = push_once(sealed(tmp_path, TARGET))
    assert outcome == Outcome("retry", "ConnectionError: alice/ocr@trained was created but is not visible yet")


def test_a_repository_that_is_hidden_from_nobody_in_particular_is_not_made(hub: Hub, tmp_path: Path) -> None:
    hub.missing = gone(status=401)
    outcome = push_once(sealed(tmp_path, TARGET))
    assert outcome.status == "refused"
    assert "hf auth login" in outcome.message
    assert hub.names() == ["repo_info"]


@pytest.mark.parametrize(
    ("before", "calls"),
    [
        ({}, ["create_tag"]),
        ({"other": "made"}, ["create_tag"]),
        ({"best": "made"}, []),
        ({"best": "older"}, ["delete_tag", "create_tag"]),
    ],
)
def test_a_tag_points_at_the_commit_in_the_end(
    before: dict[str, str], calls: list[str], hub: Hub, tmp_path: Path
) -> None:
    hub.tags = before
    assert push_once(sealed(tmp_path, TARGET, tag="best")) == DELIVERED
    assert hub.names()[2:] == ["list_repo_refs", *calls]
    if "create_tag" in calls:
        assert hub.asked("create_tag") == {**WHERE, "tag": "best", "revision": "made"}
    if "delete_tag" in calls:
        assert hub.asked("delete_tag") == {**WHERE, "tag": "best"}


def test_a_tag_that_somebody_else_deleted_meanwhile_is_made(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def delete(**asked: Any) -> None:
        raise gone(RevisionNotFoundError)

    hub.tags = {"best": "older"}
    monkeypatch.setattr(hub, "delete_tag", delete)
    assert push_once(sealed(tmp_path, TARGET, tag="best")) == DELIVERED
    assert hub.asked("create_tag")["revision"] == "made"
