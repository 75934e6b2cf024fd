"""The endpoints and the model of a service in one process, without LitServe's processes between them."""

from __future__ import annotations

import io
import queue
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import uvicorn
from PIL import Image, ImageDraw
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from deepsynth.serving.endpoints import Endpoints
from deepsynth.serving.exchange import EVENTS, Exchange
from deepsynth.serving.jobs import Event, Limits
from deepsynth.serving.models import ModelPool
from deepsynth.serving.worker import Worker

TEXT = "nobody came down"


def page(text: str = TEXT, size: tuple[int, int] = (256, 256)) -> bytes:
    """Return a page as PNG, as the built-in model can read it."""
    image = Image.new("RGB", size, "white")
    ImageDraw.Draw(image).multiline_text((12, 12), text, fill="black", font_size=12)
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()


class LocalService:
    """A running service.

    Attributes:
        url: of the service.
        endpoints: that answer.
        worker: that generates.
        paused: while it is set, the model does nothing.
    """

    def __init__(self, pool: ModelPool, limits: Limits) -> None:
        self.pool, self.limits = pool, limits
        self.paused, self._stop = threading.Event(), threading.Event()
        self._requests: queue.Queue[Any] = queue.Queue()
        self._buffer: dict[str, Any] = {}
        self.worker = Worker(pool, limits, self._send, threads=2)
        self.endpoints: Endpoints | None = None
        routes = [
            Route("/v1/chat/completions", self._chat, methods=["POST"]),
            Route("/v1/ocr", self._ocr, methods=["POST"]),
            Route("/v1/models", self._models),
            Route("/metrics", self._metrics),
        ]
        config = uvicorn.Config(Starlette(routes=routes), port=0, log_level="warning", timeout_graceful_shutdown=1)
        self._server = uvicorn.Server(config)
        self._threads = [threading.Thread(target=run) for run in (self._server.run, self._receive, self._work)]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()
        while not self._server.started:
            time.sleep(0.01)
        self.port = self._server.servers[0].sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"

    def stop(self) -> None:
        self._stop.set()
        self.paused.clear()
        self._server.should_exit = True
        self._requests.put(None)
        for thread in self._threads:
            thread.join()
        self.worker.close()

    def _here(self) -> Endpoints:
        if self.endpoints is None:
            import asyncio

            self._loop = asyncio.get_running_loop()
            self.exchange = Exchange(self._requests, self._buffer, 0, self.limits.max_requests)
            self.endpoints = Endpoints(self.exchange, self.pool.settings.models, self.limits)
        return self.endpoints

    async def _chat(self, request: Request) -> Response:
        return await self._here().chat(request)

    async def _ocr(self, request: Request) -> Response:
        return await self._here().ocr(request)

    async def _models(self, request: Request) -> Response:
        return await self._here().list_models(request)

    async def _metrics(self, request: Request) -> Response:
        return await self._here().show_metrics(request)

    def _receive(self) -> None:
        while (found := self._requests.get()) is not None:
            front, uid, _, job = found
            if job is None:
                self.worker.cancel(uid)
            else:
                self.worker.accept(uid, front, job)

    def _work(self) -> None:
        while not self._stop.is_set():
            if self.paused.is_set():
                time.sleep(0.01)
            else:
                self.worker.turn()

    def _send(self, front: int, events: Sequence[tuple[str, Event]]) -> None:
        item = self._buffer[EVENTS]
        item.response_queue.append((events, "OK"))
        self._loop.call_soon_threadsafe(item.event.set)


@contextmanager
def serving(pool: ModelPool, **limits: Any) -> Iterator[LocalService]:
    """Run a service for the block."""
    service = LocalService(pool, Limits(**limits))
    service.start()
    try:
        yield service
    finally:
        service.stop()
