"""Prometheus' figures of a service."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from deepsynth.serving.exchange import Exchange

_SECONDS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)


class Metrics:
    """Counts requests, pages and tokens, and times answers.

    Args:
        exchange: knows how much is under way.
    """

    def __init__(self, exchange: Exchange) -> None:
        self.registry = CollectorRegistry()
        labels = ["endpoint", "status"]
        own = self.registry
        self.requests = Counter("deepsynth_requests", "Requests by their status.", labels, registry=own)
        self.seconds = Histogram(
            "deepsynth_request_seconds", "Seconds of answered requests.", ["endpoint"], registry=own, buckets=_SECONDS
        )
        self.first_token_seconds = Histogram(
            "deepsynth_first_token_seconds", "Seconds to the first text of a stream.", registry=own, buckets=_SECONDS
        )
        self.pages = Counter("deepsynth_pages", "Pages whose text is complete, by model.", ["model"], registry=own)
        self.tokens = Counter("deepsynth_generated_tokens", "Tokens of complete texts.", ["model"], registry=own)
        self.stops = Counter("deepsynth_texts", "Texts by why they ended: eos, length, loop.", ["stop"], registry=own)
        for name, what, value in (
            ("deepsynth_requests_under_way", "Requests that are worked on or wait.", lambda: len(exchange)),
            ("deepsynth_rows", "Texts that are being written.", lambda: exchange.load.rows),
            ("deepsynth_pages_waiting", "Pages that wait for a row.", lambda: exchange.load.waiting),
        ):
            Gauge(name, what, registry=own).set_function(value)

    def text(self) -> bytes:
        """Return all figures in Prometheus' text format."""
        return generate_latest(self.registry)
