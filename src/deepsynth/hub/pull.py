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
from typing import TYPE_CHECKING, TypeVar

from deepsynth.errors import UserError
from deepsynth.hub.adapter import ADAPTER_FILES
from deepsynth.hub.client import HubUnreachableError, classify, client_errors
from deepsynth.io.files import atomic_folder, explain_write_errors

if TYPE_CHECKING:
    from huggingface_hub import HfApi

log = logging.getLogger(__name__)

_SCHEME = "hf://"
_REFERENCE = re.compile(r"hf://(?P<repo_id>[\w-][\w.-]*/[\w-][\w.-]*)(?:@(?P<revision>[^\s@]+))?")
_NEEDED = ("adapter_config.json", "adapter_model.safetensors")
_REQUEST_TIMEOUT_S = 20.0
#: Of the questions before a file, which huggingface_hub repeats five times by itself.
_ETAG_TIMEOUT_S = 8.0
_ATTEMPTS = 5
#: Time after which a call that has failed is not repeated, in seconds.
_PATIENCE_S = 60.0

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
    """Return the local folder of an ``hf://`` checkpoint, downloaded if needed, and any other path unchanged.

    Raises:
        UserError: when the reference is malformed, has no adapter, or the Hub cannot be reached.
    """
    return pull(str(path)) if is_reference(path) else Path(path)


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
    from huggingface_hub import HfApi

    wanted = Reference.parse(reference)
    if folder is not None and folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder}: it is not an empty folder; give one that is new or empty")
    api = HfApi(library_name="deepsynth")
    try:
        cached = _download(api, wanted)
    except HubUnreachableError as error:
        found = _from_cache(api, wanted)
        if found is None:
            raise
        log.warning("%s; using %s as it was last downloaded", error, wanted)
        cached = found
    if folder is None:
        return cached
    with explain_write_errors(folder, "the adapter"), atomic_folder(folder) as new:
        for file in cached.iterdir():
            shutil.copyfile(file, new / file.name)
    return folder


def _download(api: HfApi, wanted: Reference) -> Path:
    info = with_retries(
        wanted, lambda: api.repo_info(wanted.repo_id, revision=wanted.revision, timeout=_REQUEST_TIMEOUT_S)
    )
    names = {sibling.rfilename for sibling in info.siblings or ()}
    missing = [name for name in _NEEDED if name not in names]
    if missing:
        found = ", ".join(sorted(names)[:8]) or "no files"
        raise UserError(f"{wanted}: not an adapter, {', '.join(missing)} is missing; it has {found}")
    # All files are downloaded by commit, so that they belong together even if somebody pushes meanwhile; one of them
    # also by the revision's name, which tells the cache what the name refers to.
    asked = [(name, str(info.sha)) for name in ADAPTER_FILES if name in names] + [(_NEEDED[0], wanted.revision)]

    def download(name: str, revision: str | None) -> str:
        return str(api.hf_hub_download(wanted.repo_id, name, revision=revision, etag_timeout=_ETAG_TIMEOUT_S))

    files = [with_retries(wanted, partial(download, *one)) for one in asked]
    log.info("%s is at commit %s", wanted, info.sha)
    return Path(files[0]).parent


def _from_cache(api: HfApi, wanted: Reference) -> Path | None:
    """Return the folder of an earlier download, or ``None``."""
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        files = [
            api.hf_hub_download(wanted.repo_id, name, revision=wanted.revision, local_files_only=True)
            for name in _NEEDED
        ]
    except LocalEntryNotFoundError:
        return None
    return Path(files[0]).parent


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
    attempt, start = 0, time.monotonic()
    while True:
        attempt += 1
        try:
            return call()
        except errors as error:
            outcome = classify(error)
            offline = "HF_HUB_OFFLINE" in outcome.message
            if outcome.status == "refused" and not offline:
                raise UserError(f"{wanted}: it cannot be read ({outcome.message})") from error
            if attempt == _ATTEMPTS or offline or time.monotonic() - start > _PATIENCE_S:
                raise HubUnreachableError(f"{wanted}: the Hub cannot be reached ({outcome.message})") from error
            time.sleep(min(outcome.retry_after_s or 2.0 ** (attempt - 1), 30.0))
