"""The endpoints: OpenAI's chat completions, ``/v1/ocr``, the models and the metrics."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any
from uuid import uuid4

from fastapi import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from deepsynth.data.formats.grounding import grounded_layout
from deepsynth.serving.exchange import Exchange, next_event
from deepsynth.serving.jobs import Ended, Event, Job, Limits, Opened, Prepared, RequestError, Written
from deepsynth.serving.metrics import Metrics
from deepsynth.serving.models import ServedModel
from deepsynth.serving.requests import ChatRequest, Format, OcrRequest, parse, read_body

log = logging.getLogger(__name__)

#: What OpenAI calls the end of a text; one that repeats itself was cut as well.
_FINISH = {"eos": "stop", "length": "length", "loop": "length"}
#: What OpenAI calls the kind of an error, by status.
_KINDS = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error"}
#: The status, of no standard, that the log and the metrics have for a client that left before the answer.
CLIENT_LEFT = 499


class Endpoints:
    """Answers requests; lives in one event loop.

    Args:
        exchange: to the model.
        models: that requests may name; the first is the default of ``/v1/ocr``.
        limits: of a request.
    """

    def __init__(self, exchange: Exchange, models: Sequence[ServedModel], limits: Limits) -> None:
        self._exchange, self._limits = exchange, limits
        self._by_name = {model.name: model for model in models}
        self._default = models[0].name
        self.metrics = Metrics(exchange)

    # ------------------------------------------------------------------ endpoints

    async def chat(self, request: Request) -> Response:
        """``POST /v1/chat/completions``, as OpenAI defines it."""

        async def respond() -> Response:
            asked: ChatRequest = parse(ChatRequest, await read_body(request, self._limits))
            job = self._checked(asked.job())
            reply = _Reply(job.model)
            if not asked.stream:
                (_, prepared, ended) = (await self._answer(request, job))[0]
                return JSONResponse(reply.whole(prepared, ended))
            with_usage = asked.stream_options is not None and asked.stream_options.include_usage
            return await self._stream(job, reply, with_usage=with_usage)

        return await self._respond("chat", respond)

    async def ocr(self, request: Request) -> Response:
        """``POST /v1/ocr``: an image or PDF as the body, or in JSON; the texts of its pages as JSON."""

        async def respond() -> Response:
            body = await read_body(request, self._limits)
            is_json = request.headers.get("content-type", "").partition(";")[0].strip() == "application/json"
            asked: OcrRequest = parse(OcrRequest, body if is_json else dict(request.query_params))
            if not is_json and asked.file is not None:
                raise RequestError(422, "file is in the query; send the file as the body, or all of it as JSON")
            if not is_json and not body:
                raise RequestError(422, "the body is empty; send an image or a PDF")
            job = self._checked(asked.job(self._default, None if is_json else body))
            pages = [_page(*page, asked.format) for page in await self._answer(request, job)]
            usage = {
                name: sum(page["usage"][name] for page in pages)
                for name in ("prompt_tokens", "completion_tokens", "total_tokens")
            }
            joint = "\n\n" if asked.format == "markdown" else "\n"
            text = joint.join(page["text"].strip("\n") for page in pages)
            return JSONResponse({"model": job.model, "text": text, "pages": pages, "usage": usage})

        return await self._respond("ocr", respond)

    async def list_models(self, request: Request) -> Response:
        """``GET /v1/models``, as OpenAI defines it."""
        data = [
            {"id": model.name, "object": "model", "created": 0, "owned_by": "deepsynth", "root": model.base}
            for model in self._by_name.values()
        ]
        return JSONResponse({"object": "list", "data": data})

    async def show_metrics(self, request: Request) -> Response:
        """``GET /metrics``, for Prometheus."""
        return Response(self.metrics.text(), media_type="text/plain; version=0.0.4")

    # ------------------------------------------------------------------ how they answer

    async def _respond(self, endpoint: str, respond: Callable[[], Awaitable[Response]]) -> Response:
        """Return a response, or what is wrong in OpenAI's form; count it."""
        started = time.monotonic()
        try:
            self._exchange.check_room()
            async with asyncio.timeout(self._limits.timeout_s):
                response = await respond()
        except RequestError as error:
            response = error_response(error)
        except TimeoutError:
            response = error_response(_too_slow(self._limits))
        if response.status_code == 200:
            self.metrics.seconds.labels(endpoint).observe(time.monotonic() - started)
        self.metrics.requests.labels(endpoint, str(response.status_code)).inc()
        return response

    def _checked(self, job: Job) -> Job:
        if job.model not in self._by_name:
            raise RequestError(404, f"there is no model {job.model[:100]!r}; choose from {', '.join(self._by_name)}")
        most = self._by_name[job.model].max_new_tokens
        if job.max_new_tokens is not None and job.max_new_tokens > most:
            raise RequestError(422, f"{job.max_new_tokens} tokens are asked for; this service generates up to {most}")
        return job

    async def _answer(self, request: Request, job: Job) -> list[tuple[int, Prepared, Ended]]:
        """Return the texts of a job's pages, in their order.

        Raises:
            RequestError: when it cannot be answered, or nobody waits for it any more.
        """
        async with self._exchange.send(job) as events:
            gathered = asyncio.create_task(self._gather(events, job.model))
            left = asyncio.create_task(_until_left(request))
            try:
                await asyncio.wait({gathered, left}, return_when=asyncio.FIRST_COMPLETED)
                if not gathered.done():
                    raise RequestError(CLIENT_LEFT, "the client left")
                return await gathered
            finally:
                for task in (gathered, left):
                    task.cancel()
                await asyncio.gather(gathered, left, return_exceptions=True)

    async def _gather(self, events: asyncio.Queue[Event], model: str) -> list[tuple[int, Prepared, Ended]]:
        pages: tuple[int, ...] | None = None
        prepared: dict[int, Prepared] = {}
        ended: dict[int, Ended] = {}
        while pages is None or len(ended) < len(pages):
            event = await next_event(events)
            if isinstance(event, Prepared):
                prepared[event.page] = event
            elif isinstance(event, Ended):
                ended[event.page] = event
                self._count(event, model)
            elif isinstance(event, Opened):
                pages = event.pages
        return [(page, prepared[page], ended[page]) for page in pages]

    def _count(self, event: Ended, model: str) -> None:
        self.metrics.pages.labels(model).inc()
        self.metrics.tokens.labels(model).inc(event.tokens)
        self.metrics.stops.labels(event.stop).inc()

    async def _stream(self, job: Job, reply: _Reply, *, with_usage: bool) -> Response:
        """Return a stream of tokens. It begins when the page is ready: until then an error has a status of its own."""
        started = time.monotonic()
        open_until = contextlib.AsyncExitStack()
        events = await open_until.enter_async_context(self._exchange.send(job))
        try:
            event = await next_event(events)
            while not isinstance(event, Prepared):
                event = await next_event(events)
        except BaseException:
            await open_until.aclose()
            raise
        prepared = event

        async def chunks() -> AsyncIterator[str]:
            first = True
            async with open_until:
                yield reply.chunk({"role": "assistant", "content": ""})
                try:
                    async with asyncio.timeout(self._limits.timeout_s):
                        while not isinstance(event := await next_event(events), Ended):
                            if isinstance(event, Written):
                                if first:
                                    self.metrics.first_token_seconds.observe(time.monotonic() - started)
                                first = False
                                yield reply.chunk({"content": event.text})
                except RequestError as error:
                    yield _sse(error_body(error))
                    return
                except TimeoutError:
                    yield _sse(error_body(_too_slow(self._limits)))
                    return
                self._count(event, job.model)
                yield reply.chunk({}, finish=_FINISH[event.stop])
                if with_usage:
                    yield reply.usage(prepared, event)
                yield "data: [DONE]\n\n"

        return StreamingResponse(chunks(), media_type="text/event-stream", headers={"Cache-Control": "no-cache"})


