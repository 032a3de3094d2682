"""Publishing: messages gathered into few records, and their acknowledgements counted.

A message is sent at once, or, under load, when nothing was sent for FLUSH_S: what comes in that time travels
in one record per topic, signed, verified and stored once. Load is what we publish and what we hear others
publish, `Pace`: up to 250 messages a second all leave at once, 500 are some 40 records. What leaves at once
leaves from the call that publishes it; what waits for anything is the task's, and all behind it, in order.

How long messages stay for late joiners is the publisher's word, as every record's ttl is, and with it the
memory that the tail takes everywhere. All publishers that are active share TAIL_BYTES. What stays for long
may take half of a share, and stays for less time the more of it is taken, down to TTL_S_MIN; the other half
is for what stays no longer than that. So a flood goes on through the second half, whatever it left behind in
the first, and who has taken a whole share waits for seconds and not for what stays longest.

A publisher also waits for its own links (`Line`): no more than LINE_BYTES of its messages wait there, and
then its programs wait, in the call that publishes. A link that takes nothing any more is not waited for.
"""

from __future__ import annotations

import heapq
import logging
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any, Protocol

import trio

from mesh.agent.author import Statement
from mesh.agent.subscribers import Subscribers
from mesh.core.record import Kind, Record
from mesh.core.topics import BATCH_MAX, HEARD_WEIGHT, Pace, TopicEvent, batch_value, topic_path
from mesh.errors import MeshError, TimedOut, UsageError
from mesh.observe.counters import Counters
from mesh.wire import codec

log = logging.getLogger(__name__)

FLUSH_S = 0.025
PAYLOAD_BYTES_MAX = 60 << 10
BATCH_BYTES_MAX = 60 << 10
OUTBOX_BYTES_MAX = 1 << 20
TAIL_BYTES = 16 << 20
TTL_S_MIN = 5.0
LINE_BYTES = 128 << 10
LINE_PAUSE_S = 0.01
LINE_MAX = 4096
# What a stored record takes beside its body: objects, indexes, signature.
RECORD_BYTES = 1024
EVENT_BYTES = 24


class LiveAuthor(Protocol):
    """The part of the author that messages need."""

    def say_live(self, statements: Sequence[Statement]) -> list[Record]: ...


class Batch:
    """Messages of one topic that travel in one record.

    Attributes:
        sent: set once it is written, or `error` says why not.
        done: set when every subscriber's agent has acknowledged it.
    """

    def __init__(self, topic: str) -> None:
        self.topic = topic
        self.events: list[TopicEvent] = []
        self.bytes = 0
        self.sent = trio.Event()
        self.done = trio.Event()
        self.error: MeshError | None = None
        self.expected: frozenset[bytes] = frozenset()
        self.missing: set[bytes] = set()

    @property
    def wants_ack(self) -> bool:
        return any(event.qos for event in self.events)


class Tail:
    """What our own messages take of everybody's memory.

    Args:
        replay_s: the longest that messages stay.
        publishers: how many nodes publish at present.
    """

    def __init__(self, replay_s: Callable[[], float], publishers: Callable[[], int]) -> None:
        self._replay_s = replay_s
        self._publishers = publishers
        self._kept: list[tuple[float, int, bool]] = []
        self._bytes = self._long_bytes = 0

    def spend(self, size: int, ttl_s: float, now: float) -> None:
        """A record of this size was written, to stay for `ttl_s`."""
        long = ttl_s > TTL_S_MIN
        heapq.heappush(self._kept, (now + ttl_s, size + RECORD_BYTES, long))
        self._bytes += size + RECORD_BYTES
        self._long_bytes += long * (size + RECORD_BYTES)

    def ttl_s(self, now: float) -> float:
        """How long what is written now may stay: all the time while a quarter of our share is free for it."""
        replay_s = self._replay_s()
        self._taken(now)
        free = 1 - 2 * self._long_bytes / self._share()
        return min(max(2 * free * replay_s, TTL_S_MIN), replay_s)

    def wait_s(self, now: float) -> float:
        """How long to wait before the next write: until some of a full share is free again."""
        if self._taken(now) < self._share():
            return 0.0
        return self._kept[0][0] - now

    def _share(self) -> float:
        return TAIL_BYTES / max(self._publishers(), 1)

    def _taken(self, now: float) -> int:
        while self._kept and self._kept[0][0] <= now:
            _, size, long = heapq.heappop(self._kept)
            self._bytes -= size
            self._long_bytes -= long * size
        return self._bytes


