"""The endpoints' side of the queues between them and the model: a request goes out, its events come in."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Protocol
from uuid import uuid4

from deepsynth.serving.jobs import Event, Failed, Job, Load, RequestError

#: Bytes of files that are worked on or wait, at most; beyond it a request is turned away.
MAX_BYTES_WAITING = 2**30
#: The entry of LitServe's buffer that all events come through: one message a step, however many texts there are.
EVENTS = "events"


class RequestQueue(Protocol):
    """The queue to the model's process."""

    def put(self, item: Any) -> None:
        """Append an item."""


class Exchange:
    """Sends requests to the model and hands their events to those who wait for them; lives in one event loop.

    Args:
        requests: queue to the model's process.
        buffer: LitServe's, by the ids of requests.
        front: number of this process among LitServe's.
        max_requests: that are worked on or wait.
    """

    def __init__(self, requests: RequestQueue, buffer: dict[str, Any], front: int, max_requests: int) -> None:
        from litserve.utils import ResponseBufferItem

        self._requests, self._front, self._max = requests, front, max_requests
        self._arrived = ResponseBufferItem(event=asyncio.Event(), response_queue=deque())
        buffer[EVENTS] = self._arrived
        self._waiting: dict[str, asyncio.Queue[Event]] = {}
        self._bytes = 0
        self.load = Load(0, 0)
        self._reader = asyncio.get_running_loop().create_task(self._read(), name="deepsynth-events")

    def __len__(self) -> int:
        """Return the number of requests that are worked on or wait."""
        return len(self._waiting)

    def check_room(self) -> None:
        """Turn a request away before its body is read.

        Raises:
            RequestError: 429 when enough others wait.
        """
        if len(self._waiting) >= self._max or self._bytes >= MAX_BYTES_WAITING:
            raise RequestError(429, f"{len(self._waiting)} requests are worked on or wait; ask again later")

    @asynccontextmanager
    async def send(self, job: Job) -> AsyncIterator[asyncio.Queue[Event]]:
        """Send a request, and give it up when the block is left before its end.

        Args:
            job: of the request.

        Yields:
            The queue of its events.

        Raises:
            RequestError: 429 when enough others wait.
        """
        self.check_room()
        uid, size = uuid4().hex, sum(map(len, job.files))
        events = self._waiting[uid] = asyncio.Queue()
        self._bytes += size
        # A thread, as the queue is another process's; not awaited alone, so that a client who leaves stops nothing.
        put = asyncio.create_task(asyncio.to_thread(self._put, uid, job))
        try:
            await asyncio.shield(put)
            yield events
        finally:
            del self._waiting[uid]
            self._bytes -= size
            put.add_done_callback(lambda _: self._put(uid, None))

    def _put(self, uid: str, job: Job | None) -> None:
        """Send a request, or that nobody waits for it any more; in LitServe's form."""
        self._requests.put((self._front, uid, time.monotonic(), job))

    async def _read(self) -> None:
        assert self._arrived.response_queue is not None
        while True:
            await self._arrived.event.wait()
            self._arrived.event.clear()
            while self._arrived.response_queue:
                events, _ = self._arrived.response_queue.popleft()
                for uid, event in events:
                    if isinstance(event, Load):
                        self.load = event
                    elif waiting := self._waiting.get(uid):
                        waiting.put_nowait(event)


async def next_event(events: asyncio.Queue[Event]) -> Event:
    """Return the next event of a request.

    Raises:
        RequestError: when it has failed.
    """
    event = await events.get()
    if isinstance(event, Failed):
        raise RequestError(event.status, event.message)
    return event
