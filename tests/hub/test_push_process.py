"""The process of one push attempt: its environment, its limits, and what its end means."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from deepsynth.hub import push_process
from deepsynth.hub.client import Outcome
from deepsynth.hub.push_process import limited_environment, run_attempt
from deepsynth.hub.snapshot import Snapshot, Target
from deepsynth.io.worker_process import WorkerEnded
from tests.helpers.local_hub import TOKEN


@pytest.mark.parametrize(("timeout_s", "said"), [(60.0, "60s"), (0.2, "1s"), (2.6, "3s")])
def test_xet_has_the_limits_of_other_requests(timeout_s: float, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("HF_")]:
        monkeypatch.delenv(name)
    assert {k: v for k, v in limited_environment(timeout_s, use_xet=True).items() if k.startswith("HF_")} == {
        "HF_XET_CLIENT_READ_TIMEOUT": said,
        "HF_XET_CLIENT_CONNECT_TIMEOUT": said,
        "HF_XET_CLIENT_RETRY_MAX_ATTEMPTS": "2",
        "HF_XET_CLIENT_RETRY_BASE_DELAY": "1s",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    }
    assert limited_environment(timeout_s, use_xet=False)["HF_HUB_DISABLE_XET"] == "1"


def test_settings_of_the_user_stand(monkeypatch: pytest.MonkeyPatch) -> None:
    own = {
        "HF_XET_CLIENT_READ_TIMEOUT": "7s",
        "HF_XET_CLIENT_CONNECT_TIMEOUT": "8s",
        "HF_XET_CLIENT_RETRY_MAX_ATTEMPTS": "9",
        "HF_XET_CLIENT_RETRY_BASE_DELAY": "4s",
        "HF_HUB_DISABLE_XET": "1",
    }
    for name, value in own.items():
        monkeypatch.setenv(name, value)
    assert own.items() <= limited_environment(60.0, use_xet=True).items()
    assert limited_environment(60.0, use_xet=True).keys() >= os.environ.keys()


class Process:
    """Stands in for the process of a push, and keeps what it was asked."""

    def __init__(self, ended: Exception | dict[str, Any]) -> None:
        self.ended = ended
        self.asked: dict[str, Any] = {}
        self.grace_s: float | None = None

    def __call__(self, module: str, **settings: Any) -> Process:
        self.asked |= settings
        return self

    def ask(self, request: dict[str, Any], **settings: Any) -> dict[str, Any]:
        self.asked |= request | settings
        if isinstance(self.ended, Exception):
            raise self.ended
        return self.ended

    def close(self, *, grace_s: float) -> None:
        self.grace_s = grace_s


def attempt(monkeypatch: pytest.MonkeyPatch, process: Process, **settings: Any) -> Outcome:
    monkeypatch.setattr(push_process, "WorkerProcess", process)
    snapshot = Snapshot(Path("/spool/1"), "id", Target("a/b"), "step 1", None, {"x": 4_000_000, "y": 1_000_000})
    return run_attempt(snapshot, request_timeout_s=20.0, **settings)


@pytest.mark.parametrize(
    ("ended", "message", "grace_s"),
    [
        (TimeoutError(), "the Hub did not finish in time", 0.0),
        (WorkerEnded(-9, "x"), "the push broke off: killed by signal 9", 5.0),
        (WorkerEnded(1, f"KeyError: {TOKEN}"), "the push broke off: KeyError: <token>", 5.0),
        (WorkerEnded(0, ""), "the push broke off: it said nothing", 5.0),
        (WorkerEnded(1, "z" * 999), f"the push broke off: {'z' * 300}", 5.0),
    ],
)
def test_a_process_that_ends_without_a_reply_is_tried_again(
    ended: Exception, message: str, grace_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = Process(ended)
    assert attempt(monkeypatch, process) == Outcome("retry", message)
    assert process.grace_s == grace_s, "what has replied may end by itself; what hangs is killed"


def test_an_attempt_may_take_as_long_as_a_slow_uplink_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    outcome = Outcome("refused", "no", None, 3.0)
    process = Process({"status": "refused", "message": "no", "commit": None, "retry_after_s": 3.0})
    assert attempt(monkeypatch, process, use_xet=False, canceled=lambda: True) == outcome
    assert process.asked["timeout_s"] == 300.0 + 5_000_000 / 50_000
    assert process.asked["folder"] == "/spool/1"
    assert process.asked["request_timeout_s"] == 20.0
    assert process.asked["canceled"]() is True
    assert process.asked["environment"]["HF_HUB_DISABLE_XET"] == "1"
    assert process.asked["environment"]["HF_XET_CLIENT_READ_TIMEOUT"] == "20s"
    assert attempt(monkeypatch, process) == outcome
    assert process.asked["canceled"]() is False
    assert process.asked["environment"].get("HF_HUB_DISABLE_XET") == os.environ.get("HF_HUB_DISABLE_XET")
