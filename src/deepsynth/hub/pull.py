"""Adapters downloaded from the Hub: ``hf://owner/repo@revision`` as a local folder."""

from __future__ import annotations

import logging
import re
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

from deepsynth.errors import UserError
from deepsynth.hub.adapter import ADAPTER_FILES
from deepsynth.hub.client import HubUnreachableError, Outcome, classify, client_errors
from deepsynth.hub.pull_process import PullProcess
from deepsynth.io.files import atomic_folder, explain_write_errors

log = logging.getLogger(__name__)

_SCHEME = "hf://"
_REFERENCE = re.compile(r"hf://(?P<repo_id>[\w-][\w.-]*/[\w-][\w.-]*)(?:@(?P<revision>[^\s@]+))?")
_NEEDED = ("adapter_config.json", "adapter_model.safetensors")
_ATTEMPTS = 5
#: Time after which a call that has failed is not repeated, in seconds.
PATIENCE_S = 60.0

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Reference:
    """A repository at a revision.

    Attributes:
        repo_id: repository as ``owner/name``.
        revision: branch, tag or commit; ``None`` is the branch ``main``.
    """

    repo_id: str
    revision: str | None = None

    @classmethod
    def parse(cls, text: str) -> Reference:
        """Read ``hf://owner/repo`` or ``hf://owner/repo@revision``.

        Raises:
            UserError: for anything else.
        """
        found = _REFERENCE.fullmatch(text)
        if found is None:
            raise UserError(f"the reference is {text!r}; it must be hf://owner/repo or hf://owner/repo@revision")
        return cls(found["repo_id"], found["revision"])

    def __str__(self) -> str:
        """Return the form that :meth:`parse` reads."""
        return f"{_SCHEME}{self.repo_id}" + (f"@{self.revision}" if self.revision else "")


def is_reference(path: str | Path | None) -> bool:
    """Return whether a checkpoint path names an adapter on the Hub."""
    return isinstance(path, str) and path.startswith(_SCHEME)


def resolve_checkpoint(path: str | Path) -> Path:
    """Return the local folder of a checkpoint: of an ``hf://`` one, downloaded if needed, or of a run's folder.

    A run's folder stands for its newest weights, in its ``adapter``; any other path is returned unchanged.

    Raises:
        UserError: when the reference is malformed, has no adapter, or the Hub cannot be reached.
    """
    if is_reference(path):
        return pull(str(path))
    folder = Path(path)
    is_run = (folder / "config.yaml").is_file() and (folder / "adapter").is_dir()
    return folder / "adapter" if is_run else folder


def pull(reference: str, folder: Path | None = None) -> Path:
    """Download an adapter from the Hub.

    Args:
        reference: ``hf://owner/repo@revision``; without a revision, the branch ``main``.
        folder: new or empty folder for the files; by default they stay in the Hugging Face cache.

    Returns:
        The folder with adapter_config.json and adapter_model.safetensors.

    Raises:
        UserError: when the reference is malformed, unknown, not readable with this token or has no adapter, when
            ``folder`` is not empty, or when the Hub cannot be reached after some attempts and the adapter is not in
            the cache.
    """
    wanted = Reference.parse(reference)
    if folder is not None and folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder}: it is not an empty folder; give one that is new or empty")
    process = PullProcess(wanted.repo_id, wanted.revision)
    try:
        cached = _download(process, wanted)
    except HubUnreachableError as error:
        found = _from_cache(wanted)
        if found is None:
            raise
        log.warning("%s; using %s as it was last downloaded", error, wanted)
        cached = found
    finally:
        process.close()
    if folder is None:
        return cached
    with explain_write_errors(folder, "the adapter"), atomic_folder(folder) as new:
        for file in cached.iterdir():
            shutil.copyfile(file, new / file.name)
    return folder


def _download(process: PullProcess, wanted: Reference) -> Path:
    found = _repeat(wanted, process.describe)
    commit, sizes = str(found["commit"]), found["sizes"]
    missing = [name for name in _NEEDED if name not in sizes]
    if missing:
        names = ", ".join(found["names"]) or "no files"
        raise UserError(f"{wanted}: not an adapter, {', '.join(missing)} is missing; it has {names}")
    # All files are downloaded by commit, so that they belong together even if somebody pushes meanwhile; one of them
    # also by the revision's name, which tells the cache what the name refers to.
    asked = [(name, commit) for name in ADAPTER_FILES if name in sizes] + [(_NEEDED[0], wanted.revision)]
    files = [
        _repeat(wanted, partial(process.download, name, revision, sizes[name]))["path"] for name, revision in asked
    ]
    log.info("%s is at commit %s", wanted, commit)
    return Path(files[0]).parent


def _from_cache(wanted: Reference) -> Path | None:
    """Return the folder of an earlier download, or ``None``."""
    from huggingface_hub import try_to_load_from_cache

    files = [try_to_load_from_cache(wanted.repo_id, name, revision=wanted.revision) for name in _NEEDED]
    return Path(files[0]).parent if all(isinstance(file, str) for file in files) else None


def with_retries(wanted: object, call: Callable[[], T]) -> T:
    """Call the Hub, and retry a few times where that can help, and not for long.

    Args:
        wanted: repository or reference, for error messages.
        call: function that calls huggingface_hub.

    Raises:
        UserError: when the Hub refuses, so that a retry cannot help.
        HubUnreachableError: when the last attempt failed too.
    """
    errors = client_errors()

    def attempt() -> T | Outcome:
        try:
            return call()
        except errors as error:
            return classify(error)

    return _repeat(wanted, attempt)


def _repeat(wanted: object, attempt: Callable[[], T | Outcome]) -> T:
    """Return what an attempt returns that is no failure; see :func:`with_retries`."""
    failures, start = 0, time.monotonic()
    while isinstance(found := attempt(), Outcome):
        failures += 1
        offline = "HF_HUB_OFFLINE" in found.message
        if found.status == "refused" and not offline:
            raise UserError(f"{wanted}: it cannot be read ({found.message})")
        if failures == _ATTEMPTS or offline or time.monotonic() - start > PATIENCE_S:
            raise HubUnreachableError(f"{wanted}: the Hub cannot be reached ({found.message})")
        time.sleep(min(found.retry_after_s or 2.0 ** (failures - 1), 30.0))
    return found
