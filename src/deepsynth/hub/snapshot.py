"""A push as data: a target on the Hub, and a complete, immutable set of files for it."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from deepsynth.errors import UserError

RepoType = Literal["model", "dataset"]

#: File that marks the folder of a complete snapshot.
MARK_FILE = "snapshot.json"

_REPO_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
_ATTEMPTED = "attempted"


@dataclass(frozen=True, slots=True)
class Target:
    """The repository and branch that a snapshot is pushed to.

    Attributes:
        repo_id: repository as ``owner/name``.
        revision: branch; created from ``main`` if it does not exist.
        private: visibility of a repository that the push has to create. A push that expects a private repository and
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
            UserError: when ``repo_id`` is not ``owner/name``, or the branch is empty or contains spaces.
        """
        if not _REPO_ID.fullmatch(self.repo_id) or ".." in self.repo_id or "--" in self.repo_id:
            raise UserError(
                f"repo_id is {self.repo_id!r}; it must be 'owner/name' as on the Hub, such as 'alice/ocr-fa'"
            )
        if not self.revision or re.search(r"\s|\.\.|^/|/$", self.revision):
            raise UserError(f"revision is {self.revision!r}; it must be the name of a branch, such as 'main'")

    @property
    def folder_name(self) -> str:
        """Return the name of the target's folder in a spool."""
        kind = "" if self.repo_type == "model" else f"{self.repo_type}s--"
        return f"{kind}{self.repo_id}@{self.revision}".replace("/", "--")


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A complete, immutable set of files that becomes one commit.

    Attributes:
        folder: location in the spool.
        id: unique id, written into the commit's description, so that a commit whose reply was lost is recognized.
        target: repository and branch.
        message: title of the commit.
        tag: tag to set on the commit.
        files: sizes in bytes by path in the repository.
        delete: paths that the commit removes from the repository, if they exist.
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
        """Return the bytes of all files together."""
        return sum(self.files.values())

    @property
    def attempted(self) -> bool:
        """Return whether a push was attempted, so that its commit may be on the Hub already."""
        return (self.folder / _ATTEMPTED).exists()

    def mark_attempted(self) -> None:
        """Record on disk that a push is attempted."""
        (self.folder / _ATTEMPTED).touch()

    @classmethod
    def load(cls, folder: Path) -> Snapshot:
        """Read a snapshot back.

        Raises:
            UserError: when a file is missing or has another size than when it was written.
        """
        try:
            fields = dict(json.loads((folder / MARK_FILE).read_text(encoding="utf-8")))
            target, delete = Target(**fields.pop("target")), tuple(fields.pop("delete"))
            snapshot = cls(folder=folder, target=target, delete=delete, files=dict(fields.pop("files")), **fields)
        except (OSError, TypeError, KeyError, ValueError) as error:
            raise UserError(f"{folder / MARK_FILE}: not a snapshot of a push ({error}); delete {folder}") from error
        for name, size in snapshot.files.items():
            found = snapshot.path(name).stat().st_size if snapshot.path(name).is_file() else None
            if found != size:
                raise UserError(f"{snapshot.path(name)}: it has {found} bytes, not {size}; delete {folder}")
        return snapshot
