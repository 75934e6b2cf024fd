"""Adapters from the Hub: ``hf://owner/repo@revision`` as a local folder."""

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

from deepsynth.hub.adapter import ADAPTER_FILES
from deepsynth.hub.client import classify, client_errors

if TYPE_CHECKING:
    from huggingface_hub import HfApi

log = logging.getLogger(__name__)

_SCHEME = "hf://"
_REFERENCE = re.compile(r"hf://(?P<repo_id>[\w-][\w.-]*/[\w-][\w.-]*)(?:@(?P<revision>[^\s@]+))?")
_NEEDED = ("adapter_config.json", "adapter_model.safetensors")
_REQUEST_TIMEOUT_S = 20.0
_ATTEMPTS = 5

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Reference:
    """A repository at a revision: a branch, a tag or a commit."""

    repo_id: str
    revision: str | None = None

    @classmethod
    def parse(cls, text: str) -> Reference:
        """Read ``hf://owner/repo`` or ``hf://owner/repo@revision``.

        Raises:
            ValueError: for anything else.
        """
        found = _REFERENCE.fullmatch(text)
        if found is None:
            raise ValueError(f"found {text!r}; expected hf://owner/repo or hf://owner/repo@revision")
        return cls(found["repo_id"], found["revision"])

    def __str__(self) -> str:
        """Return the form that `parse` reads."""
        return f"{_SCHEME}{self.repo_id}" + (f"@{self.revision}" if self.revision else "")


def is_reference(path: str | Path | None) -> bool:
    """Whether a checkpoint path names something on the Hub."""
    return isinstance(path, str) and path.startswith(_SCHEME)


def resolve_checkpoint(path: str | Path) -> Path:
    """Return the local folder of an ``hf://`` checkpoint, downloaded when need be, and any other path as it is.

    Raises:
        ValueError: when the reference is malformed or holds no adapter.
        ConnectionError: when the Hub cannot be reached.
    """
    return pull(str(path)) if is_reference(path) else Path(path)


def pull(reference: str, folder: Path | None = None) -> Path:
    """Download an adapter.

    Args:
        reference: ``hf://owner/repo@revision``; without a revision, the branch ``main``.
        folder: where to put the files; by default they stay in the Hugging Face cache.

    Returns:
        The folder with adapter_config.json and adapter_model.safetensors.

    Raises:
        ValueError: when the reference is malformed, unknown, not readable with this token, or holds no adapter.
        FileExistsError: when ``folder`` is not empty.
        ConnectionError: when the Hub cannot be reached, after some attempts, and the cache does not have it either.
    """
    from huggingface_hub import HfApi

    wanted = Reference.parse(reference)
    if folder is not None and folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(f"{folder} is not empty; give a folder that is new or empty")
    api = HfApi(library_name="deepsynth")
    try:
        cached = _download(api, wanted)
    except ConnectionError as error:
        found = _from_cache(api, wanted)
        if found is None:
            raise
        log.warning("%s; taking %s as it was last downloaded", error, wanted)
        cached = found
    if folder is None:
        return cached
    folder.mkdir(parents=True, exist_ok=True)
    for file in cached.iterdir():
        shutil.copyfile(file, folder / file.name)
    return folder


def _download(api: HfApi, wanted: Reference) -> Path:
    info = patiently(
        wanted, lambda: api.repo_info(wanted.repo_id, revision=wanted.revision, timeout=_REQUEST_TIMEOUT_S)
    )
    names = {sibling.rfilename for sibling in info.siblings or ()}
    missing = [name for name in _NEEDED if name not in names]
    if missing:
        found = ", ".join(sorted(names)[:8]) or "no files"
        raise ValueError(f"{wanted} holds no adapter: {', '.join(missing)} is missing among {found}")
    # Named by commit, so that all files are of one state even if somebody pushes meanwhile; and one of them by the
    # name that was asked for, which is how the cache learns where the name points.
    asked = [(name, str(info.sha)) for name in ADAPTER_FILES if name in names] + [(_NEEDED[0], wanted.revision)]

    def download(name: str, revision: str | None) -> str:
        return str(api.hf_hub_download(wanted.repo_id, name, revision=revision, etag_timeout=_REQUEST_TIMEOUT_S))

    files = [patiently(wanted, partial(download, *one)) for one in asked]
    log.info("%s is at commit %s", wanted, info.sha)
    return Path(files[0]).parent


def _from_cache(api: HfApi, wanted: Reference) -> Path | None:
    """Return what an earlier download left, or ``None``."""
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        files = [
            api.hf_hub_download(wanted.repo_id, name, revision=wanted.revision, local_files_only=True)
            for name in _NEEDED
        ]
    except LocalEntryNotFoundError:
        return None
    return Path(files[0]).parent


def patiently(wanted: object, call: Callable[[], T]) -> T:
    """Call the Hub, a few times if it stumbles.

    Args:
        wanted: what error messages name.
        call: raises what huggingface_hub raises.

    Raises:
        ValueError: when trying again cannot help.
        ConnectionError: when the last attempt failed too.
    """
    errors = client_errors()
    attempt = 0
    while True:
        attempt += 1
        try:
            return call()
        except errors as error:
            outcome = classify(error)
            offline = "HF_HUB_OFFLINE" in outcome.message
            if outcome.status == "refused" and not offline:
                raise ValueError(f"cannot read {wanted}: {outcome.message}") from error
            if attempt == _ATTEMPTS or offline:
                raise ConnectionError(f"cannot reach {wanted}: {outcome.message}") from error
            time.sleep(min(outcome.retry_after_s or 2.0 ** (attempt - 1), 30.0))
