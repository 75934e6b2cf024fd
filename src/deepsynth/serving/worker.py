"""The model at work: pages are prepared in threads, and one thread generates the texts of all requests together."""

from __future__ import annotations

import logging
import math
import queue
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Protocol

import torch

from deepsynth.generation import Generation
from deepsynth.serving.jobs import Ended, Event, Failed, Job, Limits, Load, Opened, Prepared, RequestError, Written
from deepsynth.serving.models import PAGES_AT_ONCE, ModelPool
from deepsynth.serving.preparation import Preparation, PreparedPage
from deepsynth.serving.text_stream import TextStream
from deepsynth.types import Sample

log = logging.getLogger(__name__)

#: Steps of a model before the next one has its turn, where several have work.
_STEPS_OF_A_TURN = 4
#: Seconds between the pieces of a text that is streamed, after its first, and for each text that is being written: a
#: piece for every token of many texts would keep the thread that generates waiting, and the process that answers busy.
_BETWEEN_PIECES_S, _FOR_EACH_TEXT_S = 0.02, 0.001
#: Seconds that an idle worker waits for pages before it looks whether it is to end.
_IDLE_S = 0.5

#: Sends events to the front that their requests came from.
Send = Callable[[int, list[tuple[str, Event]]], None]


class Prepare(Protocol):
    """Makes samples of the files of requests; see :class:`~deepsynth.serving.preparation.Preparation`."""

    def __call__(self, job: Job, prompt: str | None, index: int) -> PreparedPage:
        """Return one of the samples of a job."""

    def close(self) -> None:
        """Let go of what it needed."""


@dataclass(eq=False)
class _Task:
    """A request, from its arrival to its end."""

    uid: str
    front: int
    job: Job
    ended: bool = False
    pages_left: int = 0


@dataclass(eq=False)
class _Text:
    """A page's text, from its preparation to its end."""

    task: _Task
    page: int
    sample: Sample
    limit: int
    stream: TextStream | None = None
    seen: int = 0


@dataclass
class _Queue:
    """What a model has to do."""

    ready: deque[_Text] = field(default_factory=deque)
    written: dict[int, _Text] = field(default_factory=dict)
    next_pieces_s: float = 0.0


