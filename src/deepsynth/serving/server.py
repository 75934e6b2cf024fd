"""The service on LitServe: its two processes, and how they begin and end."""

from __future__ import annotations

import hmac
import os
import signal
import sys
import threading
from collections.abc import Callable
from functools import partial
from types import FrameType
from typing import Any

import litserve
import torch
from fastapi import HTTPException, Request
from litserve.loops.base import LitLoop
from litserve.specs.base import LitSpec
from litserve.utils import LitAPIStatus, LoopResponseType, WorkerSetupStatus
from starlette.responses import Response
from tqdm import tqdm

from deepsynth.data.loading.workers import collect_seldom
from deepsynth.errors import UserError
from deepsynth.profiling.cores import available_cores
from deepsynth.serving.address import Address
from deepsynth.serving.endpoints import Endpoints
from deepsynth.serving.exchange import EVENTS, Exchange
from deepsynth.serving.jobs import Event, Limits
from deepsynth.serving.models import ModelPool, ModelSettings
from deepsynth.serving.processes import PreparationProcesses
from deepsynth.serving.worker import Worker

#: Seconds that requests under way have to end when the service ends.
GRACE_S = 30
#: Open connections for each request that may be under way: further ones are turned away, or send, or read the metrics.
_CONNECTIONS = 2


class OcrSpec(LitSpec):  # type: ignore[misc]  # LitServe is not typed
    """Our endpoints in LitServe; LitServe's own OpenAISpec knows no usage limits, statuses and clients that leave.

    Args:
        settings: of the models.
        limits: of a request.
    """

    def __init__(self, settings: ModelSettings, limits: Limits) -> None:
        super().__init__()
        self.api_path = "/v1/chat/completions"
        self._settings, self._limits = settings, limits
        self._ready: Endpoints | None = None

    @property
    def stream(self) -> bool:
        """Whether responses come in pieces."""
        return True

    def pre_setup(self, lit_api: Any) -> None:
        """Register the endpoints."""
        self.add_endpoint(self.api_path, self.chat, ["POST"])
        self.add_endpoint("/v1/ocr", self.ocr, ["POST"])
        self.add_endpoint("/v1/models", self.models, ["GET"])
        self.add_endpoint("/metrics", self.metrics, ["GET"])

    @property
    def endpoints_here(self) -> Endpoints:
        """The endpoints of this process and its event loop, made with the first request."""
        if self._ready is None:
            limits = self._limits
            exchange = Exchange(self.request_queue, self.response_buffer, self.response_queue_id, limits.max_requests)
            self._ready = Endpoints(exchange, self._settings.models, limits)
        return self._ready

    async def chat(self, request: Request) -> Response:
        """Answer ``POST /v1/chat/completions``."""
        return await self.endpoints_here.chat(request)

    async def ocr(self, request: Request) -> Response:
        """Answer ``POST /v1/ocr``."""
        return await self.endpoints_here.ocr(request)

    async def models(self, request: Request) -> Response:
        """Answer ``GET /v1/models``."""
        return await self.endpoints_here.list_models(request)

    async def metrics(self, request: Request) -> Response:
        """Answer ``GET /metrics``."""
        return await self.endpoints_here.show_metrics(request)


