"""Which failures of the Hub pass, how they are told, and how long a request may take."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from types import SimpleNamespace
from typing import Any

import pytest
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled

from deepsynth.hub import client
from deepsynth.hub.client import Outcome, asked_wait_s, classify, client_errors, use_timeouts
from tests.helpers.local_hub import TOKEN


def http_error(status: int, said: str | None = None, headers: dict[str, str] | None = None) -> HfHubHTTPError:
    response = SimpleNamespace(status_code=status, headers=headers or {}, request=None)
    error = HfHubHTTPError(f"status {status}\nmore", response=response)  # type: ignore[arg-type]
    error.server_message = said
    return error


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"Retry-After": "7"}, 7.0),
        ({"Retry-After": " 7.5 "}, 7.5),
        ({"Retry-After": "86400"}, 300.0),
        ({"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}, 0.0),
        ({"Retry-After": "soon"}, None),
        ({"ratelimit": '"api";r=0;t=55'}, 55.0),
        ({"ratelimit": '"api";r=0; t = 55'}, 55.0),
        ({"ratelimit": '"api";r=0;at=55'}, None),
        ({"ratelimit": '"api";t=55', "Retry-After": "7"}, 7.0),
        ({"ratelimit": '"api";t=55', "Retry-After": "soon"}, None),
        ({client.ASKED_WAIT: "90", "Retry-After": "5"}, 90.0),
    ],
)
def test_the_hubs_requests_to_wait(headers: dict[str, str], seconds: float | None) -> None:
    assert asked_wait_s(headers) == seconds


def test_the_hub_may_name_the_time_to_come_back() -> None:
    date = format_datetime(datetime.now(UTC) + timedelta(seconds=100), usegmt=True)
    assert asked_wait_s({"Retry-After": date}) == pytest.approx(100, abs=30)


@pytest.mark.parametrize("status", [408, 409, 412, 425, 429, 500, 502, 503, 504, 599])
def test_what_may_pass_is_tried_again_after_the_wait_that_the_hub_asks_for(status: int) -> None:
    assert classify(http_error(status, "said", {"Retry-After": "9"})) == Outcome(
        "retry", f"HTTP {status}: said", None, 9
    )


@pytest.mark.parametrize("status", [400, 401, 402, 403, 404, 410, 413, 422, 499])
def test_what_only_a_person_can_fix_is_refused_with_advice(status: int) -> None:
    advice = {401: " (log in with `hf auth login` or set HF_TOKEN)", 403: " (the token may not write there)"}
    assert classify(http_error(status, "said", {"Retry-After": "9"})) == Outcome(
        "refused", f"HTTP {status}: said{advice.get(status, '')}"
    )


@pytest.mark.parametrize(
    ("error", "last_status", "status", "message"),
    [
        (OfflineModeIsEnabled("x"), None, "refused", "HF_HUB_OFFLINE is set: nothing is sent"),
        (HFValidationError("bad name\nmore"), None, "refused", "HFValidationError: bad name"),
        (ValueError('"license" in metadata in README.md\nis wrong'), None, "refused", None),
        (ValueError("README.md"), None, "retry", "ValueError: README.md"),
        (RuntimeError("metadata in README.md"), None, "retry", "RuntimeError: metadata in README.md"),
        (RuntimeError("DNS failure"), None, "retry", "RuntimeError: DNS failure"),
        (RuntimeError(" \n\n  second line  \nthird"), None, "retry", "RuntimeError: second line"),
        (RuntimeError(), None, "retry", "RuntimeError: no message"),
        (RuntimeError(f"for {TOKEN}"), None, "retry", "RuntimeError: for <token>"),
        (RuntimeError("x" * 999), None, "retry", f"RuntimeError: {'x' * 286}"),
        (OSError("HTTP status client error (403 Forbidden)"), None, "refused", None),
        (OSError("HTTP status server error (503 Service Unavailable)"), None, "retry", None),
        (OSError("HTTP 429"), None, "retry", "HTTP 429: OSError: HTTP 429"),
        (OSError("HTTP 404"), None, "refused", "HTTP 404: OSError: HTTP 404"),
        (OSError("chunk 404 was lost"), None, "retry", "OSError: chunk 404 was lost"),
        (json.JSONDecodeError("x", "", 0), None, "retry", "the reply is not JSON"),
        (json.JSONDecodeError("x", "", 0), 200, "retry", "the reply is not JSON"),
        (json.JSONDecodeError("x", "", 0), 399, "retry", "the reply is not JSON"),
        (json.JSONDecodeError("x", "", 0), 400, "refused", "HTTP 400: the reply is not JSON"),
        (json.JSONDecodeError("x", "", 0), 503, "retry", "HTTP 503: the reply is not JSON"),
    ],
)
def test_errors_without_a_status(error: Exception, last_status: int | None, status: str, message: str | None) -> None:
    found = classify(error, last_status)
    assert found.status == status
    assert message is None or found.message == message
    assert "\n" not in found.message
    assert found.retry_after_s is None


def test_an_error_is_what_caused_it_and_not_what_was_being_handled_meanwhile() -> None:
    caused, meanwhile = RuntimeError("upload failed"), RuntimeError("upload failed")
    caused.__cause__ = OSError("wrapped")
    caused.__cause__.__cause__ = http_error(403, "no")
    meanwhile.__context__ = http_error(403, "no")
    assert classify(caused) == Outcome("refused", "HTTP 403: no (the token may not write there)")
    assert classify(meanwhile) == Outcome("retry", "RuntimeError: upload failed")


def test_what_the_hub_says_is_one_short_line_without_tokens() -> None:
    assert classify(http_error(400, f"bad\n  token {TOKEN}")).message == "HTTP 400: bad token <token>"
    assert classify(http_error(400, "y" * 999)).message == f"HTTP 400: {'y' * 300}"
    assert classify(http_error(500)).message == "HTTP 500: HfHubHTTPError: status 500"


@pytest.mark.parametrize("error", [http_error(500), OSError(), RuntimeError(), ValueError(), ConnectionError()])
def test_errors_of_calls_to_the_hub_are_caught(error: Exception) -> None:
    assert isinstance(error, client_errors())
    assert not isinstance(KeyError(), client_errors())


@pytest.fixture
def hooks(monkeypatch: pytest.MonkeyPatch) -> tuple[Callable[[Any], None], Callable[[Any], None]]:
    """What is called with each request and each response once requests are limited to 60 s."""
    given: list[Any] = []
    monkeypatch.setattr(client, "install_client", lambda *arguments: given.extend(arguments))
    use_timeouts(60.0)
    timeout_s, on_request, on_response = given
    assert timeout_s == 60.0
    return on_request, on_response


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        (None, {"connect": 60.0, "read": 60.0, "write": 60.0, "pool": 60.0}),
        ({"connect": None, "read": 10.0, "write": 600.0}, {"connect": 60.0, "read": 10.0, "write": 60.0, "pool": 60.0}),
    ],
)
def test_no_request_may_wait_longer_than_the_limit(hooks: Any, asked: Any, expected: dict[str, float]) -> None:
    request = SimpleNamespace(extensions={} if asked is None else {"timeout": asked})
    hooks[0](request)
    assert request.extensions["timeout"] == expected


@pytest.mark.parametrize(
    ("status", "headers", "inner", "outer"),
    [
        (429, {"Retry-After": "90"}, "5", 90.0),
        (429, {"Retry-After": "3"}, "3", 3.0),
        (503, {"ratelimit": '"api";r=0;t=55'}, "5", 55.0),
        (400, {"Retry-After": "90"}, "5", 90.0),
        (399, {"Retry-After": "90"}, "90", 90.0),
        (200, {"ratelimit": '"api";r=9;t=55'}, None, 55.0),
        (503, {}, None, None),
    ],
)
def test_the_client_sleeps_shortly_and_the_worker_waits_for_the_rest(
    hooks: Any, status: int, headers: dict[str, str], inner: str | None, outer: float | None
) -> None:
    response = SimpleNamespace(status_code=status, headers=dict(headers))
    hooks[1](response)
    assert client.last_statuses[-1] == status
    assert response.headers.get("Retry-After") == inner
    assert asked_wait_s(response.headers) == outer
    assert ("ratelimit" in response.headers) == ("ratelimit" in headers and status < 400)