class Worker:
    """Generates the texts of requests, which come and leave at any time.

    :meth:`accept` and :meth:`cancel` may be called from any thread, :meth:`turn` from the one that owns the model.

    Args:
        pool: the model with its adapters.
        limits: of a request.
        send: is called from one thread of the worker's own.
        threads: that prepare pages, or wait for their preparation.
        prepare: makes the samples; by default in these threads.
    """

    def __init__(
        self, pool: ModelPool, limits: Limits, send: Send, threads: int = 4, prepare: Prepare | None = None
    ) -> None:
        self._pool, self._send = pool, send
        self._prepare_page = prepare or Preparation(pool.processor, limits)
        self._tasks: dict[str, _Task] = {}
        self._queues: dict[str, _Queue] = defaultdict(_Queue)
        self._prepared: queue.Queue[_Text] = queue.Queue(maxsize=2 * pool.settings.slots)
        self._outbox: queue.SimpleQueue[list[tuple[_Task, Event | _News]] | None] = queue.SimpleQueue()
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="pages")
        self._sender = threading.Thread(target=self._send_all, name="texts", daemon=True)
        self._sender.start()

    # ------------------------------------------------------------------ any thread

    def accept(self, uid: str, front: int, job: Job) -> None:
        """Begin with a request."""
        task = self._tasks[uid] = _Task(uid, front, job)
        self._threads.submit(self._prepare, task)

    def cancel(self, uid: str) -> None:
        """Give up a request; one that has ended, or that is not known, needs nothing."""
        if task := self._tasks.pop(uid, None):
            task.ended = True

    @property
    def busy(self) -> bool:
        """Whether there is a request that has not ended, or a text that nobody waits for and that is still there."""
        return bool(self._tasks) or any(own.ready or own.written for own in list(self._queues.values()))

    def close(self) -> None:
        """Stop the threads, after the last :meth:`turn`; what is under way is given up."""
        for task in list(self._tasks.values()):
            self.cancel(task.uid)
        self._threads.shutdown(wait=True, cancel_futures=True)
        self._prepare_page.close()
        self._outbox.put(None)
        self._sender.join()
        for name in self._queues:
            self._pool.forget(name)

    def _end(self, task: _Task) -> None:
        task.ended = True
        self._tasks.pop(task.uid, None)

    def _fail(self, task: _Task, status: int, message: str) -> None:
        if not task.ended:
            self._end(task)
            self._outbox.put([(task, Failed(status, message))])

    def _prepare(self, task: _Task) -> None:
        """Open the files of a request and put its pages into the queue, as fast as the model takes them."""
        if task.ended:
            return
        try:
            self._prepare_pages(task)
        except RequestError as error:
            self._fail(task, error.status, error.message)
        except Exception:
            log.exception("a request could not be prepared, for a reason that is no mistake of its sender")
            self._fail(task, 500, "internal error")
            raise

    def _prepare_pages(self, task: _Task) -> None:
        model, job = self._pool.models[task.job.model], task.job
        index = 0
        pages: tuple[int, ...] = (0,)
        while index < len(pages) and not task.ended:
            found = self._prepare_page(job, job.prompt or model.prompt, index)
            if not index:
                pages = found.pages
                task.pages_left = len(pages)
                self._outbox.put([(task, Opened(pages))])
            page, sample = pages[index], found.sample
            room = self._pool.token_budget - sample.prompt_length
            if room < 1:
                raise RequestError(413, f"the prompt has {sample.prompt_length} tokens and leaves no room for a text")
            limit = min(job.max_new_tokens or model.max_new_tokens, room)
            text = _Text(task, page, sample, limit, TextStream(self._pool.tokenizer) if job.stream else None)
            self._outbox.put([(task, Prepared(page, sample.prompt_length, sample.sizes[0]))])
            while not task.ended:
                try:
                    self._prepared.put(text, timeout=_IDLE_S)
                    break
                except queue.Full:
                    continue
            index += 1

    # ------------------------------------------------------------------ the thread of the model

    def turn(self) -> None:
        """Take pages that are ready, drop those whose clients left, and write the next tokens of each text."""
        self._take()
        at_work = [name for name, own in self._queues.items() if own.ready or own.written]
        for name in at_work:
            for _ in range(_STEPS_OF_A_TURN if len(at_work) > 1 else 1):
                try:
                    self._step(name, self._queues[name])
                except torch.OutOfMemoryError as error:
                    self._give_up(name, error)

    def _take(self) -> None:
        waiting = sum(len(own.ready) for own in self._queues.values())
        idle = not waiting and not any(own.written for own in self._queues.values())
        while waiting < self._pool.settings.slots:
            try:
                text = self._prepared.get(timeout=_IDLE_S) if idle else self._prepared.get_nowait()
            except queue.Empty:
                return
            idle = False
            self._queues[text.task.job.model].ready.append(text)
            waiting += 1

    def _step(self, name: str, own: _Queue) -> None:
        decoder = self._pool.use(name)
        given_up = {number for number, text in own.written.items() if text.task.ended}  # looked at once: it may change
        decoder.cancel(given_up)
        for number in given_up:
            del own.written[number]
        own.ready = deque(text for text in own.ready if not text.task.ended)
        room = min(2 * decoder.slots - len(decoder), PAGES_AT_ONCE, len(own.ready))
        if room > 0:
            texts = [own.ready.popleft() for _ in range(room)]
            numbers = self._pool.submit(name, [text.sample for text in texts], [text.limit for text in texts])
            own.written |= dict(zip(numbers, texts, strict=True))
            for text in texts:
                text.sample.images.clear()
        ended = decoder.step()
        news: list[tuple[_Task, Event | _News]] = []
        now = time.monotonic()
        due = now >= own.next_pieces_s
        if due:
            own.next_pieces_s = now + max(_BETWEEN_PIECES_S, _FOR_EACH_TEXT_S * len(own.written))
        for number, ids in decoder.unfinished():
            text = own.written[number]
            if text.stream is not None and len(ids) > text.seen and (due or not text.seen):
                text.seen = len(ids)
                news.append((text.task, _News(text, ids=list(ids))))
        for number, found in ended:
            text = own.written.pop(number)
            text.task.pages_left -= 1
            if not text.task.pages_left:
                self._end(text.task)
            news.append((text.task, _News(text, generation=found)))
        if news:
            self._outbox.put(news)

    def _give_up(self, name: str, error: torch.OutOfMemoryError) -> None:
        """Fail all that a model was writing; its decoder is not used again."""
        log.error("out of memory with %d texts of %s: %s", len(self._queues[name].written), name, error)
        own = self._queues.pop(name)
        for text in (*own.written.values(), *own.ready):
            self._fail(text.task, 503, "the GPU has no memory left for this; ask again, or for less at a time")
        self._pool.forget(name)

    # ------------------------------------------------------------------ the thread of the texts

    def _send_all(self) -> None:
        """Decode the tokens and send the texts, so that the model does not wait for either."""
        while (batch := self._outbox.get()) is not None:
            by_front: dict[int, list[tuple[str, Event]]] = defaultdict(list)
            for task, what in batch:
                for event in what.events() if isinstance(what, _News) else [what]:
                    by_front[task.front].append((task.uid, event))
            load = Load(
                sum(len(own.written) for own in list(self._queues.values())),
                self._prepared.qsize() + sum(len(own.ready) for own in list(self._queues.values())),
            )
            for front, events in by_front.items():
                self._send(front, [*events, ("", load)])


@dataclass(frozen=True, slots=True)
class _News:
    """What there is of a text: more tokens, or its end."""

    text: _Text
    ids: Sequence[int] = ()
    generation: Generation | None = None

    def events(self) -> list[Event]:
        """Return what the client is told."""
        text, found = self.text, self.generation
        if found is None:
            assert text.stream is not None
            return [Written(text.page, piece)] if (piece := text.stream.add(self.ids)) else []
        whole: list[Event] = []
        if text.stream is not None and (rest := text.stream.rest(found.text)):
            whole.append(Written(text.page, rest))
        confidence = round(math.exp(found.mean_logprob), 6)
        return [*whole, Ended(text.page, found.text, found.tokens, found.stop, confidence)]
