"""Bodies, limits, addresses and the queue of a service, without a model."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from deepsynth.errors import UserError
from deepsynth.io.images import highest_max_pixels
from deepsynth.serving import exchange as exchange_module
from deepsynth.serving.address import Address
from deepsynth.serving.exchange import EVENTS, Exchange, next_event
from deepsynth.serving.jobs import Ended, Failed, Job, Limits, Load, RequestError
from deepsynth.serving.metrics import Metrics
from deepsynth.serving.requests import (
    ChatRequest,
    OcrRequest,
    from_base64,
    from_data_url,
    page_numbers,
    parse,
    read_body,
)


def refused(call: Callable[[], Any]) -> tuple[int, str]:
    with pytest.raises(RequestError) as caught:
        call()
    return caught.value.status, caught.value.message


# ---------------------------------------------------------------------- pages and files


@pytest.mark.parametrize(
    ("pages", "expected"),
    [
        ("1", (0,)),
        ("1-3,7", (0, 1, 2, 6)),
        (" 3 , 1 ", (2, 0)),
        ("2-2", (1,)),
        ("3,1-4,3", (2, 0, 1, 3)),
        ("99999", (99998,)),
    ],
)
def test_pages_are_numbers_and_ranges_each_once(pages: str, expected: tuple[int, ...]) -> None:
    assert page_numbers(pages) == expected


@pytest.mark.parametrize("pages", ["", "0", "0-2", "3-2", "1-", "-1", "a", "1,,2", "100000", "1-2-3", "1.5", "²"])
def test_what_is_no_page_is_refused(pages: str) -> None:
    assert refused(lambda: page_numbers(pages)) == (
        422,
        f"pages is {pages!r}; it must be numbers from 1 and ranges, such as 1-3,7",
    )


def test_a_long_list_of_pages_is_shown_cut() -> None:
    assert refused(lambda: page_numbers("x" * 99))[1].startswith(f"pages is '{'x' * 60}'; ")


FILE = b"\x00\xffcontent"
BASE64 = base64.b64encode(FILE).decode()


@pytest.mark.parametrize(
    "kind", ["image/png", "", "application/pdf", "image/svg+xml", "image/png;charset=utf-8", "a/b;c=d;e=f"]
)
def test_data_urls_hold_their_file(kind: str) -> None:
    assert from_data_url(f"data:{kind};base64,{BASE64}") == FILE


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("http://x/y.png", "'http://x/y.png'"),
        ("file:///etc/passwd", "'file:///etc/passwd'"),
        ("data:image/png,abc", "'data:image/png,abc'"),
        (f"x data:image/png;base64,{BASE64}", "'x data:image/png;base64,"),
        ("http://" + "x" * 33, "'http://" + "x" * 33 + "'"),
        ("http://" + "x" * 34, "'http://" + "x" * 33 + "…'"),
    ],
)
def test_no_other_url_is_followed(url: str, shown: str) -> None:
    status, message = refused(lambda: from_data_url(url))
    assert status == 422
    assert message.startswith(f"the URL {shown}")


@pytest.mark.parametrize(
    ("text", "says"), [("", "the file is empty"), ("a", "the file is no base64"), ("AA==\n!", "the file is no base64")]
)
def test_what_is_no_file_is_refused(text: str, says: str) -> None:
    status, message = refused(lambda: from_base64(text))
    assert (status, message[: len(says)]) == (422, says)


# ---------------------------------------------------------------------- requests


def chat(*content: Any, **fields: Any) -> dict[str, Any]:
    return {"model": "m", "messages": [{"role": "user", "content": list(content)}], **fields}


IMAGE = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{BASE64}"}}


def words(text: str) -> dict[str, str]:
    return {"type": "text", "text": text}


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (chat(IMAGE), Job("m", (FILE,), together=True)),
        (chat(IMAGE, words(" a "), IMAGE, words("b")), Job("m", (FILE, FILE), together=True, prompt="a \nb")),
        (chat(IMAGE, words("  ")), Job("m", (FILE,), together=True)),
        (chat(IMAGE, max_tokens=3), Job("m", (FILE,), together=True, max_new_tokens=3)),
        (chat(IMAGE, max_tokens=3, max_completion_tokens=4), Job("m", (FILE,), together=True, max_new_tokens=4)),
        (chat(IMAGE, stream=True), Job("m", (FILE,), together=True, stream=True)),
        (
            chat(IMAGE, temperature=0, top_p=1, n=1, presence_penalty=0, frequency_penalty=0, seed=3, user="u"),
            Job("m", (FILE,), together=True),
        ),
    ],
)
def test_a_chat_is_one_text_of_all_its_pages(body: dict[str, Any], expected: Job) -> None:
    assert parse(ChatRequest, body).job() == expected


@pytest.mark.parametrize(
    ("changes", "where"),
    [
        ({"temperature": 0.1}, "temperature: "),
        ({"temperature": -0.1}, "temperature: "),
        ({"top_p": 0.9}, "top_p: "),
        ({"top_p": 1.1}, "top_p: "),
        ({"n": 2}, "n: "),
        ({"n": 0}, "n: "),
        ({"presence_penalty": 1}, "presence_penalty: "),
        ({"presence_penalty": -1}, "presence_penalty: "),
        ({"frequency_penalty": 1}, "frequency_penalty: "),
        ({"frequency_penalty": -1}, "frequency_penalty: "),
        ({"max_tokens": 0}, "max_tokens: "),
        ({"max_completion_tokens": 0}, "max_completion_tokens: "),
        ({"messages": []}, "messages: "),
        ({"messages": chat(IMAGE)["messages"] * 2}, "messages: "),
        ({"messages": [{"role": "system", "content": "x"}]}, "messages.0.role: "),
        ({"tools": []}, "tools: "),
        ({"stream_options": {"other": True}}, "stream_options.other: "),
    ],
)
def test_what_greedy_generation_cannot_follow_is_refused_with_its_name(changes: dict[str, Any], where: str) -> None:
    status, message = refused(lambda: parse(ChatRequest, chat(IMAGE) | changes))
    assert status == 422
    assert message.startswith(where)


def test_a_chat_without_a_page_is_refused() -> None:
    says = (422, "messages holds no image_url; give the page as a data URL")
    assert refused(lambda: parse(ChatRequest, chat(words("hello"))).job()) == says
    body = {"model": "m", "messages": [{"role": "user", "content": "hello"}]}
    assert refused(lambda: parse(ChatRequest, body).job()) == says
    assert refused(lambda: parse(ChatRequest, b"{"))[0] == 400
    assert refused(lambda: parse(ChatRequest, b"{"))[1].startswith("the body is no JSON: ")
    assert parse(OcrRequest, b'{"pages": "2"}').pages == "2"


@pytest.mark.parametrize(
    ("fields", "content", "expected"),
    [
        ({"file": BASE64}, None, Job("default", (FILE,))),
        ({"file": f"data:image/png;base64,{BASE64}"}, None, Job("default", (FILE,))),
        ({"file": "ignored"}, b"the body", Job("default", (b"the body",))),
        (
            {"file": BASE64, "model": "m", "prompt": "p", "pages": "2", "max_tokens": 3, "format": "layout"},
            None,
            Job("m", (FILE,), prompt="p", pages=(1,), max_new_tokens=3),
        ),
    ],
)
def test_ocr_is_a_text_for_each_page(fields: dict[str, Any], content: bytes | None, expected: Job) -> None:
    assert parse(OcrRequest, fields).job("default", content) == expected


def test_ocr_without_a_file_is_refused() -> None:
    says = (422, "file is missing; give an image or a PDF as a data URL or in base64")
    assert refused(lambda: OcrRequest().job("m", None)) == says
    assert refused(lambda: parse(OcrRequest, {"pages": "1" * 201}))[1].startswith("pages: ")
    assert refused(lambda: parse(OcrRequest, {"format": "docx"}))[1].startswith("format: ")
    assert OcrRequest().format == "text"


# ---------------------------------------------------------------------- bodies


async def pieces(sizes: list[int], taken: list[int], wait_s: float) -> AsyncIterator[bytes]:
    for size in sizes:
        await asyncio.sleep(wait_s)
        taken.append(size)
        yield b"x" * size


def read(sizes: list[int], length: str | None = None, wait_s: float = 0.0) -> tuple[Any, int]:
    """Return the length of a body of these pieces, or why it is refused; and how many pieces were taken."""
    taken: list[int] = []
    headers = {} if length is None else {"content-length": length}
    request: Any = SimpleNamespace(headers=headers, stream=lambda: pieces(sizes, taken, wait_s))
    try:
        body = asyncio.run(read_body(request, Limits(max_bytes=10, body_timeout_s=0.2)))
    except RequestError as error:
        return (error.status, error.message), len(taken)
    return len(body), len(taken)


LARGE = (413, "the body is larger than 10 bytes")


@pytest.mark.parametrize(
    ("sizes", "length", "expected"),
    [
        ([4, 6], None, (10, 2)),
        ([4, 6], "10", (10, 2)),
        ([], None, (0, 0)),
        ([4, 7], None, (LARGE, 2)),
        ([4, 7], "0", (LARGE, 2)),
        ([3], "11", (LARGE, 1)),
        ([10] * 9, None, (LARGE, 5)),  # it is not read to its end when that is far away
        ([20, 20, 1, 9], None, (LARGE, 3)),
        ([3], "three", ((411, "the Content-Length is no number"), 0)),
        ([3], "-3", ((411, "the Content-Length is no number"), 0)),
    ],
)
def test_bodies_are_read_within_their_limit(sizes: list[int], length: str | None, expected: Any) -> None:
    assert read(sizes, length) == expected


def test_a_body_that_takes_too_long_is_refused() -> None:
    found, taken = read([1] * 9, wait_s=0.15)
    assert found == (408, "the body did not arrive within 0.2 s")
    assert taken < 3


# ---------------------------------------------------------------------- settings


@pytest.mark.parametrize("name", ["max_bytes", "max_pixels", "max_pages", "max_requests", "max_new_tokens"])
def test_counts_begin_with_one(name: str) -> None:
    assert getattr(Limits(**{name: 1}), name) == 1
    with pytest.raises(UserError, match=f"^--{name} is 0; it must be at least 1"):
        Limits(**{name: 0})


@pytest.mark.parametrize("name", ["timeout_s", "body_timeout_s"])
def test_times_are_above_nothing(name: str) -> None:
    assert getattr(Limits(**{name: 0.001}), name) == 0.001
    for value in (0.0, -1.0, float("nan")):
        with pytest.raises(UserError, match=f"^--{name} is {value}; it must be above 0 seconds"):
            Limits(**{name: value})


def test_pages_have_no_more_pixels_than_can_be_decoded() -> None:
    assert Limits(max_pixels=highest_max_pixels()).max_pixels == highest_max_pixels()
    with pytest.raises(UserError, match=f"^--max_pixels is .*; it must be at most {highest_max_pixels()}"):
        Limits(max_pixels=highest_max_pixels() + 1)


@pytest.mark.parametrize(("port", "taken"), [(1023, False), (1024, True), (65535, True), (65536, False), (0, False)])
def test_ports_are_those_that_anyone_may_take(port: int, taken: bool) -> None:
    if taken:
        assert Address(port=port).port == port
    else:
        with pytest.raises(UserError, match=f"^--port is {port}; it must be from 1024 to 65535"):
            Address(port=port)


def test_the_key_is_what_its_file_holds(tmp_path: Path) -> None:
    file = tmp_path / "key"
    assert Address().api_key() is None
    file.write_text(" sesame\n")
    assert Address(api_key_file=file).api_key() == "sesame"
    for content, says in ((b" \n", "which is empty; write the key into it"), (b"\xff", "which cannot be read: ")):
        file.write_bytes(content)
        with pytest.raises(UserError, match=f"^--api_key_file is {file}, {says}"):
            Address(api_key_file=file).api_key()
    with pytest.raises(UserError, match="which cannot be read"):
        Address(api_key_file=tmp_path / "none").api_key()


# ---------------------------------------------------------------------- the queue


def in_loop(test: Callable[[], Awaitable[None]]) -> None:
    async def limited() -> None:
        async with asyncio.timeout(20):
            await test()

    asyncio.run(limited())


class Queue:
    def __init__(self) -> None:
        self.items: list[tuple[int, str, Job | None]] = []

    def put(self, item: Any) -> None:
        front, uid, _, job = item
        self.items.append((front, uid, job))


async def quietly(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0.005)


def test_events_reach_those_who_wait_for_them_and_who_leaves_is_given_up() -> None:
    async def test() -> None:
        requests, buffer = Queue(), dict[str, Any]()
        exchange = Exchange(requests, buffer, 7, max_requests=2)
        one, two = Job("m", (b"abc",)), Job("n", (b"de", b"f"))

        def arrive(*events: Any) -> None:
            buffer[EVENTS].response_queue.append((list(events), "OK"))
            buffer[EVENTS].event.set()

        async with exchange.send(one) as first:
            async with exchange.send(two) as second:
                assert len(exchange) == 2
                uids = {job: uid for _, uid, job in requests.items}
                assert {front for front, _, _ in requests.items} == {7}
                assert len(set(uids.values())) == 2
                with pytest.raises(RequestError, match="2 requests are worked on or wait; ask") as full:
                    exchange.check_room()
                assert full.value.status == 429
                ended = Ended(0, "text", 3, "eos", 0.5)
                arrive((uids[two], ended), (uids[one], Failed(413, "too much")), ("", Load(4, 5)), ("nobody", ended))
                assert await next_event(second) == ended
                with pytest.raises(RequestError, match="too much") as failed:
                    await next_event(first)
                assert failed.value.status == 413
                assert exchange.load == Load(4, 5)
            await quietly(lambda: (7, uids[two], None) in requests.items)
            assert len(exchange) == 1
            assert (7, uids[one], None) not in requests.items
        await quietly(lambda: (7, uids[one], None) in requests.items)
        assert len(exchange) == 0

    in_loop(test)


def test_files_that_wait_are_bounded_by_their_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchange_module, "MAX_BYTES_WAITING", 10)

    async def test() -> None:
        exchange = Exchange(Queue(), {}, 0, max_requests=9)
        async with exchange.send(Job("m", (b"x" * 4, b"x" * 5))):
            exchange.check_room()
            async with exchange.send(Job("m", (b"x",))):
                with pytest.raises(RequestError, match="2 requests are"):
                    exchange.check_room()
            exchange.check_room()

    in_loop(test)


def test_the_metrics_say_what_is_under_way() -> None:
    class Busy:
        load = Load(3, 4)

        def __len__(self) -> int:
            return 5

    metrics = Metrics(Busy())  # type: ignore[arg-type]
    metrics.requests.labels("ocr", "200").inc()
    metrics.tokens.labels("m").inc(7)
    metrics.seconds.labels("ocr").observe(0.3)
    lines = metrics.text().decode().splitlines()
    for line in (
        "deepsynth_requests_under_way 5.0",
        "deepsynth_rows 3.0",
        "deepsynth_pages_waiting 4.0",
        'deepsynth_requests_total{endpoint="ocr",status="200"} 1.0',
        'deepsynth_generated_tokens_total{model="m"} 7.0',
        'deepsynth_request_seconds_bucket{endpoint="ocr",le="0.25"} 0.0',
        'deepsynth_request_seconds_bucket{endpoint="ocr",le="0.5"} 1.0',
    ):
        assert line in lines, line
