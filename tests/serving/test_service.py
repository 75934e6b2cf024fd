"""A service in one process: what the official client gets, statuses, limits, and clients that leave."""

from __future__ import annotations

import base64
import io
import json
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest
from PIL import Image

from deepsynth.serving.models import ModelPool, ModelSettings, ServedModel
from tests.helpers.service import TEXT, LocalService, page, serving

if TYPE_CHECKING:
    import openai  # whose import takes a second that most processes of the tests need not spend

MODEL = ServedModel("tiny", None, "deepsynth/tiny", max_new_tokens=64)
LIMITS = {"max_bytes": 60_000, "max_pixels": 300_000, "max_pages": 2, "max_requests": 4, "body_timeout_s": 0.5}


@pytest.fixture(scope="module")
def pool() -> ModelPool:
    return ModelPool(ModelSettings((MODEL,), slots=3), "cpu")


@pytest.fixture(scope="module")
def service(pool: ModelPool) -> Iterator[LocalService]:
    with serving(pool, **LIMITS) as running:
        yield running


@pytest.fixture(scope="module")
def client(service: LocalService) -> openai.OpenAI:
    import openai

    return openai.OpenAI(base_url=f"{service.url}/v1", api_key="none", max_retries=0)


def data_url(content: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(content).decode()


def messages(*contents: bytes, prompt: str = "") -> Any:
    parts: list[Any] = [{"type": "image_url", "image_url": {"url": data_url(content)}} for content in contents]
    return [{"role": "user", "content": [*parts, *([{"type": "text", "text": prompt}] if prompt else [])]}]


def post(service: LocalService, path: str, body: bytes, **headers: str) -> tuple[int, Any]:
    request = urllib.request.Request(service.url + path, body, {k.replace("_", "-"): v for k, v in headers.items()})
    try:
        with urllib.request.urlopen(request, timeout=30) as response:
            return response.status, json.loads(response.read())
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())["error"]["message"]


def ask(service: LocalService, **fields: Any) -> tuple[int, Any]:
    return post(service, "/v1/ocr", json.dumps(fields).encode(), Content_Type="application/json")


def until(condition: Callable[[], bool], seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.01)


# ---------------------------------------------------------------------- answers


def test_the_official_client_gets_the_text_its_usage_and_why_it_ended(client: openai.OpenAI) -> None:
    whole = client.chat.completions.create(model="tiny", messages=messages(page()))
    assert whole.choices[0].message.content == TEXT
    assert whole.choices[0].finish_reason == "stop"
    assert whole.usage is not None
    assert whole.usage.total_tokens == whole.usage.prompt_tokens + whole.usage.completion_tokens
    cut = client.chat.completions.create(model="tiny", messages=messages(page()), max_tokens=3)
    assert cut.choices[0].finish_reason == "length"
    assert cut.usage is not None
    assert cut.usage.completion_tokens == 3
    assert [model.id for model in client.models.list()] == ["tiny"]


def test_a_stream_is_the_same_text_in_pieces(client: openai.OpenAI) -> None:
    chunks = list(
        client.chat.completions.create(
            model="tiny", messages=messages(page()), stream=True, stream_options={"include_usage": True}
        )
    )
    pieces = [chunk.choices[0].delta.content for chunk in chunks if chunk.choices]
    assert "".join(piece or "" for piece in pieces) == TEXT
    assert sum(map(bool, pieces)) > 1  # several tokens come in one piece where the model is faster than the reader
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens > len(pieces) - 5


def test_a_file_as_the_body_and_one_in_json_give_the_same_pages(service: LocalService) -> None:
    status, found = post(service, "/v1/ocr?format=layout", page())
    assert status == 200
    assert found["text"] == TEXT
    (one,) = found["pages"]
    assert (one["page"], one["stop"], one["width"], one["height"], one["regions"]) == (1, "eos", 256, 256, None)
    assert 0.5 < one["confidence"] <= 1.0
    assert found["usage"] == one["usage"]
    status, other = ask(service, file=base64.b64encode(page()).decode(), format="layout")
    assert (status, other) == (200, found)


def test_the_pages_of_a_pdf_come_in_order_and_only_those_that_are_asked_for(service: LocalService) -> None:
    stream, words = io.BytesIO(), ["first", "second", "third"]
    pages = [Image.open(io.BytesIO(page(word))) for word in words]
    pages[0].save(stream, "PDF", save_all=True, append_images=pages[1:])
    status, found = post(service, "/v1/ocr?pages=3,1&format=markdown", stream.getvalue())
    assert status == 200
    assert [one["page"] for one in found["pages"]] == [3, 1]
    assert found["text"].lower() == "third\n\nfirst"  # the PDF has them as JPEG
    assert post(service, "/v1/ocr", stream.getvalue())[0] == 413  # three pages, and two are allowed
    assert post(service, "/v1/ocr?pages=4", stream.getvalue()) == (
        422,
        "page 4 is asked for; the document has 3 page(s)",
    )


