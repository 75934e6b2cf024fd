"""Time-outs for huggingface_hub, whose shared HTTP client has none of its own."""

from __future__ import annotations

from typing import Any

from deepsynth.hub.outcome import ASKED_WAIT, asked_wait_s

#: Longest silence of the Hub within one request before it counts as lost, in seconds.
REQUEST_TIMEOUT_S = 60.0

#: Longest wait between the client's own retries of one request, in seconds.
_LONGEST_INNER_WAIT_S = 5.0

#: Statuses of the last failed replies, newest last; see `classify`.
failed_statuses: list[int] = []


def use_timeouts(timeout_s: float = REQUEST_TIMEOUT_S) -> None:
    """Give every request of huggingface_hub in this process a time-out, and cap the waits that the Hub asks for.

    The client of huggingface_hub is shared by the whole process. Call this only in a process that exists for a push:
    in a user's process it would change their other calls too.

    Args:
        timeout_s: longest silence while connecting, sending or receiving.
    """
    from huggingface_hub import set_client_factory
    from huggingface_hub.utils import get_session

    template = get_session()

    def note(response: Any) -> None:
        if response.status_code < 400:
            return
        failed_statuses.append(response.status_code)
        # huggingface_hub sleeps as long as it is told, in its own retries, where no time-out reaches it. Those are kept
        # short; the worker, which can be interrupted, does the long waiting.
        asked = asked_wait_s(response.headers)
        if asked is not None:
            response.headers[ASKED_WAIT] = str(asked)
            response.headers["Retry-After"] = str(round(min(asked, _LONGEST_INNER_WAIT_S)))
            response.headers.pop("ratelimit", None)

    def limit(request: Any) -> None:
        # Some calls ask for no time-out at all, whatever the client's own is.
        asked = request.extensions.get("timeout") or {}
        phases = ("connect", "read", "write", "pool")
        request.extensions["timeout"] = {phase: min(asked.get(phase) or timeout_s, timeout_s) for phase in phases}

    def factory() -> Any:
        own = template.event_hooks
        hooks = {"request": [*own["request"], limit], "response": [*own["response"], note]}
        return type(template)(event_hooks=hooks, follow_redirects=True, timeout=timeout_s)

    set_client_factory(factory)
