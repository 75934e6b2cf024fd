"""Downloads of an adapter in a separate process, which can be stopped at any moment.

In this process they could hang: huggingface_hub repeats the question before a file with time-outs of its own, waits for
as long as a Hub asks it to, and a thread of hf_xet cannot be stopped.
"""

from __future__ import annotations

import errno
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from deepsynth.errors import UserError
from deepsynth.hub.adapter import ADAPTER_FILES
from deepsynth.hub.client import Outcome
from deepsynth.hub.privacy import redact
from deepsynth.hub.push_process import limited_environment
from deepsynth.io.worker_process import WorkerEnded, WorkerProcess, serve

#: Longest silence of the Hub within one request, in seconds.
_REQUEST_TIMEOUT_S = 10.0
#: Longest wait for the description of a repository, with the start of the process, in seconds.
DESCRIPTION_S = 30.0
#: Longest wait for a file: this many seconds, and its bytes at the slowest rate that is still waited for.
FILE_S = 60.0
_SLOWEST_BYTES_PER_S = 50_000
#: What the file system says, of the cache.
_OF_THE_DISK = (*(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS), *(errno.EACCES, errno.EPERM, errno.ENOTDIR))
#: The names of a repository that a message mentions.
_MENTIONED = 8


class PullProcess:
    """A process that asks for one repository at one revision and downloads its files.

    Args:
        repo_id: repository as ``owner/name``.
        revision: branch, tag or commit; ``None`` is the branch ``main``.
    """

    def __init__(self, repo_id: str, revision: str | None) -> None:
        self._where = {"repo_id": repo_id, "revision": revision}
        self._process: WorkerProcess | None = None

    def describe(self) -> dict[str, Any] | Outcome:
        """Return the ``commit``, the ``sizes`` of an adapter's files by name, and some ``names`` of all files."""
        return self._ask({"task": "describe", **self._where}, DESCRIPTION_S)

    def download(self, name: str, revision: str | None, size: int) -> dict[str, Any] | Outcome:
        """Download a file into the Hugging Face cache, and return its ``path``."""
        request = {"task": "download", **self._where, "name": name, "revision": revision}
        return self._ask(request, FILE_S + size / _SLOWEST_BYTES_PER_S)

    def close(self) -> None:
        """End the process, whatever it is waiting for."""
        if self._process is not None:
            self._process.close(grace_s=0.0)
            self._process = None

    def _ask(self, request: Mapping[str, Any], timeout_s: float) -> dict[str, Any] | Outcome:
        if self._process is None:
            self._process = WorkerProcess(__name__, environment=limited_environment(_REQUEST_TIMEOUT_S, use_xet=True))
        try:
            reply = self._process.ask(request, timeout_s=timeout_s)
        except TimeoutError:
            self.close()
            return Outcome("retry", f"it did not finish within {timeout_s:.0f} s")
        except WorkerEnded as ended:
            self.close()
            return Outcome("retry", f"the download broke off: {redact(ended.last_line)[:300] or ended.code}")
        if "disk" in reply:
            raise UserError(
                f"the download cannot be written ({reply['disk']}); make room there, or set HF_HOME to another folder"
            )
        return Outcome(**reply["failed"]) if "failed" in reply else reply


def main() -> None:
    """Answer the requests of a :class:`PullProcess`; end with the parent at once."""
    serve(_answer, grace_s=0.0)


def _answer(request: dict[str, Any]) -> dict[str, Any]:
    from huggingface_hub import HfApi, constants

    from deepsynth.hub.client import classify, client_errors, use_timeouts

    use_timeouts(_REQUEST_TIMEOUT_S)
    api = HfApi(library_name="deepsynth")
    where = {"repo_id": request["repo_id"], "revision": request["revision"]}
    try:
        if request["task"] == "download":
            return {"path": str(api.hf_hub_download(filename=request["name"], **where))}
        info = api.model_info(**where, files_metadata=True)
    except client_errors() as error:
        if isinstance(error, OSError) and error.errno in _OF_THE_DISK:
            return {"disk": f"{error.filename or constants.HF_HUB_CACHE}: {error.strerror}"}
        return {"failed": asdict(classify(error))}
    sizes = {sibling.rfilename: sibling.size or 0 for sibling in info.siblings or ()}
    return {
        "commit": str(info.sha),
        "sizes": {name: size for name, size in sizes.items() if name in ADAPTER_FILES},
        "names": sorted(sizes)[:_MENTIONED],
    }
