"""What a process that downloads is asked, how long it may take, and what its end means."""

from __future__ import annotations

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
