"""The bodies of requests: read within limits, checked, and turned into jobs."""

from __future__ import annotations

import asyncio
import base64
import binascii
import re
from typing import Any, Literal

from fastapi import Request
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from deepsynth.serving.jobs import Job, Limits, RequestError

Format = Literal["text", "markdown", "layout"]

_DATA_URL = re.compile(r"data:[\w.+/-]*(;[\w=.+-]+)*?;base64,", re.ASCII)
_RANGE = re.compile(r"(\d{1,5})(?:-(\d{1,5}))?", re.ASCII)


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class TextPart(_Strict):
    """A piece of a prompt."""

    type: Literal["text"]
    text: str


class ImageUrl(_Strict):
    """An image in a data URL; ``detail`` is OpenAI's, and only ``auto`` says nothing."""

    url: str
    detail: Literal["auto"] = "auto"


class ImagePart(_Strict):
    """A page."""

    type: Literal["image_url"]
    image_url: ImageUrl


class Message(_Strict):
    """The one message of a chat, of the user: the models know no other."""

    role: Literal["user"]
    content: str | list[TextPart | ImagePart]


class StreamOptions(_Strict):
    """Whether the last chunk of a stream says how many tokens there were."""

    include_usage: bool = False


class ChatRequest(_Strict):
    """OpenAI's chat completion, as far as greedy generation for one page has a meaning for it."""

    model: str
    messages: list[Message] = Field(min_length=1, max_length=1)
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    stream: bool = False
    stream_options: StreamOptions | None = None
    temperature: float | None = Field(None, ge=0, le=0)
    top_p: float | None = Field(None, ge=1, le=1)
    n: int | None = Field(None, ge=1, le=1)
    presence_penalty: float | None = Field(None, ge=0, le=0)
    frequency_penalty: float | None = Field(None, ge=0, le=0)
    seed: int | None = None  # what is greedy has one outcome
    user: str | None = None
    metadata: dict[str, str] | None = None

    def job(self) -> Job:
        """Return what the model is to do.

        Raises:
            RequestError: for URLs that hold no image.
        """
        content = self.messages[0].content
        parts: list[TextPart | ImagePart] = (
            [TextPart(type="text", text=content)] if isinstance(content, str) else content
        )
        files = tuple(from_data_url(part.image_url.url) for part in parts if isinstance(part, ImagePart))
        if not files:
            raise RequestError(422, "messages holds no image_url; give the page as a data URL")
        prompt = "\n".join(part.text for part in parts if isinstance(part, TextPart)).strip()
        most = self.max_completion_tokens or self.max_tokens
        return Job(self.model, files, together=True, prompt=prompt or None, max_new_tokens=most, stream=self.stream)


class OcrRequest(_Strict):
    """The JSON body of ``POST /v1/ocr``; a file as the body takes the others from the query."""

    file: str | None = None
    model: str | None = None
    prompt: str | None = None
    pages: str | None = Field(None, max_length=200)
    format: Format = "text"
    max_tokens: int | None = Field(None, ge=1)

    def job(self, default_model: str, content: bytes | None) -> Job:
        """Return what the model is to do.

        Args:
            default_model: where the request names none.
            content: the file, when it is the body.

        Raises:
            RequestError: for a file or pages that cannot be.
        """
        if content is None:
            if self.file is None:
                raise RequestError(422, "file is missing; give an image or a PDF as a data URL or in base64")
            content = from_data_url(self.file) if ":" in self.file[:20] else from_base64(self.file)
        pages = None if self.pages is None else page_numbers(self.pages)
        return Job(
            self.model or default_model, (content,), prompt=self.prompt, pages=pages, max_new_tokens=self.max_tokens
        )


async def read_body(request: Request, limits: Limits) -> bytes:
    """Return the body of a request.

    LitServe's own limit of bytes knows no time, and lets a client that still sends never see the answer.

    Args:
        request: whose body was not read yet.
        limits: of bytes and seconds.

    Raises:
        RequestError: 413 when it is too long, 408 when it takes too long, 411 for a length that is no number.
    """
    length = request.headers.get("content-length", "0")
    if not length.isdecimal():
        raise RequestError(411, "the Content-Length is no number")
    too_long = int(length) > limits.max_bytes
    chunks: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(limits.body_timeout_s):
            async for chunk in request.stream():
                size += len(chunk)
                if too_long := too_long or size > limits.max_bytes:
                    chunks.clear()
                    if size > 4 * limits.max_bytes:
                        break  # a client that sends a little too much gets to the end, and reads the answer
                else:
                    chunks.append(chunk)
    except TimeoutError:
        raise RequestError(408, f"the body did not arrive within {limits.body_timeout_s:g} s") from None
    if too_long:
        raise RequestError(413, f"the body is larger than {limits.max_bytes:,} bytes")
    return b"".join(chunks)


def parse(model: type[Any], body: bytes | dict[str, Any]) -> Any:
    """Return a body as a model of pydantic's.

    Raises:
        RequestError: 400 when it is no JSON, 422 when it has fields or values that are not known.
    """
    try:
        return model.model_validate(body) if isinstance(body, dict) else model.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        if first["type"] == "json_invalid":
            raise RequestError(400, f"the body is no JSON: {first['msg']}") from None
        where = ".".join(map(str, first["loc"]))
        raise RequestError(422, f"{where}: {first['msg']}") from None


def from_data_url(url: str) -> bytes:
    """Return the content of a data URL; no other URL is followed.

    Raises:
        RequestError: for another URL, or one that is broken.
    """
    if not (found := _DATA_URL.match(url)):
        shown = url[:40] + ("…" if len(url) > 40 else "")
        raise RequestError(422, f"the URL {shown!r} is refused; give the file itself: data:image/png;base64,…")
    return from_base64(url[found.end() :])


def from_base64(text: str) -> bytes:
    """Return what base64 stands for.

    Raises:
        RequestError: when it is none.
    """
    try:
        content = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise RequestError(422, f"the file is no base64: {error}") from None
    if not content:
        raise RequestError(422, "the file is empty")
    return content


def page_numbers(pages: str) -> tuple[int, ...]:
    """Return the numbers, from 0, of pages such as ``1-3,7``.

    Raises:
        RequestError: for anything else.
    """
    chosen: dict[int, None] = {}
    for part in pages.split(","):
        found = _RANGE.fullmatch(part.strip())
        first, last = (int(found[1]), int(found[2] or found[1])) if found else (0, 0)
        if not 1 <= first <= last:
            raise RequestError(422, f"pages is {pages[:60]!r}; it must be numbers from 1 and ranges, such as 1-3,7")
        chosen |= dict.fromkeys(range(first - 1, last))
    return tuple(chosen)
