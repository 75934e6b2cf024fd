"""What ``compat.huggingface_hub`` assumes of huggingface_hub holds."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest

from deepsynth.compat.huggingface_hub import http_errors, install_client


@pytest.fixture
def address(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A server that answers every request with 404 and the header that the test looks for; /moved is elsewhere."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path == "/moved":
                self.send_response(307)
                self.send_header("Location", "/here")
            else:
                self.send_response(404)
            self.send_header("X-Request", self.headers.get("X-From-Hook", ""))
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *args: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture(autouse=True)
def restore_client(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    from huggingface_hub import constants, set_client_factory
    from huggingface_hub.utils import _http

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    before = _http._GLOBAL_CLIENT_FACTORY
    yield
    set_client_factory(before)


def test_every_error_of_the_http_library_is_one_of_these() -> None:
    from huggingface_hub.utils import get_session

    assert http_errors()
    with pytest.raises(http_errors()):
        get_session().get("http://127.0.0.1:9/", timeout=1.0)  # nobody listens there


def test_the_hooks_see_requests_with_their_time_outs_and_may_change_both_ways(address: str) -> None:
    from huggingface_hub.utils import get_session

    timeouts: list[Any] = []

    def on_request(request: Any) -> None:
        timeouts.append(dict(request.extensions["timeout"]))
        request.headers["X-From-Hook"] = "hello"

    def on_response(response: Any) -> None:
        response.headers["X-Response"] = "changed"

    own = get_session().event_hooks
    install_client(7.0, on_request, on_response)
    response = get_session().get(address)
    assert timeouts == [{"connect": 7.0, "read": 7.0, "write": 7.0, "pool": 7.0}]
    assert response.headers["X-Request"] == "hello"
    assert response.headers["X-Response"] == "changed"
    assert {name: hooks[:-1] for name, hooks in get_session().event_hooks.items()} == own


def test_errors_carry_the_response_with_its_status_and_changed_headers(address: str) -> None:
    from huggingface_hub.errors import HfHubHTTPError
    from huggingface_hub.utils import get_session, hf_raise_for_status

    install_client(7.0, lambda request: None, lambda response: response.headers.update({"Retry-After": "3"}))
    with pytest.raises(HfHubHTTPError) as caught:
        hf_raise_for_status(get_session().get(address))
    assert caught.value.response.status_code == 404
    assert caught.value.response.headers["Retry-After"] == "3"


def test_what_has_moved_is_followed_and_the_hooks_see_both_requests(address: str) -> None:
    from huggingface_hub.utils import get_session

    paths: list[str] = []
    install_client(7.0, lambda request: paths.append(request.url.path), lambda response: None)
    assert get_session().get(f"{address}/moved").status_code == 404
    assert paths == ["/moved", "/here"]


def test_no_class_of_python_itself_is_one_of_these() -> None:
    assert not {Exception, OSError, ValueError, BaseException, object} & {*http_errors()}
    assert not any(kind.__module__.startswith(("huggingface_hub", "builtins")) for kind in http_errors())
