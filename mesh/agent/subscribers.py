"""Who subscribes to what, in the whole zone, and who has received what.

    subs/<aid>               ALL, live   the patterns of an agent's local programs, said again every RENEW_S
    acks/<aid>/<publisher>   ALL, live   [head, [stamps]]: the agent has everything of the publisher up to the
                                         head, and the records above it with these stamps

An acknowledgement covers everything before it and replaces the one before, so however much is published, one
slot per pair is kept and a slow link carries only the newest. Agents acknowledge at once, but then not again
for a moment that grows with their number: together they say no more than some 200 a second.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import trio

from mesh.agent.author import Statement
from mesh.agent.peers import Peers
from mesh.core.log import AuthorState
from mesh.core.record import LIVE, Kind, Op, Record
from mesh.core.topics import PREFIX, PatternIndex, check_pattern
from mesh.errors import UsageError
from mesh.store.watch import Change

SUBS = "subs/"
ACKS = "acks/"
RENEW_S = 30.0
TTL_MS = 90_000
SETTLE_S = 0.01
ACK_S_MIN = 0.01
ACK_S_PER_NODE = 0.005
PATTERNS_MAX = 256
EXTRAS_MAX = 512
NODES_MAX = 4096


class Author(Protocol):
    """The part of the author that this needs."""

    def say_live(self, statements: Sequence[Statement]) -> list[Record]: ...


class LiveSlots(Protocol):
    """The part of the live scope that this reads."""

    def author(self, aid: bytes) -> AuthorState: ...

    def paths(self, prefix: str, start: str = "") -> Any: ...

    def slots(self, path: str) -> Any: ...


class Subscribers:
    """The zone's subscriptions, our own among them.

    Args:
        me: our aid.

    Attributes:
        on_ack: called with (aid, head, stamps above it) when an agent acknowledges records of ours.
    """

    def __init__(self, me: bytes, author: Author, live: LiveSlots, peers: Peers) -> None:
        self._me = me
        self._author = author
        self._live = live
        self._peers = peers
        self.on_ack: Callable[[bytes, int, frozenset[int]], None] = lambda aid, head, more: None
        self._mine: dict[str, int] = {}
        self._moved = trio.Event()
        self._index: PatternIndex[bytes] = PatternIndex()
        self._patterns: dict[bytes, tuple[str, ...]] = {}
        self._owed: dict[bytes, set[int]] = {}
        self._owing = trio.Event()
        for path in live.paths(SUBS):
            for rec in live.slots(path):
                self._take_patterns(rec)

    # -- whom a topic reaches ---------------------------------------------------------------------------

    def of(self, topic: str) -> list[bytes]:
        """Present agents with a subscriber to a topic, ourselves included."""
        present = set(self._peers.present())
        found = {aid for aid in self._index.match(topic) if aid in present}
        return sorted(found)

    def add(self, pattern: str) -> None:
        """A local program subscribes."""
        self._mine[pattern] = self._mine.get(pattern, 0) + 1
        self._mine_changed()

    def remove(self, pattern: str) -> None:
        """A local program went."""
        self._mine[pattern] -= 1
        if not self._mine[pattern]:
            del self._mine[pattern]
        self._mine_changed()

    def _mine_changed(self) -> None:
        self._set_patterns(self._me, tuple(sorted(self._mine)))
        self._moved.set()

    def _set_patterns(self, aid: bytes, patterns: tuple[str, ...]) -> None:
        before = self._patterns.pop(aid, ())
        for pattern in before:
            self._index.remove(pattern, aid)
        for pattern in patterns:
            self._index.add(pattern, aid)
        if patterns:
            self._patterns[aid] = patterns

    # -- what is said in the live scope -----------------------------------------------------------------

    async def run(self) -> None:
        """Say what we subscribe to and what we received, until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._announce)
            nursery.start_soon(self._acknowledge)

    async def _announce(self) -> None:
        said: list[str] | None = None  # said once at the start, to replace what an earlier life said
        while True:
            patterns = sorted(self._mine) if len(self._mine) <= PATTERNS_MAX else ["#"]
            if patterns or patterns != said:
                said = patterns
                op = Op.PUT if patterns else Op.VOID
                value = patterns or None
                self._author.say_live([Statement(SUBS + self._me.hex(), Kind.ALL, value, op=op, ttl=TTL_MS)])
            with trio.move_on_after(RENEW_S):
                await self._moved.wait()
                await trio.sleep(SETTLE_S)
            self._moved = trio.Event()

    def received(self, publisher: bytes, hlc: int) -> None:
        """A record that wants to be acknowledged has come to local subscribers."""
        extras = self._owed.setdefault(publisher, set())
        if len(extras) < EXTRAS_MAX:
            extras.add(hlc)
        self._owing.set()

    async def _acknowledge(self) -> None:
        said_at = float("-inf")
        while True:
            await self._owing.wait()
            await trio.sleep_until(said_at + max(ACK_S_MIN, ACK_S_PER_NODE * len(self._patterns)))
            self._owing = trio.Event()
            said_at = trio.current_time()
            owed, self._owed = self._owed, {}
            statements = []
            for publisher in sorted(owed):
                head = self._live.author(publisher).head
                above = sorted(hlc for hlc in owed[publisher] if hlc > head)
                path = f"{ACKS}{self._me.hex()}/{publisher.hex()}"
                statements.append(Statement(path, Kind.ALL, [head, above], ttl=TTL_MS))
                if above:
                    self._owed[publisher] = set(above)
            self._author.say_live(statements)

    def changed(self, changes: Sequence[Change]) -> None:
        """The store changed."""
        for change in changes:
            if change.scope != LIVE or change.aid == self._me:
                continue
            if change.path.startswith(SUBS):
                if change.record is None:
                    self._set_patterns(change.aid, ())
                else:
                    self._take_patterns(change.record)
            elif change.path.startswith(ACKS) and change.record is not None:
                self._take_ack(change.record)

    def _take_patterns(self, rec: Record) -> None:
        if rec.path != SUBS + rec.aid.hex() or rec.kind != Kind.ALL:
            return
        if rec.op != Op.PUT or not isinstance(rec.val, list):
            self._set_patterns(rec.aid, ())
        elif rec.aid in self._patterns or len(self._patterns) < NODES_MAX:
            self._set_patterns(rec.aid, tuple(filter(_sound, rec.val[:PATTERNS_MAX])))

    def _take_ack(self, rec: Record) -> None:
        if rec.path != f"{ACKS}{rec.aid.hex()}/{self._me.hex()}" or rec.kind != Kind.ALL or rec.op != Op.PUT:
            return
        value = rec.val
        if not (isinstance(value, list) and len(value) >= 2 and isinstance(value[0], int)):
            return
        above = value[1] if isinstance(value[1], list) else []
        stamps = frozenset(hlc for hlc in above[:EXTRAS_MAX] if isinstance(hlc, int))
        self.on_ack(rec.aid, value[0], stamps)


def is_awaited(record: Record) -> bool:
    """Whether a live record is a message or the acknowledgement of one: somebody waits for it."""
    return record.path.startswith((PREFIX, ACKS))


def _sound(pattern: Any) -> bool:
    if not isinstance(pattern, str):
        return False
    try:
        check_pattern(pattern)
    except UsageError:
        return False
    return True
