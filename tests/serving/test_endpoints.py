"""What the endpoints make of the events of a model, without one: replies, streams, pages, errors and figures."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from dataclasses import dataclass, field
from typing import Any

import pytest
from starlette.requests import Request
from starlette.responses import StreamingResponse

from deepsynth.serving.endpoints import Endpoints, error_body, error_response
from deepsynth.serving.exchange import EVENTS, Exchange
from deepsynth.serving.jobs import Ended, Event, Failed, Job, Limits, Opened, Prepared, RequestError, Written
from deepsynth.serving.models import ServedModel

MODELS = (ServedModel("a", None, "base/of-both", max_new_tokens=9), ServedModel("b", None, "base/of-both"))
FILE = b"a page"
URL = f"data:image/png;base64,{base64.b64encode(FILE).decode()}"
CHAT = {"model": "a", "messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": URL}}]}]}
PAGE = (Opened((0,)), Prepared(0, 7, (30, 20)))


class Model:
    """A queue to a model that answers each job with the same events."""

    def __init__(self, events: tuple[Event, ...]) -> None:
        self.events, self.buffer = events, dict[str, Any]()
        self.jobs: list[Job] = []
        self.loop = asyncio.get_running_loop()

    def put(self, item: Any) -> None:
        _, uid, _, job = item
        if job is not None:
            self.jobs.append(job)
            arrived = self.buffer[EVENTS]
            arrived.response_queue.append(([(uid, event) for event in self.events], "OK"))
            self.loop.call_soon_threadsafe(arrived.event.set)


@dataclass
class Answer:
    """A response with what else there is to see."""

    status: int
    headers: Any
    text: str
    jobs: list[Job]
    figures: list[str]
    under_way: int
    asked_for_body: int

    @property
    def content(self) -> Any:
        return json.loads(self.text)

    @property
    def chunks(self) -> list[Any]:
        assert self.text.endswith("\n\n")
        pieces = self.text.removesuffix("\n\n").split("\n\n")
        assert all(piece.startswith("data: ") for piece in pieces)
        return [piece if piece == "data: [DONE]" else json.loads(piece.removeprefix("data: ")) for piece in pieces]


@dataclass
class Call:
    """A request to an endpoint by its name."""

    name: str
    body: Any = None
    headers: dict[str, str] = field(default_factory=dict)
    query: str = ""
    leaves: bool = False
    full: bool = False

    def __call__(self, *events: Event, **limits: Any) -> Answer:
        return asyncio.run(self.answer(events, limits))

    async def answer(self, events: tuple[Event, ...], limits: dict[str, Any]) -> Answer:
        model = Model(events)
        exchange = Exchange(model, model.buffer, 0, max_requests=0 if self.full else 2)
        endpoints = Endpoints(exchange, MODELS, Limits(**limits))
        body = self.body if isinstance(self.body, bytes) else json.dumps(self.body).encode()
        received = 0

        async def receive() -> dict[str, Any]:
            nonlocal received
            received += 1
            if received == 1:
                return {"type": "http.request", "body": body, "more_body": False}
            await asyncio.sleep(0 if self.leaves else 60)
            return {"type": "http.disconnect"}

        headers = [(name.encode(), value.encode()) for name, value in self.headers.items()]
        scope = {"type": "http", "method": "POST", "path": "/", "headers": headers, "query_string": self.query.encode()}
        response = await getattr(endpoints, self.name)(Request(scope, receive))
        if isinstance(response, StreamingResponse):
            text = "".join([str(piece) async for piece in response.body_iterator])
        else:
            text = bytes(response.body).decode()
        figures = endpoints.metrics.text().decode().splitlines()
        return Answer(response.status_code, response.headers, text, model.jobs, figures, len(exchange), received)


JSON = {"content-type": "application/json"}


def ended(page: int = 0, text: str = "words", tokens: int = 3, stop: Any = "eos") -> Ended:
    return Ended(page, text, tokens, stop, 0.5)


# ---------------------------------------------------------------------- chat


@pytest.mark.parametrize(("stop", "finish"), [("eos", "stop"), ("length", "length"), ("loop", "length")])
def test_a_completion_is_in_openais_words(stop: str, finish: str) -> None:
    answer = Call("chat", CHAT)(*PAGE, ended(text="né", stop=stop))
    found = answer.content
    assert found.pop("id").startswith("chatcmpl-")
    assert abs(found.pop("created") - time.time()) < 600
    assert found == {
        "model": "a",
        "object": "chat.completion",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "né"},
                "finish_reason": finish,
                "logprobs": None,
            }
        ],
        "usage": {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10},
    }
    assert answer.jobs == [Job("a", (FILE,), together=True)]
    for line in (
        'deepsynth_requests_total{endpoint="chat",status="200"} 1.0',
        'deepsynth_request_seconds_count{endpoint="chat"} 1.0',
        'deepsynth_pages_total{model="a"} 1.0',
        'deepsynth_generated_tokens_total{model="a"} 3.0',
        f'deepsynth_texts_total{{stop="{stop}"}} 1.0',
    ):
        assert line in answer.figures


@pytest.mark.parametrize("usage", [None, False, True])
def test_a_stream_has_its_pieces_its_end_and_its_usage_where_that_is_asked_for(usage: bool | None) -> None:
    options = {} if usage is None else {"stream_options": {"include_usage": usage}}
    events = (*PAGE, Written(0, "n"), Written(0, "é"), ended(text="né", stop="length"))
    answer = Call("chat", {**CHAT, "stream": True, **options})(*events)
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.headers["cache-control"] == "no-cache"
    assert "é" in answer.text
    *chunks, last = answer.chunks
    assert last == "data: [DONE]"
    if usage:
        assert chunks.pop() | {"id": "", "created": 0} == {
            "id": "",
            "created": 0,
            "model": "a",
            "object": "chat.completion.chunk",
            "choices": [],
            "usage": {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10},
        }
    assert len({(chunk["id"], chunk["created"], chunk["model"], chunk["object"]) for chunk in chunks}) == 1
    assert chunks[0]["object"] == "chat.completion.chunk"
    assert [chunk["choices"] for chunk in chunks] == [
        [{"index": 0, "delta": delta, "finish_reason": finish, "logprobs": None}]
        for delta, finish in (
            ({"role": "assistant", "content": ""}, None),
            ({"content": "n"}, None),
            ({"content": "é"}, None),
            ({}, "length"),
        )
    ]
    assert answer.jobs[0].stream
    assert answer.under_way == 0
    assert "deepsynth_first_token_seconds_count 1.0" in answer.figures
    assert 'deepsynth_generated_tokens_total{model="a"} 3.0' in answer.figures


def test_a_stream_that_fails_says_so_in_its_last_piece() -> None:
    call = Call("chat", {**CHAT, "stream": True})
    failed = call(*PAGE, Written(0, "n"), Failed(503, "no memory"))
    assert failed.status == 200
    assert failed.chunks[-1] == error_body(RequestError(503, "no memory"))
    assert len(failed.chunks) == 3
    slow = call(*PAGE, Written(0, "n"), timeout_s=1.0)  # time for the stream to begin on a busy machine
    assert slow.chunks[-1]["error"] | {"type": ""} == {
        "message": "there was no answer within 1 s",
        "type": "",
        "param": None,
        "code": 504,
    }
    early = call(Failed(413, "too many pages"))
    assert (early.status, early.content["error"]["message"]) == (413, "too many pages")
    assert [failed.under_way, slow.under_way, early.under_way] == [0, 0, 0]


# ---------------------------------------------------------------------- pages


def test_the_pages_of_a_document_are_in_the_order_of_the_request() -> None:
    events = (Opened((2, 0)), Prepared(0, 5, (30, 20)), ended(0, "\nfirst\n", 1), Prepared(2, 6, (40, 50)))
    call = Call("ocr", FILE, query="pages=3,1&prompt=Read.")
    answer = call(*events, ended(2, "third\n", 2, "loop"))
    assert answer.content == {
        "model": "a",
        "text": "third\nfirst",
        "pages": [
            {
                "page": 3,
                "text": "third\n",
                "stop": "loop",
                "confidence": 0.5,
                "width": 40,
                "height": 50,
                "usage": {"prompt_tokens": 6, "completion_tokens": 2, "total_tokens": 8},
            },
            {
                "page": 1,
                "text": "\nfirst\n",
                "stop": "eos",
                "confidence": 0.5,
                "width": 30,
                "height": 20,
                "usage": {"prompt_tokens": 5, "completion_tokens": 1, "total_tokens": 6},
            },
        ],
        "usage": {"prompt_tokens": 11, "completion_tokens": 3, "total_tokens": 14},
    }
    assert answer.jobs == [Job("a", (FILE,), pages=(2, 0), prompt="Read.")]
    call.query = "format=markdown"
    assert call(*events, ended(2, "third\n")).content["text"] == "third\n\nfirst"


def test_a_layout_has_its_regions_in_pixels() -> None:
    text = "<|ref|>title<|/ref|><|det|>[[0, 0, 999, 500]]<|/det|>\nTides\n"
    call = Call("ocr", FILE, query="format=layout")
    page = call(Opened((0,)), Prepared(0, 7, (999, 1998)), ended(text=text)).content["pages"][0]
    (region,) = page["regions"]
    assert region["box"] == pytest.approx([0, 0, 999, 1000], abs=3)
    assert "Tides" in region["text"]
    call.query = ""
    assert "regions" not in call(*PAGE, ended(text=text)).content["pages"][0]


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        (Call("ocr", {"file": URL, "model": "b"}, JSON), Job("b", (FILE,))),
        (Call("ocr", {"file": URL}, {"content-type": "application/json; charset=utf-8"}), Job("a", (FILE,))),
        (Call("ocr", FILE, {"content-type": "application/pdf"}, "max_tokens=9"), Job("a", (FILE,), max_new_tokens=9)),
        (Call("ocr", b"{}", {}), Job("a", (b"{}",))),
        (Call("ocr", FILE, query="file=x"), "file is in the query; send the file as the body, or all of it as JSON"),
        (Call("ocr", b""), "the body is empty; send an image or a PDF"),
        (Call("ocr", FILE, query="max_tokens=10"), "10 tokens are asked for; this service generates up to 9"),
        (Call("ocr", FILE, query="model=b&max_tokens=10"), Job("b", (FILE,), max_new_tokens=10)),
        (Call("ocr", {}, JSON), "file is missing; give an image or a PDF as a data URL or in base64"),
    ],
)
def test_a_file_is_the_body_or_in_json(call: Call, expected: Job | str) -> None:
    answer = call(*PAGE, ended())
    if isinstance(expected, Job):
        assert (answer.status, answer.jobs) == (200, [expected])
    else:
        assert (answer.status, answer.content["error"]["message"], answer.jobs) == (422, expected, [])
        assert 'deepsynth_requests_total{endpoint="ocr",status="422"} 1.0' in answer.figures
        assert not any("request_seconds_count" in line for line in answer.figures)


# ---------------------------------------------------------------------- what goes wrong


@pytest.mark.parametrize(
    ("status", "kind", "again"),
    [
        (401, "authentication_error", None),
        (404, "not_found_error", None),
        (422, "invalid_request_error", None),
        (429, "rate_limit_error", "1"),
        (499, "invalid_request_error", None),
        (500, "server_error", None),
        (503, "server_error", "1"),
        (504, "server_error", None),
    ],
)
def test_an_error_has_its_kind_and_says_when_to_ask_again(status: int, kind: str, again: str | None) -> None:
    response = error_response(RequestError(status, "why"))
    assert response.status_code == status
    assert response.headers.get("retry-after") == again
    assert json.loads(bytes(response.body)) == {
        "error": {"message": "why", "type": kind, "param": None, "code": status}
    }


def test_a_model_that_is_not_there_is_named_in_short() -> None:
    answer = Call("chat", {**CHAT, "model": "x" * 150})(*PAGE, ended())
    assert answer.status == 404
    assert answer.content["error"]["message"] == f"there is no model '{'x' * 100}'; choose from a, b"


def test_who_is_one_too_many_is_turned_away_unread_and_who_leaves_is_counted() -> None:
    answer = Call("ocr", FILE, full=True)(*PAGE, ended())
    assert (answer.status, answer.jobs, answer.asked_for_body) == (429, [], 0)
    left = Call("ocr", FILE, leaves=True)(*PAGE)
    assert 'deepsynth_requests_total{endpoint="ocr",status="499"} 1.0' in left.figures
    slow = Call("ocr", FILE)(*PAGE, timeout_s=0.05)
    assert (slow.status, slow.under_way) == (504, 0)
    failed = Call("ocr", FILE)(Opened((0,)), Failed(413, "too many pixels"))
    assert (failed.status, failed.content["error"]["message"]) == (413, "too many pixels")


def test_the_models_are_listed() -> None:
    entry = {"object": "model", "created": 0, "owned_by": "deepsynth", "root": "base/of-both"}
    assert Call("list_models")().content == {"object": "list", "data": [{"id": "a", **entry}, {"id": "b", **entry}]}
    assert Call("show_metrics")().headers["content-type"].startswith("text/plain; version=0.0.4")
