"""Topics: local programs publish and subscribe; messages travel as log records of the live scope.

    program --publish--> Publisher --record `topic/<topic>`--> every agent of the zone --> its subscribers

    qos 0   sent; every agent that is reached hands it to its subscribers, once
    qos 1   and acknowledged by each subscriber's agent, or named as missing
    qos 2   and handed on once per `id` for ONCE_S, also when the publisher sends it again

The live scope brings records to agents that were away for less than their ttl, so that late joiners get the
tail of a topic and a healed split heals here too. Each subscription has a bounded queue: a slow program loses
the oldest messages and is told how many. Messages of authors without the right to publish are not handed on.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

import trio

from mesh.agent.lasting import lasting
from mesh.agent.peers import Peers
from mesh.agent.publishing import Line, LiveAuthor, Publisher, Tail
from mesh.agent.subscribers import Subscribers
from mesh.agent.words import iso_of
from mesh.config import Messages as Settings
from mesh.core import topics as core
from mesh.core.log import AuthorState
from mesh.core.policy import PUBLISH, SUBSCRIBE
from mesh.core.record import LIVE, Kind, Op, Record, SlotKey
from mesh.core.topics import PatternIndex, TopicEvent
from mesh.errors import Denied, Failed, PeerError, TimedOut, UsageError
from mesh.identity.keys import peer_id_of
from mesh.observe.counters import Counters
from mesh.store.watch import Change

QUEUE_BYTES_MAX = 4 << 20
SUBSCRIPTIONS_MAX = 1024
ONCE_MAX = 65_536
ONCE_S = 600.0
SWEEP_S = 1.0
SWEEP_MAX = 5_000
ACTIVE_S = 60.0
TIMEOUT_S = 5.0

Json = dict[str, Any]


class LiveScope(Protocol):
    """The part of the live scope that topics need."""

    def author(self, aid: bytes) -> AuthorState: ...

    def paths(self, prefix: str, start: str = "") -> Iterator[str]: ...

    def slots(self, path: str) -> Iterator[Record]: ...

    def expiring(self, until_ms: int) -> Iterator[Record]: ...

    def drop(self, slot: SlotKey) -> None: ...

    def together(self) -> AbstractContextManager[None]: ...


class _Subscription:
    """One local program's queue."""

    def __init__(self, pattern: str, queue_max: int) -> None:
        self.pattern = pattern
        self._queue: deque[tuple[Json, int]] = deque()
        self._queue_max = queue_max
        self._bytes = 0
        self.dropped = 0
        self.woken = trio.Event()

    def put(self, message: Json, size: int) -> int:
        """Queue a message; returns how many older ones had to go."""
        self._queue.append((message, size))
        self._bytes += size
        dropped = 0
        while len(self._queue) > self._queue_max or self._bytes > QUEUE_BYTES_MAX:
            self._bytes -= self._queue.popleft()[1]
            dropped += 1
        self.dropped += dropped
        self.woken.set()
        return dropped

    def take(self) -> Json | None:
        """The next for the program: first of all what it lost."""
        if self.dropped:
            lost, self.dropped = self.dropped, 0
            return {"dropped": lost}
        if not self._queue:
            return None
        message, size = self._queue.popleft()
        self._bytes -= size
        return message


