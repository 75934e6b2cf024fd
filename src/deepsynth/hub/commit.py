"""One attempt to push a snapshot to the Hub, as exactly one commit however often it is repeated."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from deepsynth.hub.client import Outcome, classify, client_errors, last_statuses
from deepsynth.hub.snapshot import Snapshot

if TYPE_CHECKING:
    from huggingface_hub import HfApi

_IDENTITY = "Snapshot-Id: "


def push_once(snapshot: Snapshot) -> Outcome:
    """Try once to push a snapshot; an attempt can be repeated after a failure at any point.

    The same commit is never made twice: each attempt names the parent that it has seen (the Hub answers 412 when
    another commit came first), and a repeated attempt looks for its own id among the commits up to that parent.
    """
    attempted = snapshot.attempted
    snapshot.mark_attempted()
    errors = client_errors()
    try:
        return _push(snapshot, attempted)
    except errors as error:
        return classify(error, last_statuses[-1] if last_statuses else None)


def _push(snapshot: Snapshot, attempted: bool) -> Outcome:
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

    api = HfApi(library_name="deepsynth")
    target = snapshot.target
    where: dict[str, Any] = {"repo_id": target.repo_id, "repo_type": target.repo_type}
    info = _branch(api, snapshot, where)
    head = str(info.sha)
    if target.private and not info.private:
        return Outcome(
            "refused",
            f"private is true, but {target.repo_id} is public; make it private, or set private=false",
        )
    commit = _find_commit(api, snapshot, where, head) if attempted else None
    if commit is None:
        present = {sibling.rfilename for sibling in info.siblings or ()}
        done = api.create_commit(
            **where,
            operations=[
                *(CommitOperationAdd(name, str(snapshot.path(name))) for name in snapshot.files),
                *(CommitOperationDelete(name) for name in snapshot.delete if name in present),
            ],
            commit_message=snapshot.message,
            commit_description=_IDENTITY + snapshot.id,
            revision=target.revision,
            parent_commit=head,
        )
        commit = str(done.oid)
    if snapshot.tag is not None:
        _point_tag(api, where, snapshot.tag, commit)
    return Outcome("delivered", f"{snapshot.message} is on {target.repo_id}@{target.revision}", commit)


def _branch(api: HfApi, snapshot: Snapshot, where: dict[str, Any]) -> Any:
    """Return the Hub's description of the branch; repository and branch are created if they do not exist.

    Raises:
        ConnectionError: when the Hub has created them but does not show them yet.
    """
    from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

    target = snapshot.target

    def ask() -> Any:
        try:
            return api.repo_info(**where, revision=target.revision)
        except (RevisionNotFoundError, RepositoryNotFoundError) as error:
            if error.response.status_code == 401:  # the Hub hides repositories from anonymous users
                raise
            return None

    info = ask()
    if info is not None:
        return info
    api.create_repo(**where, private=target.private, exist_ok=True)
    if target.revision != "main":
        api.create_branch(**where, branch=target.revision, exist_ok=True)
    info = ask()
    if info is None:
        raise ConnectionError(f"{target.repo_id}@{target.revision} was created but is not visible yet")
    return info


def _find_commit(api: HfApi, snapshot: Snapshot, where: dict[str, Any], head: str) -> str | None:
    """Return the commit of an earlier attempt whose reply was lost, if there is one."""
    for commit in api.list_repo_commits(**where, revision=head):
        if _IDENTITY + snapshot.id in commit.message:
            return str(commit.commit_id)
    return None


def _point_tag(api: HfApi, where: dict[str, Any], tag: str, commit: str) -> None:
    """Make the tag point at the commit, moving it when it points elsewhere."""
    from huggingface_hub.errors import RevisionNotFoundError

    found = {ref.name: ref.target_commit for ref in api.list_repo_refs(**where).tags}
    if found.get(tag) == commit:
        return
    if tag in found:
        with contextlib.suppress(RevisionNotFoundError):  # somebody else deleted it
            api.delete_tag(**where, tag=tag)
    api.create_tag(**where, tag=tag, revision=commit)