class Line:
    """What of our own messages our links have not taken yet.

    Args:
        taken: up to which stamp the slowest link has taken what we said in the live scope; None: all have.
    """

    def __init__(self, taken: Callable[[], int | None]) -> None:
        self._taken = taken
        self._said: deque[tuple[int, int]] = deque(maxlen=LINE_MAX)

    def said(self, hlc: int, size: int) -> None:
        """A record of ours was written."""
        self._said.append((hlc, size))

    def full(self) -> bool:
        """Whether more than LINE_BYTES wait."""
        taken = self._taken()
        while self._said and (taken is None or self._said[0][0] <= taken):
            self._said.popleft()
        return sum(size for _, size in self._said) >= LINE_BYTES


class Publisher:
    """Sends messages and waits for acknowledgements.

    Args:
        me: our aid.
        now_ms: mesh time; the first message's number comes from it, so that numbers grow over restarts.
    """

    def __init__(
        self,
        me: bytes,
        author: LiveAuthor,
        subscribers: Subscribers,
        tail: Tail,
        counters: Counters,
        now_ms: Callable[[], int],
        line: Line,
    ) -> None:
        self._me = me
        self._line = line
        self._author = author
        self._subscribers = subscribers
        self._tail = tail
        self._counters = counters
        self._number = now_ms() << 16
        self._pending: dict[str, list[Batch]] = {}
        self._pending_bytes = 0
        self._woken = trio.Event()
        self._room = trio.Event()
        self._flushed_at = float("-inf")
        self._flushing = False
        self._pace = Pace()
        self._unacknowledged: dict[int, Batch] = {}
        subscribers.on_ack = self._acknowledged

    async def publish(
        self, topic: str, payload: Any, *, qos: int, ident: str | None, timeout_s: float
    ) -> tuple[int, Batch]:
        """Queue a message; for qos 1 and 2, wait until it is acknowledged or time is up.

        Returns:
            its number, and the batch it travels in, whose `missing` did not acknowledge in time.

        Raises:
            UsageError: the payload is too large or cannot be carried.
            TimedOut: it could not even be sent, because too much is being published.
        """
        size = _size_of(payload) + len(ident or "")
        batch: Batch | None = None
        number = 0
        with trio.move_on_after(max(0.0, timeout_s)) if qos or self._full(size) else nullcontext():
            await self._wait_for_room(size)
            self._number += 1
            number = self._number
            waiting = self._flushing or self._woken.is_set()
            batch = self._queue(topic, TopicEvent(number, qos, ident, payload), size)
            if waiting or not self._at_once():
                self._woken.set()
            if qos:
                await batch.sent.wait()
                await batch.done.wait()
        if batch is None or (qos and not batch.sent.is_set()):
            raise TimedOut(f"the message to {topic[:80]!r} was not sent: too much is being published")
        if batch.error is not None:
            raise batch.error
        await trio.lowlevel.checkpoint()
        return number, batch

    async def publish_many(self, topic: str, payloads: Sequence[Any], *, timeout_s: float) -> int:
        """Queue messages of qos 0 in their order; returns how many were taken before time was up.

        Raises:
            UsageError: one of them is too large or cannot be carried; nothing was taken.
        """
        sizes = [_size_of(payload) for payload in payloads]
        taken = 0
        with trio.move_on_after(max(0.0, timeout_s)):
            for payload, size in zip(payloads, sizes, strict=True):
                await self._wait_for_room(size)
                self._number += 1
                self._queue(topic, TopicEvent(self._number, 0, None, payload), size)
                self._woken.set()
                taken += 1
        await trio.lowlevel.checkpoint()
        return taken

    def _full(self, size: int) -> bool:
        return bool(self._pending_bytes) and self._pending_bytes + size > OUTBOX_BYTES_MAX

    async def _wait_for_room(self, size: int) -> None:
        while self._full(size):
            await self._room.wait()

    def _queue(self, topic: str, event: TopicEvent, size: int) -> Batch:
        batches = self._pending.setdefault(topic, [])
        if not batches or batches[-1].bytes + size > BATCH_BYTES_MAX or len(batches[-1].events) >= BATCH_MAX:
            batches.append(Batch(topic))
        batch = batches[-1]
        batch.events.append(event)
        batch.bytes += size
        self._pending_bytes += size
        self._counters["topics.published"] += 1
        self._pace.note(1, trio.current_time())
        return batch

    def _at_once(self) -> bool:
        """Send what is queued from here, without a turn of our task, if nothing of it has to wait."""
        now = trio.current_time()
        if not self._pace.calm(now) or self._tail.wait_s(now) > 0 or self._line.full():
            return False
        self._flushed_at = now
        for batch in self._taken():
            self._send(batch, now)
        return True

    def _taken(self) -> list[Batch]:
        """What is queued, in its order; it is queued no more."""
        pending, self._pending = self._pending, {}
        return [batch for batches in pending.values() for batch in batches]

    def heard(self, count: int) -> None:
        """Others published so many messages."""
        self._pace.note(HEARD_WEIGHT * count, trio.current_time())

    async def run(self) -> None:
        """Send what is queued, until cancelled."""
        while True:
            await self._woken.wait()
            if not self._pace.calm(trio.current_time()):
                await trio.sleep_until(self._flushed_at + FLUSH_S)
            while (wait_s := self._tail.wait_s(trio.current_time())) > 0:
                self._counters["topics.held_back"] += 1
                await trio.sleep(max(0.0, wait_s))
            self._woken = trio.Event()
            self._flushed_at = trio.current_time()
            self._flushing = True
            try:
                await self._flush()
            finally:
                self._flushing = False

    async def _flush(self) -> None:
        """Send what is queued, as far as our links take it."""
        for batch in self._taken():
            while self._line.full():
                self._counters["topics.held_back"] += 1
                await trio.sleep(LINE_PAUSE_S)
            self._send(batch, trio.current_time())

    def _send(self, batch: Batch, now: float) -> None:
        self._pending_bytes -= batch.bytes
        room, self._room = self._room, trio.Event()
        room.set()
        ttl_s = self._tail.ttl_s(now)
        ttl_ms = int(ttl_s * 1000)
        statement = Statement(topic_path(batch.topic), Kind.LOG, batch_value(batch.events), ttl=ttl_ms)
        batch.expected = frozenset(self._subscribers.of(batch.topic))
        batch.missing = set(batch.expected) - {self._me}
        try:
            (record,) = self._author.say_live([statement])
        except MeshError as error:
            self._counters["topics.unsent"] += len(batch.events)
            log.warning("messages not sent", extra={"topic": batch.topic, "error": error.message})
            batch.error = error
            batch.done.set()
        else:
            self._tail.spend(batch.bytes, ttl_s, now)
            self._line.said(record.hlc, batch.bytes)
            if batch.wants_ack and batch.missing:
                self._unacknowledged[record.hlc] = batch
                self._forget_old(ttl_ms, record.hlc)
            else:
                batch.done.set()
        batch.sent.set()

    def _forget_old(self, ttl_ms: int, newest: int) -> None:
        """Nobody can acknowledge a record that has expired."""
        oldest = newest - (ttl_ms << 16)
        for hlc in list(self._unacknowledged):
            if hlc >= oldest:
                break
            del self._unacknowledged[hlc]

    def _acknowledged(self, aid: bytes, head: int, more: frozenset[int]) -> None:
        """An agent has everything of ours up to `head`, and the records `more` above it."""
        for hlc, batch in list(self._unacknowledged.items()):
            if hlc <= head or hlc in more:
                batch.missing.discard(aid)
                if not batch.missing:
                    del self._unacknowledged[hlc]
                    batch.done.set()


def _size_of(payload: Any) -> int:
    """Bytes that a message takes on its way.

    Raises:
        UsageError: too large, or it cannot be carried.
    """
    codec.check_user_value(payload)
    size = len(codec.encode(payload)) + EVENT_BYTES
    if size > PAYLOAD_BYTES_MAX:
        raise UsageError(f"the message takes {size} bytes, at most {PAYLOAD_BYTES_MAX}", "put it under a key")
    return size
