"""What the package assumes of huggingface_hub beyond its documentation, and why nothing documented serves."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def http_errors() -> tuple[type[Exception], ...]:
    """Return the base classes of all errors that huggingface_hub's HTTP library raises.

    Which library that is depends on the version of huggingface_hub, which hands its errors on without a class of its
    own. ``HfHubHTTPError`` derives from the library's base class, so it is found without naming the library.
    """
    from huggingface_hub.errors import HfHubHTTPError

    own = ("huggingface_hub", "builtins")
    foreign = [c for c in HfHubHTTPError.__mro__ if c.__module__.split(".")[0] not in own]
    return tuple(c for c in foreign if issubclass(c, Exception))


def install_client(timeout_s: float, on_request: Callable[[Any], None], on_response: Callable[[Any], None]) -> None:
    """Give this process's client of huggingface_hub a time-out and hooks that may change requests and responses.

    ``set_client_factory`` is public, but a new client lacks the hooks of the default one (request ids, offline mode),
    and no option adds to that. So the hooks and the class are taken from a default client.

    Args:
        timeout_s: longest silence while connecting, sending or receiving.
        on_request: called with each request after the default hooks; ``request.extensions["timeout"]`` holds the
            seconds by phase.
        on_response: called with each response after the default hooks; huggingface_hub's own retries read
            ``Retry-After`` and ``ratelimit`` from the headers afterwards.
    """
    from huggingface_hub import set_client_factory
    from huggingface_hub.utils import get_session

    template = get_session()

    def factory() -> Any:
        own = template.event_hooks
        hooks = {"request": [*own["request"], on_request], "response": [*own["response"], on_response]}
        return type(template)(event_hooks=hooks, follow_redirects=True, timeout=timeout_s)

    set_client_factory(factory)