class Topics:
    """The topics of one node.

    Args:
        me: our aid.
        live: the live scope.
        settings: replay_max, replay_s and queue_max count anew for what comes after a change.
        now_ms: mesh time.
        taken: up to which stamp the slowest link has taken what we said in the live scope; None: all have.
    """

    def __init__(
        self,
        me: bytes,
        author: LiveAuthor,
        live: LiveScope,
        peers: Peers,
        settings: Callable[[], Settings],
        counters: Counters,
        now_ms: Callable[[], int],
        taken: Callable[[], int | None] = lambda: None,
    ) -> None:
        self._me = me
        self._live = live
        self._peers = peers
        self._settings = settings
        self._counters = counters
        self._now_ms = now_ms
        self._index: PatternIndex[_Subscription] = PatternIndex()
        self._once: OrderedDict[tuple[str, str], tuple[bytes, int, float]] = OrderedDict()
        self._heard: dict[bytes, float] = {}
        self.subscribers = Subscribers(me, author, live, peers)
        tail = Tail(lambda: settings().replay_s, lambda: len(self._heard))
        self.publisher = Publisher(me, author, self.subscribers, tail, counters, now_ms, Line(taken))

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Send, announce, acknowledge and forget, until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lasting, self.publisher.run)
            nursery.start_soon(lasting, self.subscribers.run)
            nursery.start_soon(lasting, self._sweep)
            task_status.started()

    # -- for local programs -----------------------------------------------------------------------------

    async def publish(
        self, topic: str, payload: Any, *, qos: int, id: str | None, timeout_s: float | None
    ) -> Json:
        """Publish a message: {"id", "topic", "qos", "subscribers", "acknowledged", "missing"}.

        Raises:
            UsageError: topic, payload, qos or id are not acceptable.
            Denied: this node may not publish to the topic.
            TimedOut: it could not even be sent.
        """
        core.check_topic(topic)
        if qos not in core.QOS:
            raise UsageError(f"qos {qos!r} does not exist", "0: sent, 1: acknowledged, 2: once")
        if id is not None and not 0 < len(id) <= core.IDENT_CHARS_MAX:
            raise UsageError(f"a message id has 1 to {core.IDENT_CHARS_MAX} characters")
        if not self._peers.may(self._me, PUBLISH, topic):
            raise Denied(f"this node may not publish to {topic!r}")
        number, batch = await self.publisher.publish(
            topic, payload, qos=qos, ident=id, timeout_s=TIMEOUT_S if timeout_s is None else timeout_s
        )
        expected = batch.expected if batch.sent.is_set() else self.subscribers.of(topic)
        missing = sorted(batch.missing) if qos else []
        return {
            "id": id or _ident(self._me, number),
            "topic": topic,
            "qos": qos,
            "subscribers": len(expected),
            "acknowledged": len(expected) - len(missing) if qos else 0,
            "missing": [peer_id_of(public) for aid in missing if (public := self._peers.public_of(aid))],
        }

    async def publish_many(self, topic: str, payloads: Sequence[Any], *, timeout_s: float | None) -> Json:
        """Publish messages of qos 0, in their order: {"topic", "published", "subscribers"}.

        Raises:
            UsageError: the topic or a payload is not acceptable; nothing was published.
            Denied: this node may not publish to the topic.
            TimedOut: too much is being published; the message says how many were taken.
        """
        core.check_topic(topic)
        if not self._peers.may(self._me, PUBLISH, topic):
            raise Denied(f"this node may not publish to {topic!r}")
        limit_s = TIMEOUT_S if timeout_s is None else timeout_s
        taken = await self.publisher.publish_many(topic, payloads, timeout_s=limit_s)
        if taken < len(payloads):
            raise TimedOut(
                f"{taken} of {len(payloads)} messages were taken: too much is being published",
                "send the rest later",
            )
        return {"topic": topic, "published": taken, "subscribers": len(self.subscribers.of(topic))}

    async def subscribe(self, pattern: str, *, replay: int) -> AsyncIterator[Json]:
        """Messages of topics that match: up to `replay` kept ones of each topic first, then new ones.

        Raises:
            UsageError: not a pattern.
            Denied: this node may subscribe to nothing of it.
            Failed: too many subscriptions.
        """
        core.check_pattern(pattern)
        core.literal_prefix(pattern)
        if "+" not in pattern and "#" not in pattern and not self._peers.may(self._me, SUBSCRIBE, pattern):
            raise Denied(f"this node may not subscribe to {pattern!r}")
        if len(self._index) >= SUBSCRIPTIONS_MAX:
            raise Failed(f"{SUBSCRIPTIONS_MAX} programs subscribe here already")
        subscription = _Subscription(pattern, self._settings().queue_max)
        tail = self._tail(pattern, min(replay, self._settings().replay_max))
        self._index.add(pattern, subscription)
        self.subscribers.add(pattern)
        try:
            for message in tail:
                yield message
            while True:
                while (new := subscription.take()) is not None:
                    yield new
                subscription.woken = trio.Event()
                await subscription.woken.wait()
        finally:
            self._index.remove(pattern, subscription)
            self.subscribers.remove(pattern)

    def _tail(self, pattern: str, most: int) -> list[Json]:
        """The newest kept messages of each topic, oldest first."""
        if most <= 0:
            return []
        found: list[tuple[int, bytes, Json]] = []
        for path in self._live.paths(core.literal_prefix(pattern)):
            topic = core.topic_of(path)
            if not core.matches(pattern, topic) or not self._peers.may(self._me, SUBSCRIBE, topic):
                continue
            kept: deque[tuple[int, bytes, Json]] = deque(maxlen=most)
            for rec in sorted(self._live.slots(path), key=lambda rec: (rec.hlc, rec.aid)):
                messages = self._messages(rec, topic, self._events(rec, topic), replayed=True)
                kept.extend((rec.hlc, rec.aid, message) for message in messages)
            found += kept
        return [message for _, _, message in sorted(found, key=lambda entry: entry[:2])]

    # -- what the store tells ---------------------------------------------------------------------------

    def changed(self, changes: Sequence[Change]) -> None:
        """The store changed: hand new messages on."""
        self.subscribers.changed(changes)
        for change in changes:
            if change.scope == LIVE and change.record is not None and change.path.startswith(core.PREFIX):
                self._arrived(change.record)

    def _arrived(self, rec: Record) -> None:
        self._heard[rec.aid] = trio.current_time()
        if rec.aid != self._me:
            self.publisher.heard(core.count_batch(rec.val))
        topic = core.topic_of(rec.path)
        subscriptions = self._index.match(topic)
        if not subscriptions:
            return
        events = self._events(rec, topic)
        if not events:
            return
        messages = list(self._messages(rec, topic, events, replayed=False))
        self._counters["topics.received"] += len(messages)
        if any(event.qos for event in events) and rec.aid != self._me:
            self.subscribers.received(rec.aid, rec.hlc)
        if not self._peers.may(self._me, SUBSCRIBE, topic):
            return
        size = len(rec.body) // len(events)
        for subscription in subscriptions:
            for message in messages:
                self._counters["topics.dropped"] += subscription.put(message, size)

    def _events(self, rec: Record, topic: str) -> list[TopicEvent]:
        """The messages of a record that count; none of one that is malformed, expired or not allowed."""
        if rec.kind != Kind.LOG or rec.op != Op.PUT or rec.expired(self._now_ms()):
            return []
        if not self._peers.may(rec.aid, PUBLISH, topic):
            self._counters["topics.not_allowed"] += 1
            return []
        try:
            return core.read_batch(rec.val)[1]
        except PeerError:
            self._counters["topics.malformed"] += 1
            return []

    def _messages(
        self, rec: Record, topic: str, events: Iterable[TopicEvent], *, replayed: bool
    ) -> Iterator[Json]:
        public = self._peers.public_of(rec.aid)
        author = peer_id_of(public) if public else rec.aid.hex()
        shared = {
            "topic": topic,
            "author": author,
            "author_name": self._peers.name_of(rec.aid),
            "time": iso_of(rec.hlc),
            "replayed": replayed,
        }
        for event in events:
            if event.qos < 2 or event.ident is None or self._first(topic, event.ident, rec.aid, event.number):
                ident = event.ident or _ident(rec.aid, event.number)
                yield {**shared, "id": ident, "qos": event.qos, "payload": event.payload}

    def _first(self, topic: str, ident: str, aid: bytes, number: int) -> bool:
        """Whether this is the message that stands for its id."""
        now = trio.current_time()
        while self._once and (
            len(self._once) > ONCE_MAX or next(iter(self._once.values()))[2] < now - ONCE_S
        ):
            self._once.popitem(last=False)
        held = self._once.setdefault((topic, ident), (aid, number, now))
        return held[:2] == (aid, number)

    async def _sweep(self) -> None:
        """Drop expired messages every second: the live scope itself keeps what expired for another minute."""
        while True:
            await trio.sleep(SWEEP_S)
            gone = []
            for rec in self._live.expiring(self._now_ms()):
                if rec.kind == Kind.LOG and rec.path.startswith(core.PREFIX):
                    gone.append(rec.slot)
                    if len(gone) >= SWEEP_MAX:
                        break
            with self._live.together():
                for slot in gone:
                    self._live.drop(slot)
            silent = trio.current_time() - ACTIVE_S
            self._heard = {aid: at for aid, at in self._heard.items() if at > silent}


def _ident(aid: bytes, number: int) -> str:
    """The id of a message that was given none."""
    return f"{aid[:8].hex()}.{number:x}"