# ---------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("fields", "status", "says"),
    [
        ({"file": "http://127.0.0.1/page.png"}, 422, "is refused"),
        ({"file": "file:///etc/passwd"}, 422, "is refused"),
        ({"file": data_url(b"GIF89a broken")}, 422, "image"),
        ({"file": data_url(page()[:300])}, 422, "cannot be decoded"),
        ({"file": data_url(b"%PDF-1.7 broken")}, 422, "the PDF: cannot be opened"),
        ({"file": data_url(page(size=(1000, 1000)))}, 413, "pixels, more than 300,000"),
        ({"file": "no base64!"}, 422, "no base64"),
        ({"file": ""}, 422, "empty"),
        ({}, 422, "file is missing"),
        ({"file": "AA==", "pages": "0-2"}, 422, "pages is '0-2'"),
        ({"file": "AA==", "pages": "2-1"}, 422, "pages is '2-1'"),
        ({"file": "AA==", "model": "none"}, 404, "choose from tiny"),
        ({"file": "AA==", "max_tokens": 65}, 422, "up to 64"),
        ({"file": "AA==", "max_tokens": 0}, 422, "max_tokens"),
        ({"file": "AA==", "unknown": 1}, 422, "unknown"),
        ({"file": data_url(page()), "prompt": "<image> and <image>"}, 422, "<image> 2 times"),
    ],
)
def test_what_cannot_be_answered_has_a_status_and_a_reason(
    service: LocalService, fields: dict[str, Any], status: int, says: str
) -> None:
    found, message = ask(service, **fields)
    assert (found, says in message) == (status, True), message
    assert "/tmp" not in message


def test_a_chat_that_greedy_generation_cannot_follow_is_refused(client: openai.OpenAI) -> None:
    import openai

    for wrong in ({"temperature": 0.7}, {"n": 2}, {"stop": ["x"]}, {"messages": [{"role": "user", "content": "hi"}]}):
        with pytest.raises(openai.UnprocessableEntityError):
            client.chat.completions.create(**{"model": "tiny", "messages": messages(page()), **wrong})
    with pytest.raises(openai.NotFoundError, match="choose from tiny"):
        client.chat.completions.create(model="other", messages=messages(page()))
    with pytest.raises(openai.UnprocessableEntityError):  # before a stream begins, errors have a status too
        client.chat.completions.create(model="tiny", messages=messages(b"broken"), stream=True)


def test_bodies_that_are_no_json_too_long_or_too_slow(service: LocalService) -> None:
    assert post(service, "/v1/ocr", b"{", Content_Type="application/json")[0] == 400
    assert post(service, "/v1/ocr", b"")[0] == 422
    assert post(service, "/v1/ocr", bytes(60_001)) == (413, "the body is larger than 60,000 bytes")
    with socket.create_connection(("127.0.0.1", service.port)) as slow:
        slow.sendall(b"POST /v1/ocr HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nabc")
        assert slow.recv(100).startswith(b"HTTP/1.1 408")
    with socket.create_connection(("127.0.0.1", service.port)) as chunked:
        chunked.sendall(b"POST /v1/ocr HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        for _ in range(7):
            chunked.sendall(b"2710\r\n" + bytes(10_000) + b"\r\n")
        chunked.sendall(b"0\r\n\r\n")
        assert chunked.recv(100).startswith(b"HTTP/1.1 413")


# ---------------------------------------------------------------------- under load


def start_request(service: LocalService, stream: bool) -> socket.socket:
    fields = {"model": "tiny", "messages": messages(page()), "stream": stream}
    body = json.dumps(fields).encode()
    connection = socket.create_connection(("127.0.0.1", service.port))
    connection.sendall(
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        b"Content-Length: %d\r\n\r\n" % len(body)
    )
    connection.sendall(body)
    return connection


@pytest.mark.parametrize("stream", [False, True])
def test_who_leaves_is_forgotten_and_who_is_one_too_many_is_turned_away(service: LocalService, stream: bool) -> None:
    service.paused.set()
    try:
        left = [start_request(service, stream) for _ in range(4)]
        until(lambda: len(service.exchange) == 4)
        assert ask(service, file=data_url(page()))[0] == 429
        for connection in left:
            connection.close()
        until(lambda: len(service.exchange) == 0)
    finally:
        service.paused.clear()
    until(lambda: not service.worker.busy)
    assert ask(service, file=data_url(page()))[1]["text"] == TEXT  # nothing is left behind
    assert not service.worker.busy


def test_an_answer_that_takes_too_long_is_given_up(pool: ModelPool) -> None:
    with serving(pool, timeout_s=0.2) as slow:
        slow.paused.set()
        assert ask(slow, file=data_url(page())) == (504, "there was no answer within 0.2 s")
        slow.paused.clear()
        until(lambda: not slow.worker.busy)


def test_the_metrics_say_what_was_done(pool: ModelPool) -> None:
    with serving(pool) as fresh:
        assert ask(fresh, file=data_url(page()))[0] == 200
        assert ask(fresh)[0] == 422
        with urllib.request.urlopen(f"{fresh.url}/metrics") as response:
            lines = response.read().decode().splitlines()
        for line in (
            'deepsynth_requests_total{endpoint="ocr",status="200"} 1.0',
            'deepsynth_requests_total{endpoint="ocr",status="422"} 1.0',
            'deepsynth_pages_total{model="tiny"} 1.0',
            'deepsynth_texts_total{stop="eos"} 1.0',
            "deepsynth_requests_under_way 0.0",
        ):
            assert line in lines
