"""Our parts in LitServe, in this process: who is answered, and how requests reach the worker."""

from __future__ import annotations

import asyncio
import queue
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

import litserve
import pytest
from fastapi import HTTPException
from litserve.utils import WorkerSetupStatus
from starlette.requests import Request

from deepsynth.errors import UserError
from deepsynth.serving import server
from deepsynth.serving.address import Address
from deepsynth.serving.jobs import Job, Limits, Load
from deepsynth.serving.models import ModelSettings, ServedModel
from deepsynth.serving.server import DecoderLoop, OcrApi, OcrSpec, run_service

SETTINGS = ModelSettings((ServedModel("tiny", None, "deepsynth/tiny"),), slots=1)


@pytest.mark.parametrize(
    ("key", "path", "header", "answered"),
    [
        (None, "/metrics", None, True),
        ("sesame", "/health", None, True),
        ("sesame", "/v1/ocr", "Bearer sesame", True),
        ("sesame", "/v1/ocr", "bearer  sesame ", True),
        ("sesame", "/v1/ocr", None, False),
        ("sesame", "/v1/ocr", "Bearer", False),
        ("sesame", "/v1/ocr", "Basic sesame", False),
        ("sesame", "/v1/ocr", "Bearer other", False),
        ("sesame", "/v1/ocr", "Bearer sesam", False),
        ("sesame", "/v1/ocr", "Bearer sésame", False),
        ("sesame", "/health/x", None, False),
        ("sesame", "/", None, False),
    ],
)
def test_who_has_the_key_is_answered(key: str | None, path: str, header: str | None, answered: bool) -> None:
    headers = [] if header is None else [(b"authorization", header.encode("latin-1"))]
    request = Request({"type": "http", "method": "GET", "path": path, "headers": headers, "server": ("x", 1)})
    api = OcrApi(SETTINGS, Limits(), key, time.time)  # type: ignore[arg-type]
    if answered:
        asyncio.run(api.authorize(request))
        return
    with pytest.raises(HTTPException, match="the key is missing or wrong: Authorization: Bearer KEY") as refused:
        asyncio.run(api.authorize(request))
    assert refused.value.status_code == 401


def test_the_endpoints_are_there_by_path_and_method() -> None:
    spec = OcrSpec(SETTINGS, Limits())
    spec.pre_setup(None)
    found = {path: (getattr(endpoint, "__name__", ""), methods) for path, endpoint, methods in spec.endpoints}
    assert found == {
        "/v1/chat/completions": ("chat", ["POST"]),
        "/v1/ocr": ("ocr", ["POST"]),
        "/v1/models": ("models", ["GET"]),
        "/metrics": ("metrics", ["GET"]),
    }
    assert spec.stream


class Requests(queue.Queue[Any]):
    """A queue whose other end is closed once it is empty."""

    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        if self.empty():
            raise EOFError
        found = super().get(block, timeout)
        if found == "nothing":
            raise queue.Empty
        return found


def test_requests_reach_the_worker_until_the_service_has_ended() -> None:
    calls: list[Any] = []
    sent: list[Any] = []
    turns: list[str] = []

    class Worker:
        def __init__(self, send: Callable[..., None]) -> None:
            send(4, [("one", Load(1, 2))])

        def accept(self, *args: Any) -> None:
            calls.append(args)

        def cancel(self, *args: Any) -> None:
            calls.append(args)

        def turn(self) -> None:
            turns.append(threading.current_thread().name)
            time.sleep(0.001)

    class Transport:
        def send(self, item: Any, consumer_id: int) -> None:
            sent.append((consumer_id, item[0], item[1][0]))

    requests, job = Requests(), Job("tiny", (b"x",))
    for item in ("nothing", (3, "one", 0.0, job), (3, "one", 0.0, None)):
        requests.put(item)
    api: Any = type("Api", (), {"make_worker": staticmethod(Worker)})
    with pytest.raises(SystemExit) as ended:
        DecoderLoop().run(api, "cpu", 0, requests, Transport(), {}, None)
    assert ended.value.code == 1
    assert calls == [("one", 3, job), ("one",)]
    assert sent == [(4, "events", [("one", Load(1, 2))])]
    assert set(turns) <= {threading.current_thread().name}


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (None, None, None),
        (KeyboardInterrupt(), None, None),
        (RuntimeError("x"), WorkerSetupStatus.ERROR, "the model could not be loaded; the lines above say why"),
        (RuntimeError("a bug"), WorkerSetupStatus.READY, "a bug"),
        (EOFError(), None, "the model's process has ended; the lines above say why"),
        (ConnectionError(), None, "the model's process has ended; the lines above say why"),
    ],
)
def test_how_a_service_ends(error: Any, status: Any, message: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    made: dict[str, Any] = {}

    class LitServer:
        def __init__(self, api: Any, **options: Any) -> None:
            made.update(api=api, **options)
            self.workers_setup_status = {"0": status}

        def run(self, **options: Any) -> None:
            made.update(options)
            if error is not None:
                raise error

    handlers: dict[int, Any] = {}
    monkeypatch.setattr(litserve, "LitServer", LitServer)
    monkeypatch.setattr(signal, "signal", handlers.__setitem__)

    def run() -> None:
        run_service(SETTINGS, Limits(max_requests=7), Address("::", 2000), "cpu", print)

    if message is None:
        run()
    else:
        with pytest.raises(UserError if "lines above" in message else RuntimeError, match=message):
            run()
    assert isinstance(made.pop("api"), OcrApi)
    assert made == {
        "accelerator": "cpu",
        "devices": 1,
        "timeout": False,
        "disable_openapi_url": True,
        "host": "::",
        "port": 2000,
        "num_api_servers": 1,
        "log_level": "warning",
        "generate_client_file": False,
        "limit_concurrency": 14,
    }
    assert set(handlers) == {signal.SIGTERM, signal.SIGINT}
    with pytest.raises(KeyboardInterrupt):
        handlers[signal.SIGTERM](signal.SIGTERM, None)
    monkeypatch.setattr(server.os, "getpid", lambda: 1)
    with pytest.raises(SystemExit) as ended:
        handlers[signal.SIGINT](signal.SIGINT, None)
    assert ended.value.code == 0
