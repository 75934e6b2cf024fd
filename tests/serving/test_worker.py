"""The thread of the model: turns, limits of a text, who left, and memory that runs out; on the tiny model."""

from __future__ import annotations

import queue
import time
from collections import defaultdict
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from deepsynth.serving import worker as worker_module
from deepsynth.serving.jobs import Ended, Event, Failed, Job, Limits, Load, Opened, Prepared, Written
from deepsynth.serving.models import ModelPool, ModelSettings, ServedModel
from deepsynth.serving.preparation import Preparation
from deepsynth.serving.worker import Worker
from tests.helpers.service import TEXT, page

MODEL = ServedModel("tiny", None, "deepsynth/tiny", max_new_tokens=64)


@pytest.fixture(scope="module")
def pool() -> ModelPool:
    return ModelPool(ModelSettings((MODEL,), slots=2), "cpu")


class Running:
    """A worker whose events are kept."""

    def __init__(self, pool: ModelPool) -> None:
        self.sent: queue.Queue[tuple[int, list[tuple[str, Event]]]] = queue.Queue()
        self.worker = Worker(pool, Limits(), lambda front, events: self.sent.put((front, events)), threads=1)
        self.fronts: dict[str, int] = {}
        self.events: dict[str, list[Event]] = defaultdict(list)
        self.loads: list[Load] = []

    def until(self, done: Any, turn: bool = True) -> None:
        """Take turns, or wait, until something has come."""
        end = time.monotonic() + 60
        while not done():
            assert time.monotonic() < end, dict(self.events)
            if turn:
                self.worker.turn()
            else:
                time.sleep(0.005)
            while not self.sent.empty():
                front, events = self.sent.get()
                for uid, event in events:
                    if isinstance(event, Load):
                        self.loads.append(event)
                    else:
                        self.fronts[uid] = front
                        self.events[uid].append(event)

    def has_ended(self, *uids: str) -> bool:
        return all(isinstance((self.events[uid] or [None])[-1], Ended | Failed) for uid in uids)


@pytest.fixture
def running(pool: ModelPool) -> Iterator[Running]:
    found = Running(pool)
    yield found
    found.worker.close()


def test_each_request_gets_its_own_events_in_order(running: Running) -> None:
    jobs = {
        "whole": Job("tiny", (page(),)),
        "cut": Job("tiny", (page(),), max_new_tokens=3),
        "two": Job("tiny", (page(), page("second"))),
        "stream": Job("tiny", (page(),), stream=True),
    }
    for front, (uid, job) in enumerate(jobs.items()):
        running.worker.accept(uid, front, job)
    assert running.worker.busy
    running.until(lambda: running.has_ended("whole", "cut", "stream") and len(running.events["two"]) == 5)
    assert running.fronts == {uid: front for front, uid in enumerate(jobs)}
    opened, prepared, ended = running.events["whole"]
    assert opened == Opened((0,))
    assert isinstance(prepared, Prepared)
    assert (prepared.page, prepared.size) == (0, (256, 256))
    assert isinstance(ended, Ended)
    assert (ended.page, ended.text, ended.stop) == (0, TEXT, "eos")
    assert 0.5 < ended.confidence <= 1.0
    cut = running.events["cut"][-1]
    assert isinstance(cut, Ended)
    assert (cut.tokens, cut.stop) == (3, "length")
    texts = {event.page: event.text for event in running.events["two"] if isinstance(event, Ended)}
    assert running.events["two"][0] == Opened((0, 1))
    assert texts == {0: TEXT, 1: "second"}
    pieces = [event.text for event in running.events["stream"] if isinstance(event, Written)]
    assert "".join(pieces) == TEXT
    assert len(pieces) > 1
    assert not any(isinstance(event, Written) for uid in ("whole", "two") for event in running.events[uid])
    assert running.loads[-1] == Load(0, 0)
    assert max(load.rows for load in running.loads) > 0
    assert not running.worker.busy


