"""What is pushed: a target on the Hub, and a complete, unchanging set of files for it."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

RepoType = Literal["model", "dataset"]

#: File that a snapshot's folder has when it is complete.
MARK_FILE = "snapshot.json"

_REPO_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
_ATTEMPTED = "attempted"


@dataclass(frozen=True, slots=True)
class Target:
    """Where a snapshot goes.

    Attributes:
        repo_id: ``owner/name``.
        revision: the branch; made from ``main`` when it is missing.
        private: visibility of a repository that the push has to make. A push that expects a private repository and
            finds a public one is refused.
        repo_type: ``"model"`` or ``"dataset"``.
    """

    repo_id: str
    revision: str = "main"
    private: bool = True
    repo_type: RepoType = "model"

    def __post_init__(self) -> None:
        """Refuse names that the Hub cannot have.

        Raises:
            ValueError: when ``repo_id`` is not ``owner/name``, or the branch is empty or holds blanks.
        """
        if not _REPO_ID.fullmatch(self.repo_id) or ".." in self.repo_id or "--" in self.repo_id:
            raise ValueError(
                f"repo_id: found {self.repo_id!r}; expected 'owner/name' as on the Hub, e.g. 'alice/ocr-fa'"
            )
        if not self.revision or re.search(r"\s|\.\.|^/|/$", self.revision):
            raise ValueError(f"revision: found {self.revision!r}; expected the name of a branch, e.g. 'main'")

    @property
    def folder_name(self) -> str:
        """Name of the target's folder in a spool."""
        kind = "" if self.repo_type == "model" else f"{self.repo_type}s--"
        return f"{kind}{self.repo_id}@{self.revision}".replace("/", "--")


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A complete, unchanging set of files that becomes one commit.

    Attributes:
        folder: its place in the spool.
        id: unique; it stands in the commit's description, so that a commit whose reply was lost is recognised.
        target: where it goes.
        message: title of the commit.
        tag: tag that shall point at the commit afterwards.
        files: sizes in bytes by path in the repository.
        delete: paths that the commit removes from the repository, if they are there.
    """

    folder: Path
    id: str
    target: Target
    message: str
    tag: str | None
    files: dict[str, int]
    delete: tuple[str, ...] = ()

    def path(self, name: str) -> Path:
        """Return the local path of a file of this snapshot."""
        return self.folder / "files" / name

    @property
    def size(self) -> int:
        """Bytes of all files together."""
        return sum(self.files.values())

    @property
    def attempted(self) -> bool:
        """Whether a push was begun, so that its commit may be on the Hub already."""
        return (self.folder / _ATTEMPTED).exists()

    def mark_attempted(self) -> None:
        """Note on disk that a push begins."""
        (self.folder / _ATTEMPTED).touch()

    @classmethod
    def load(cls, folder: Path) -> Snapshot:
        """Read a snapshot back.

        Raises:
            ValueError: when a file is missing or has another size than when it was written.
        """
        try:
            fields = json.loads((folder / MARK_FILE).read_text(encoding="utf-8"))
            target, delete = Target(**fields.pop("target")), tuple(fields.pop("delete"))
            snapshot = cls(folder=folder, target=target, delete=delete, **fields)
        except (TypeError, KeyError, ValueError) as error:
            raise ValueError(f"{folder / MARK_FILE} is no snapshot of a push: {error}") from error
        for name, size in snapshot.files.items():
            found = snapshot.path(name).stat().st_size if snapshot.path(name).is_file() else None
            if found != size:
                raise ValueError(f"{snapshot.path(name)}: found {found} bytes, expected {size}; delete {folder}")
        return snapshot
