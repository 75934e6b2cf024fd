"""What a process that downloads is asked, how long it may take, and what its end means."""

from __future__ import annotations

import errno
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from deepsynth.errors import UserError
from deepsynth.hub import pull_process
from deepsynth.hub.client import Outcome
from deepsynth.hub.pull_process import PullProcess
from deepsynth.io.worker_process import WorkerEnded
from tests.helpers.local_hub import TOKEN


class Processes:
    """Stands in for the processes that are started, and keeps what they were asked."""

    def __init__(self) -> None:
        self.replies: list[Any] = []
        self.asked: list[tuple[dict[str, Any], float]] = []
        self.environments: list[dict[str, str]] = []
        self.closed: list[float] = []

    def __call__(self, module: str, *, environment: dict[str, str]) -> Processes:
        self.environments.append(environment)
        return self

    def ask(self, request: dict[str, Any], *, timeout_s: float) -> dict[str, Any]:
        self.asked.append((request, timeout_s))
        reply = self.replies.pop(0)
        if isinstance(reply, Exception):
            raise reply
        return reply

    def close(self, *, grace_s: float) -> None:
        self.closed.append(grace_s)


@pytest.fixture
def processes(monkeypatch: pytest.MonkeyPatch) -> Processes:
    processes = Processes()
    monkeypatch.setattr(pull_process, "WorkerProcess", processes)
    return processes


def test_one_process_answers_all_questions_about_a_repository(processes: Processes) -> None:
    processes.replies = [{"commit": "c1"}, {"path": "/cache/a"}]
    pull = PullProcess("alice/ocr", "v1")
    assert pull.describe() == {"commit": "c1"}
    assert pull.download("a.json", "c1", 5_000_000) == {"path": "/cache/a"}
    where = {"repo_id": "alice/ocr", "revision": "v1"}
    assert processes.asked == [
        ({"task": "describe", **where}, 30.0),
        ({"task": "download", "name": "a.json", **where, "revision": "c1"}, 60.0 + 100.0),
    ]
    (environment,) = processes.environments
    assert environment["HF_XET_CLIENT_READ_TIMEOUT"] == "10s"
    pull.close()
    pull.close()
    assert processes.closed == [0.0], "killed, once"


@pytest.mark.parametrize(
    ("ended", "message"),
    [
        (TimeoutError(), "it did not finish within 30 s"),
        (WorkerEnded(1, f"KeyError: {TOKEN}"), "the download broke off: KeyError: <token>"),
        (WorkerEnded(1, "z" * 999), f"the download broke off: {'z' * 300}"),
        (WorkerEnded(-9, ""), "the download broke off: -9"),
    ],
)
def test_the_next_question_goes_to_a_new_process_when_one_has_ended(
    ended: Exception, message: str, processes: Processes
) -> None:
    processes.replies = [ended, {"commit": "c1"}]
    pull = PullProcess("alice/ocr", None)
    assert pull.describe() == Outcome("retry", message)
    assert processes.closed == [0.0]
    assert pull.describe() == {"commit": "c1"}
    assert len(processes.environments) == 2


def test_failures_come_back_as_they_were_classified(processes: Processes) -> None:
    failed = {"status": "refused", "message": "HTTP 404", "commit": None, "retry_after_s": None}
    processes.replies = [{"failed": failed}, {"disk": "/cache: No space left on device"}]
    pull = PullProcess("alice/ocr", None)
    assert pull.describe() == Outcome("refused", "HTTP 404")
    with pytest.raises(
        UserError, match=r"^the download cannot be written \(/cache: No space left on device\); make room"
    ):
        pull.download("a.json", None, 1)
    assert processes.closed == []


class Api:
    """A Hub with the files of an adapter among others."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error

    def model_info(self, **where: Any) -> Any:
        if self.error is not None:
            raise self.error
        assert where == {"repo_id": "alice/ocr", "revision": "v1", "files_metadata": True}
        files = {f"x{i}": 1 for i in range(9)} | {"adapter_config.json": 7, "README.md": None}
        return SimpleNamespace(sha="c1", siblings=[SimpleNamespace(rfilename=n, size=s) for n, s in files.items()])

    def hf_hub_download(self, **where: Any) -> str:
        if self.error is not None:
            raise self.error
        assert where == {"filename": "a.json", "repo_id": "alice/ocr", "revision": "v1"}
        return "/cache/a.json"


@pytest.fixture
def answer(monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Any]]:
    """Return what the process answers with a Hub that is an object here."""

    def ask(task: str, error: Exception | None = None) -> dict[str, Any]:
        answers: list[Any] = []
        request = {"task": task, "name": "a.json", "repo_id": "alice/ocr", "revision": "v1"}
        monkeypatch.setattr("huggingface_hub.HfApi", lambda **settings: Api(error))
        monkeypatch.setattr("deepsynth.hub.client.use_timeouts", answers.append)
        monkeypatch.setattr(pull_process, "serve", lambda answer, grace_s: answers.append((answer(request), grace_s)))
        pull_process.main()
        limit, (found, grace_s) = answers
        assert (limit, grace_s) == (10.0, 0.0)
        return dict(found)

    return ask


def test_a_description_has_the_sizes_of_an_adapter_s_files_and_some_names(answer: Any) -> None:
    assert answer("describe") == {
        "commit": "c1",
        "sizes": {"adapter_config.json": 7, "README.md": 0},
        "names": ["README.md", "adapter_config.json", *(f"x{i}" for i in range(6))],
    }
    assert answer("download") == {"path": "/cache/a.json"}


@pytest.mark.parametrize("code", ["ENOSPC", "EDQUOT", "EFBIG", "EROFS", "EACCES", "EPERM", "ENOTDIR"])
def test_what_the_disk_says_is_no_failure_of_the_hub(code: str, answer: Any) -> None:
    number = getattr(errno, code)
    assert answer("download", OSError(number, "no", "/cache/x")) == {"disk": "/cache/x: no"}
    assert set(answer("download", OSError(number, "no"))) == {"disk"}
    assert set(answer("describe", OSError(errno.ECONNRESET, "no"))) == {"failed"}


def test_what_the_hub_says_is_classified(answer: Any) -> None:
    assert answer("describe", RuntimeError("HTTP 404")) == {
        "failed": {
            "status": "refused",
            "message": "HTTP 404: RuntimeError: HTTP 404",
            "commit": None,
            "retry_after_s": None,
        }
    }
