"""Calls to the Hub: time-outs that huggingface_hub lacks, and errors as one line with the decision to retry or not."""

from __future__ import annotations

import json
import re
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Literal

from deepsynth.compat.huggingface_hub import http_errors, install_client
from deepsynth.errors import UserError
from deepsynth.hub.privacy import redact

#: Longest silence of the Hub within one request before it counts as lost, in seconds.
REQUEST_TIMEOUT_S = 60.0

#: Longest wait between the client's own retries of one request, in seconds.
_LONGEST_INNER_WAIT_S = 5.0

#: Status of the last reply; see :func:`classify`.
last_statuses: deque[int] = deque(maxlen=1)

#: Client errors that may pass: time-out, conflict, a commit in between, too early, rate limit.
RETRIED_STATUSES = frozenset({408, 409, 412, 425, 429})

#: Longest wait that the Hub is granted, in seconds.
MAX_RETRY_AFTER_S = 300.0

#: Header that keeps the wait that the Hub asked for.
ASKED_WAIT = "X-Asked-Retry-After"


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of one push attempt.

    Attributes:
        status: ``"delivered"``; ``"retry"`` when a later attempt may succeed; ``"refused"`` when only a person can fix
            it.
        message: one line for the user, without tokens and signed URLs.
        commit: id of the commit that holds the snapshot, if it was delivered.
        retry_after_s: seconds that the Hub asks to wait, capped.
    """

    status: Literal["delivered", "retry", "refused"]
    message: str = ""
    commit: str | None = None
    retry_after_s: float | None = None


class HubUnreachableError(UserError):
    """The Hub does not answer, or not yet."""


def client_errors() -> tuple[type[Exception], ...]:
    """Return the exceptions that calls to the Hub may raise, whichever HTTP library huggingface_hub uses.

    ``RuntimeError`` is how huggingface_hub and hf_xet wrap failed uploads; ``ValueError`` comes from replies that are
    not JSON.
    """
    from huggingface_hub.errors import HfHubHTTPError

    return (*http_errors(), HfHubHTTPError, OSError, RuntimeError, ValueError)


def classify(error: BaseException, last_status: int | None = None) -> Outcome:
    """Describe in one line why an attempt failed, and decide whether to try again.

    Args:
        error: exception of the client.
        last_status: HTTP status of the last reply, for errors that hide it (a reply that should have been JSON). With
            200 it was somebody else's page, such as a proxy's, and passes.
    """
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled

    for cause in _chain(error):
        if isinstance(cause, OfflineModeIsEnabled):
            return Outcome("refused", "HF_HUB_OFFLINE is set: nothing is sent")
        if isinstance(cause, HfHubHTTPError):
            status = int(cause.response.status_code)
            return _of_status(status, _first_line(cause), cause.response.headers)
        if isinstance(cause, json.JSONDecodeError):
            line = "the reply is not JSON"
            return _of_status(last_status, line, {}) if last_status and last_status >= 400 else Outcome("retry", line)
        if isinstance(cause, HFValidationError):
            return Outcome("refused", _first_line(cause))
        if isinstance(cause, ValueError) and "metadata in README.md" in str(cause):
            return Outcome("refused", " ".join(redact(str(cause)).split()))
    in_text = re.search(r"\b(?:status[^\d]{0,20}|HTTP )(4\d\d|5\d\d)\b", str(error))  # hf_xet knows no status attribute
    if in_text:
        return _of_status(int(in_text[1]), _first_line(error), {})
    return Outcome("retry", _first_line(error))


def _of_status(status: int, line: str, headers: Any) -> Outcome:
    advice = {401: "log in with `hf auth login` or set HF_TOKEN", 403: "the token may not write there"}.get(status)
    message = f"HTTP {status}: {line}" + (f" ({advice})" if advice else "")
    if 400 <= status < 500 and status not in RETRIED_STATUSES:
        return Outcome("refused", message)
    return Outcome("retry", message, retry_after_s=asked_wait_s(headers))


def asked_wait_s(headers: Any) -> float | None:
    """Return how many seconds the Hub asks to wait, capped; ``None`` when it does not say.

    The Hub says it in two ways: ``Retry-After`` (seconds or a date, RFC 9110) and ``ratelimit: "api";r=0;t=55``.
    """
    value = str(headers.get(ASKED_WAIT) or headers.get("Retry-After") or "").strip()
    limited = re.search(r"\bt\s*=\s*(\d+)", str(headers.get("ratelimit") or ""))
    if re.fullmatch(r"\d+(\.\d+)?", value):
        seconds = float(value)
    elif value:
        try:
            seconds = (parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds()
        except (ValueError, TypeError):
            return None
    elif limited:
        seconds = float(limited[1])
    else:
        return None
    return min(max(seconds, 0.0), MAX_RETRY_AFTER_S)


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and its causes, outermost first; errors that were merely being handled meanwhile are no causes."""
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__


def _first_line(error: BaseException) -> str:
    said = getattr(error, "server_message", None)
    if said:
        return redact(" ".join(str(said).split()))[:300]
    lines = [line.strip() for line in redact(str(error)).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else 'no message'}"[:300]


def use_timeouts(timeout_s: float = REQUEST_TIMEOUT_S) -> None:
    """Give every request of huggingface_hub in this process a time-out, and cap the waits that the Hub asks for.

    The client of huggingface_hub is shared by the whole process. Call this only in a process that exists for a push:
    in a user's process it would change their other calls too.

    Args:
        timeout_s: longest silence while connecting, sending or receiving.
    """

    def limit(request: Any) -> None:
        # Some calls ask for no time-out at all, whatever the client's own is.
        asked = request.extensions.get("timeout") or {}
        phases = ("connect", "read", "write", "pool")
        request.extensions["timeout"] = {phase: min(asked.get(phase) or timeout_s, timeout_s) for phase in phases}

    def note(response: Any) -> None:
        last_statuses.append(response.status_code)
        if response.status_code < 400:
            return
        # In its own retries huggingface_hub sleeps as long as the Hub asks, where no time-out reaches it. Those sleeps
        # are kept short; the worker, which can be interrupted, waits for the rest.
        asked = asked_wait_s(response.headers)
        if asked is not None:
            response.headers[ASKED_WAIT] = str(asked)
            response.headers["Retry-After"] = str(round(min(asked, _LONGEST_INNER_WAIT_S)))
            response.headers.pop("ratelimit", None)

    install_client(timeout_s, limit, note)