@pytest.mark.parametrize(("passes", "at_least", "at_most"), [(0.0, 2, 3), (0.019, 4, 20), (1.0, 8, 64)])
def test_pieces_of_a_text_come_every_20_ms_and_the_first_at_once(
    passes: float, at_least: int, at_most: int, running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter(range(10_000))
    held = SimpleNamespace(monotonic=lambda: 5.0 + passes * next(clock))
    monkeypatch.setattr(worker_module, "time", held)
    running.worker.accept("one", 0, Job("tiny", (page(),), stream=True))
    running.until(lambda: running.has_ended("one"))
    pieces = [event.text for event in running.events["one"] if isinstance(event, Written)]
    assert "".join(pieces) == TEXT
    assert at_least <= len(pieces) <= at_most, pieces


def test_who_left_is_dropped_at_the_next_turn(running: Running, pool: ModelPool) -> None:
    for uid in ("stays", "leaves"):
        running.worker.accept(uid, 0, Job("tiny", (page(),), stream=True))
    running.until(lambda: all(len(running.events[uid]) == 2 for uid in ("stays", "leaves")), turn=False)
    running.until(lambda: len(pool.use("tiny")) == 2)
    running.worker.cancel("leaves")
    running.worker.cancel("nobody")
    running.worker.turn()
    assert len(pool.use("tiny")) == 1
    running.until(lambda: running.has_ended("stays"))
    assert not running.has_ended("leaves")
    assert not running.worker.busy


def test_a_prompt_without_room_for_a_text_is_refused(
    running: Running, pool: ModelPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    running.worker.accept("known", 0, Job("tiny", (page(),), max_new_tokens=1))
    running.until(lambda: running.has_ended("known"))
    prepared = running.events["known"][1]
    assert isinstance(prepared, Prepared)
    for room, tokens in ((0, None), (2, 2)):
        monkeypatch.setattr(pool, "token_budget", prepared.prompt_tokens + room)
        running.worker.accept(f"{room}", 0, Job("tiny", (page(),)))
        running.until(lambda room=room: running.has_ended(f"{room}"))
        last = running.events[f"{room}"][-1]
        if tokens is None:
            message = f"the prompt has {prepared.prompt_tokens} tokens and leaves no room for a text"
            assert last == Failed(413, message)
        else:
            assert isinstance(last, Ended)
            assert last.tokens == tokens


def test_memory_that_runs_out_fails_what_is_under_way_and_nothing_after_it(
    running: Running, pool: ModelPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoder = pool.use("tiny")
    running.worker.accept("one", 0, Job("tiny", (page(),)))

    def step() -> Any:
        raise torch.OutOfMemoryError("no memory")

    with monkeypatch.context() as full:
        full.setattr(decoder, "step", step)
        running.until(lambda: running.has_ended("one"))
    failed = running.events["one"][-1]
    assert failed == Failed(503, "the GPU has no memory left for this; ask again, or for less at a time")
    assert not running.worker.busy
    assert pool.use("tiny") is not decoder
    running.worker.accept("two", 0, Job("tiny", (page(),)))
    running.until(lambda: running.has_ended("two"))
    assert isinstance(running.events["two"][-1], Ended)


def test_a_bug_while_a_page_is_prepared_is_an_internal_error(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any) -> Any:
        raise KeyError("a bug")

    with monkeypatch.context() as broken:
        broken.setattr(Preparation, "__call__", fail)
        running.worker.accept("one", 3, Job("tiny", (page(),)))
        running.until(lambda: running.has_ended("one"))
    assert running.events["one"] == [Failed(500, "internal error")]
    running.worker.accept("two", 0, Job("tiny", (b"no image",)))
    running.until(lambda: running.has_ended("two"))
    failed = running.events["two"][-1]
    assert isinstance(failed, Failed)
    assert failed.status == 422