class OcrApi(litserve.LitAPI):  # type: ignore[misc]
    """The model in LitServe's worker process.

    Args:
        settings: of the models.
        limits: of a request.
        api_key: that requests need; ``None`` for none.
        prepare: sets up the log of its process.
    """

    def __init__(
        self, settings: ModelSettings, limits: Limits, api_key: str | None, prepare: Callable[[], None]
    ) -> None:
        self._settings, self._limits, self._api_key, self._prepare = settings, limits, api_key, prepare
        super().__init__(spec=OcrSpec(settings, limits), stream=True, loop=DecoderLoop())

    def setup(self, device: str) -> None:
        """Load the model."""
        tqdm.set_lock(threading.RLock())  # its own is one of processes, which is reported when this one is ended
        self._prepare()
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes; this one ends last
        threads = max(4, available_cores() // 2)
        beside_gpu = torch.device(device).type == "cuda"
        prepare = PreparationProcesses(self._settings, self._limits, threads) if beside_gpu else None
        pool = ModelPool(self._settings, device)
        if beside_gpu:
            pool.warm_up()
        collect_seldom()  # a search of all that was loaded would hold up every text
        self.make_worker = partial(Worker, pool, self._limits, threads=threads, prepare=prepare)

    async def authorize(self, request: Request) -> None:
        """Refuse requests without the key; the state of the service is no secret."""
        if self._api_key is None or request.url.path == "/health":
            return
        kind, _, given = request.headers.get("authorization", "").partition(" ")
        if kind.lower() != "bearer" or not hmac.compare_digest(given.strip().encode(), self._api_key.encode()):
            raise HTTPException(401, "the key is missing or wrong: Authorization: Bearer KEY")


class DecoderLoop(LitLoop):  # type: ignore[misc]
    """LitServe's worker, which feeds our decoder: its rows are refilled while others are written."""

    def run(
        self,
        lit_api: OcrApi,
        device: str,
        worker_id: int,
        request_queue: Any,
        transport: Any,
        workers_setup_status: dict[int, str],
        callback_runner: Any,
    ) -> None:
        """Work until the process is ended, or the service has ended without it."""
        worker = lit_api.make_worker(send=partial(self._send, transport))
        receiver = threading.Thread(target=self._receive, args=(request_queue, worker), daemon=True, name="requests")
        receiver.start()
        while receiver.is_alive():
            worker.turn()
        sys.exit(1)

    def _receive(self, request_queue: Any, worker: Worker) -> None:
        """Hand on requests, and that clients have left."""
        while True:
            try:
                found = self.get_request(request_queue, block=True, timeout=1)
            except (EOFError, ConnectionError):
                return  # the process that started this one has ended
            if found is None:
                continue
            front, uid, _, job = found
            if job is None:
                worker.cancel(uid)
            else:
                worker.accept(uid, front, job)

    def _send(self, transport: Any, front: int, events: list[tuple[str, Event]]) -> None:
        self.put_response(transport, front, EVENTS, events, LitAPIStatus.OK, LoopResponseType.STREAMING)


def run_service(
    settings: ModelSettings, limits: Limits, address: Address, accelerator: str, prepare: Callable[[], None]
) -> None:
    """Serve until SIGTERM or Ctrl-C; requests under way are answered first.

    Args:
        settings: of the models.
        limits: of a request.
        address: where to listen.
        accelerator: ``auto``, ``cpu`` or ``cuda``.
        prepare: sets up the log of the model's process, and can be pickled.

    Raises:
        UserError: when the model cannot be loaded, or its process has ended.
    """
    server = litserve.LitServer(
        OcrApi(settings, limits, address.api_key(), prepare),
        accelerator=accelerator,
        devices=1,
        timeout=False,  # each request has its own
        disable_openapi_url=True,  # its page of documentation loads scripts from elsewhere
    )
    server.uvicorn_graceful_timeout = GRACE_S
    _end_on_signals()
    try:
        server.run(
            host=address.host,
            port=address.port,
            num_api_servers=1,  # one place counts what is under way
            log_level="warning",
            generate_client_file=False,
            limit_concurrency=_CONNECTIONS * limits.max_requests,
        )
    except KeyboardInterrupt:
        return  # before there was anything to answer
    except RuntimeError as error:
        if WorkerSetupStatus.ERROR not in server.workers_setup_status.values():
            raise
        raise UserError("the model could not be loaded; the lines above say why") from error
    except (EOFError, ConnectionError) as error:
        raise UserError("the model's process has ended; the lines above say why") from error


def _end_on_signals() -> None:
    """Have SIGTERM and Ctrl-C end the service in order, and its process for HTTP without a traceback."""
    main = os.getpid()

    def end(number: int, frame: FrameType | None) -> None:
        if os.getpid() != main:
            sys.exit(0)  # it has answered what was under way
        raise KeyboardInterrupt  # which LitServe knows; after another exception it waits for itself

    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, end)