class _Reply:
    """A chat completion in OpenAI's words.

    Args:
        model: name that was asked for.
    """

    def __init__(self, model: str) -> None:
        self._head: dict[str, Any] = {"id": f"chatcmpl-{uuid4().hex}", "created": int(time.time()), "model": model}

    def whole(self, prepared: Prepared, ended: Ended) -> dict[str, Any]:
        """Return the completion."""
        message = {"role": "assistant", "content": ended.text}
        choice = {"index": 0, "message": message, "finish_reason": _FINISH[ended.stop], "logprobs": None}
        return {**self._head, "object": "chat.completion", "choices": [choice], "usage": _usage(prepared, ended)}

    def chunk(self, delta: dict[str, str], finish: str | None = None) -> str:
        """Return a piece of a stream."""
        choice = {"index": 0, "delta": delta, "finish_reason": finish, "logprobs": None}
        return _sse({**self._head, "object": "chat.completion.chunk", "choices": [choice]})

    def usage(self, prepared: Prepared, ended: Ended) -> str:
        """Return the piece of a stream that says how many tokens there were."""
        usage = _usage(prepared, ended)
        return _sse({**self._head, "object": "chat.completion.chunk", "choices": [], "usage": usage})


def _usage(prepared: Prepared, ended: Ended) -> dict[str, int]:
    total = prepared.prompt_tokens + ended.tokens
    return {"prompt_tokens": prepared.prompt_tokens, "completion_tokens": ended.tokens, "total_tokens": total}


def _page(number: int, prepared: Prepared, ended: Ended, form: Format) -> dict[str, Any]:
    """Return a page of ``/v1/ocr``."""
    width, height = prepared.size
    page: dict[str, Any] = {
        "page": number + 1,
        "text": ended.text,
        "stop": ended.stop,
        "confidence": ended.confidence,
        "width": width,
        "height": height,
        "usage": _usage(prepared, ended),
    }
    if form == "layout":
        layout = grounded_layout(ended.text, "", prepared.size)
        page["regions"] = layout and [{"text": str(region), "box": region.box} for region in layout.regions]
    return page


def error_body(error: RequestError) -> dict[str, Any]:
    """Return an error in OpenAI's form."""
    kind = _KINDS.get(error.status, "invalid_request_error" if error.status < 500 else "server_error")
    return {"error": {"message": error.message, "type": kind, "param": None, "code": error.status}}


def error_response(error: RequestError) -> Response:
    """Return an error as a response; it says when to ask again, where that helps."""
    headers = {"Retry-After": "1"} if error.status in (429, 503) else None
    return JSONResponse(error_body(error), error.status, headers)


def _too_slow(limits: Limits) -> RequestError:
    return RequestError(504, f"there was no answer within {limits.timeout_s:g} s")


def _sse(data: dict[str, Any]) -> str:
    return f"data: {json.dumps(data, ensure_ascii=False)}\n\n"


async def _until_left(request: Request) -> None:
    """Return when the client of a request whose body was read has left."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
