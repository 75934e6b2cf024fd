"""A model's name without a network: one line, or the files that were downloaded before, within seconds."""

from __future__ import annotations

import importlib
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled

from deepsynth.errors import UserError
from deepsynth.models import reachability
from tests.helpers.local_hub import local_hub

LOAD = """
import sys, time
from pathlib import Path
from transformers import AutoConfig
from deepsynth.models.registry import load_pretrained

def load():
    started = time.monotonic()
    try:
        print(type(load_pretrained(AutoConfig, "alice/model")).__name__)
    except ValueError as error:
        print(f"{type(error).__name__}: {error}")
    print(time.monotonic() - started)

load()
if len(sys.argv) > 1:  # a configuration where huggingface_hub keeps its downloads
    folder = Path(sys.argv[1], "hub/models--alice--model")
    (folder / "snapshots/0123").mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs/main").write_text("0123")
    (folder / "snapshots/0123/config.json").write_text('{"model_type": "deepseek_ocr2"}')
    load()
"""


def load(endpoint: str, home: Path, *cached: str) -> list[tuple[str, float]]:
    """Return what loading alice/model printed, and how many seconds it took: once, and with it in the cache."""
    environment = {**os.environ, "HF_ENDPOINT": endpoint, "HF_HOME": str(home), "HF_HUB_OFFLINE": "0"}
    command = [sys.executable, "-c", LOAD, *cached]
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True, timeout=120)
    lines = done.stdout.splitlines()
    return [(said, float(seconds)) for said, seconds in zip(lines[::2], lines[1::2], strict=True)]


def test_a_refused_connection_is_one_line_or_the_cache(tmp_path: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # and nobody listens
        endpoint = f"http://127.0.0.1:{unused.getsockname()[1]}"
        (missing, seconds), (found, cached_seconds) = load(endpoint, tmp_path, str(tmp_path))
    assert missing.startswith("UserError: model_name is 'alice/model', which was not downloaded before, and the Hub")
    assert found == "DeepseekOcr2Config"
    assert max(seconds, cached_seconds) < 10


@pytest.mark.slow
def test_a_hub_that_is_silent_and_a_page_in_between(tmp_path: Path) -> None:
    with local_hub(tmp_path) as hub:
        hub.fault(path="/api/models", action="hang", seconds=60, times=-1)
        ((said, seconds),) = load(hub.url, tmp_path / "silent")
        assert "the Hub does not answer (" in said
        assert seconds < 10
        hub.clear_faults()
        hub.fault(path="/api/models", status=200, body="<html>log in to this network</html>", times=-1)
        ((said, seconds),) = load(hub.url, tmp_path / "portal")
        assert "its reply is not JSON" in said
        assert seconds < 10
        hub.clear_faults()
        ((said, _),) = load(hub.url, tmp_path / "missing")
        assert said.startswith("UserError: model_name 'alice/model' cannot be loaded: alice/model is not a local")


@pytest.mark.slow
def test_a_name_that_does_not_resolve(tmp_path: Path) -> None:
    started = time.monotonic()
    ((said, seconds),) = load("http://no-such-host.invalid", tmp_path)
    assert "the Hub does not answer (" in said
    assert seconds < 10, time.monotonic() - started


class Replies:
    """What a Hub replies, one after the other; the last one for ever."""

    def __init__(self) -> None:
        self.replies: list[Any] = [None]
        self.timeouts: list[float] = []
        self.now = 100.0


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Replies:
    """A Hub of made-up replies, on a clock that only the test moves; nothing is remembered of earlier ones."""
    own = Replies()

    def model_info(self: Any, name: str, *, timeout: float) -> None:
        assert name == "alice/model"
        own.timeouts.append(timeout)
        reply = own.replies.pop(0) if len(own.replies) > 1 else own.replies[0]
        if reply is not None:
            raise reply

    monkeypatch.setattr(HfApi, "model_info", model_info)
    monkeypatch.setattr(time, "monotonic", lambda: own.now)
    importlib.reload(reachability)
    return own


NOT_JSON = "its reply is not JSON: is this network's own page in between?"


@pytest.mark.parametrize(
    ("replies", "reason", "asked"),
    [
        ([None], None, 1),
        ([HfHubHTTPError("x", response=SimpleNamespace(status_code=503, headers={}, request=None))], None, 1),  # type: ignore[arg-type]
        ([HFValidationError("bad")], None, 1),
        ([OfflineModeIsEnabled("x")], "HF_HUB_OFFLINE is set", 1),
        ([ValueError("no JSON")], NOT_JSON, 2),
        ([ValueError("no JSON"), None], None, 2),
        ([OSError("first"), OSError("second\n   line")], "second line", 2),
        ([OSError("x" * 300)], "x" * 200, 2),
        ([OSError()], "OSError", 2),
    ],
    ids=str,
)
def test_why_the_hub_does_not_answer(replies: list[Any], reason: str | None, asked: int, hub: Replies) -> None:
    hub.replies = list(replies)
    assert reachability.why_unreachable("alice/model") == reason
    assert hub.timeouts == [5.0] * asked


def test_an_answer_counts_for_a_minute(hub: Replies) -> None:
    assert reachability.why_unreachable("alice/model") is None
    hub.replies = [OfflineModeIsEnabled("x")]
    hub.now += 60
    assert reachability.hub_options("alice/model") == {}
    hub.now += 1
    assert reachability.why_unreachable("alice/model") == "HF_HUB_OFFLINE is set"
    hub.replies = [None]
    hub.now += 60
    assert reachability.why_unreachable("alice/model") == "HF_HUB_OFFLINE is set"
    assert len(hub.timeouts) == 2


def test_a_hub_that_says_nothing_is_waited_for_no_longer_than_that(
    hub: Replies, monkeypatch: pytest.MonkeyPatch
) -> None:
    silent = threading.Event()
    monkeypatch.setattr(HfApi, "model_info", lambda *_, timeout: silent.wait())
    assert reachability.DEADLINE_S == 8
    monkeypatch.setattr(reachability, "DEADLINE_S", 0.05)
    assert reachability.why_unreachable("alice/model") == "no reply within 0.05 s"
    silent.set()


def test_without_a_hub_the_files_that_are_there_must_do(hub: Replies, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.replies = [OSError("refused")]
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda name, file: f"/cache/{name}/{file}")
    assert reachability.hub_options("alice/model") == {"local_files_only": True}
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda name, file: None)
    with pytest.raises(UserError, match=r"^model_name is 'alice/model', which was not .* \(refused\); connect"):
        reachability.hub_options("alice/model")
