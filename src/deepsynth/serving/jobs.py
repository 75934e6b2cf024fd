"""What the endpoints and the model's process say to one another; all of it is pickled."""

from __future__ import annotations

from dataclasses import dataclass

from deepsynth.errors import UserError
from deepsynth.generation.texts import Stop
from deepsynth.io.images import MAX_PIXELS, highest_max_pixels


@dataclass(frozen=True)
class Limits:
    """What a request may ask for; whatever is beyond it gets a status code that says so.

    Attributes:
        max_bytes: of a request's body.
        max_pixels: of a page.
        max_pages: of a request.
        max_new_tokens: of a page's text; by default that of each model, see ``model.generation``.
        max_requests: that are worked on or wait; the next one is turned away.
        timeout_s: seconds from a whole request to its whole response.
        body_timeout_s: seconds that a body may take to arrive.
    """

    max_bytes: int = 20_000_000
    max_pixels: int = MAX_PIXELS
    max_pages: int = 32
    max_new_tokens: int | None = None
    max_requests: int = 256
    timeout_s: float = 300.0
    body_timeout_s: float = 30.0

    def __post_init__(self) -> None:
        """Refuse limits that nothing could keep.

        Raises:
            UserError: with the option.
        """
        for name in ("max_bytes", "max_pixels", "max_pages", "max_requests"):
            if getattr(self, name) < 1:
                raise UserError(f"--{name} is {getattr(self, name)}; it must be at least 1")
        if self.max_pixels > highest_max_pixels():
            raise UserError(f"--max_pixels is {self.max_pixels}; it must be at most {highest_max_pixels()}")
        if self.max_new_tokens is not None and self.max_new_tokens < 1:
            raise UserError(f"--max_new_tokens is {self.max_new_tokens}; it must be at least 1")
        for name in ("timeout_s", "body_timeout_s"):
            if not getattr(self, name) > 0:
                raise UserError(f"--{name} is {getattr(self, name)}; it must be above 0 seconds")


@dataclass(frozen=True, slots=True)
class Job:
    """What a request asks the model for.

    Attributes:
        model: name of the adapter, or of the base model.
        files: content of images, or of one PDF or TIFF of several pages.
        together: whether all pages are one sample with one text; else each page has its own.
        prompt: with or without ``<image>``; ``None`` for the one that the adapter was trained with.
        pages: numbers of the pages that are wanted, from 0; ``None`` for all.
        max_new_tokens: of each text; ``None`` for the model's limit.
        stream: whether texts are sent while they are written.
    """

    model: str
    files: tuple[bytes, ...]
    together: bool = False
    prompt: str | None = None
    pages: tuple[int, ...] | None = None
    max_new_tokens: int | None = None
    stream: bool = False


@dataclass(frozen=True, slots=True)
class Opened:
    """The files are open.

    Attributes:
        pages: numbers of the pages whose texts will come, from 0.
    """

    pages: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Prepared:
    """A page is ready for the model.

    Attributes:
        page: its number, from 0.
        prompt_tokens: tokens of its prompt, those of the image among them.
        size: width and height, pixels.
    """

    page: int
    prompt_tokens: int
    size: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Written:
    """A piece of the text of a page, which continues the pieces before."""

    page: int
    text: str


@dataclass(frozen=True, slots=True)
class Ended:
    """The text of a page is complete.

    Attributes:
        page: its number, from 0.
        text: the whole of it.
        tokens: that were generated.
        stop: why it ended.
        confidence: geometric mean of the probabilities of the tokens, 0 to 1.
    """

    page: int
    text: str
    tokens: int
    stop: Stop
    confidence: float


@dataclass(frozen=True, slots=True)
class Failed:
    """The request cannot be answered.

    Attributes:
        status: HTTP's code.
        message: for the client.
    """

    status: int
    message: str


@dataclass(frozen=True, slots=True)
class Load:
    """What the model's process has to do, for the metrics.

    Attributes:
        rows: texts that are being written.
        waiting: pages that wait for a row.
    """

    rows: int
    waiting: int


Event = Opened | Prepared | Written | Ended | Failed | Load


class RequestError(Exception):
    """A request that is refused.

    Args:
        status: HTTP's code.
        message: for the client.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message

    def __reduce__(self) -> tuple[type[RequestError], tuple[int, str]]:
        """Return what makes the same error in another process."""
        return type(self), (self.status, self.message)
