"""Who sees whom: each node tells its zone how far its linked neighbours are, or that it cannot reach them.

One record per node at `sight/<aid>` in scope live: {neighbour's aid: round trip in microseconds, or -1 when
it is wanted and cannot be reached}. It is said again every EVERY_S, and soon when somebody comes into or out
of reach: PAUSE_S apart at least, because a site that starts changes its links by the dozen, and every word of
everybody reaches everybody.
From these `reachability` and `rtt` between any two members follow, without anybody measuring on request.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import msgspec
import trio

from mesh.agent.author import Author, Statement
from mesh.core.nearness import through
from mesh.core.record import AID_BYTES, Kind, Op
from mesh.core.views import LinkView
from mesh.store.store import Store

EVERY_S = 60.0
PAUSE_S = 10.0
TTL_MS = 240_000
UNREACHABLE = -1
PEERS_MAX = 512
PREFIX = "sight/"


class Sighting(msgspec.Struct, frozen=True):
    """One observer's word on one subject. `rtt_ms` is None when it cannot be reached."""

    observer: bytes
    subject: bytes
    rtt_ms: float | None
    age_s: float


class Sight:
    """Publishes our own sightings and reads everybody's."""

    def __init__(self, me: bytes, store: Store, author: Author) -> None:
        self._me = me
        self._store = store
        self._author = author
        self._said: dict[bytes, int] = {}
        self._said_at = float("-inf")

    def update(self, links: Iterable[LinkView], on_streams: Mapping[bytes, float | None]) -> None:
        """Say what we see, if it is time or if somebody came into or out of reach.

        Args:
            on_streams: round trips on held streams, seconds: of two linked nodes one pings by datagram.
        """
        seen = {}
        for link in links:
            stream_s = on_streams.get(link.aid)
            rtt_ms = stream_s * 1000 if link.rtt_ms is None and stream_s is not None else link.rtt_ms
            if link.status == "connected" and rtt_ms is not None:
                seen[link.aid] = int(rtt_ms * 1000)
            elif link.wanted and link.status in ("disconnected", "error"):
                seen[link.aid] = UNREACHABLE
        now = trio.current_time()
        moved = {aid for aid, rtt in seen.items() if rtt < 0} != {a for a, r in self._said.items() if r < 0}
        changed = moved or seen.keys() != self._said.keys()
        if now - self._said_at < (PAUSE_S if changed else EVERY_S):
            return
        self._said, self._said_at = seen, now
        value = dict(sorted(seen.items())[:PEERS_MAX])
        self._author.say_live([Statement(PREFIX + self._me.hex(), Kind.ALL, value, Op.PUT, TTL_MS)])

    def all(self, now_ms: int) -> Iterator[Sighting]:
        """Every sighting that has not expired; malformed ones are passed over."""
        live = self._store.live
        for path in live.paths(PREFIX):
            for rec in live.slots(path):
                if path == PREFIX + rec.aid.hex() and rec.op == Op.PUT and not rec.expired(now_ms):
                    age_s = max(0.0, (now_ms - (rec.hlc >> 16)) / 1000)
                    for subject, rtt in _pairs(rec.val):
                        yield Sighting(rec.aid, subject, None if rtt < 0 else rtt / 1000, age_s)

    def linked_with(self, aid: bytes, now_ms: int) -> set[bytes]:
        """Who says that it is linked with a member, and of whom that member says so."""
        ends = [(each.observer, each.subject) for each in self.all(now_ms) if each.rtt_ms is not None]
        return {one for one, other in ends if other == aid} | {other for one, other in ends if one == aid}

    def estimate(
        self, a: bytes, b: bytes, now_ms: int
    ) -> tuple[float, float | None, str, float | None] | None:
        """Round trip between two members: (ms, error in ms, method, age in s), None if nothing is known."""
        sightings = [each for each in self.all(now_ms) if each.rtt_ms is not None]
        direct = [each for each in sightings if {each.observer, each.subject} == {a, b}]
        if direct:
            best = min(direct, key=lambda each: each.age_s)
            assert best.rtt_ms is not None
            method = "measured" if best.observer == self._me else "reported"
            return best.rtt_ms, None, method, best.age_s
        legs: dict[bytes, dict[bytes, float]] = {a: {}, b: {}}
        for each in sightings:
            for end, other in ((each.observer, each.subject), (each.subject, each.observer)):
                if end in legs and each.rtt_ms is not None:
                    legs[end][other] = each.rtt_ms
        guess = through((legs[a][mark], legs[b][mark]) for mark in sorted(legs[a].keys() & legs[b].keys()))
        return None if guess is None else (guess[0], guess[1], "estimated", None)


def _pairs(value: Any) -> Iterator[tuple[bytes, int]]:
    if isinstance(value, dict) and len(value) <= PEERS_MAX:
        for subject, rtt in value.items():
            if isinstance(subject, bytes) and len(subject) == AID_BYTES and isinstance(rtt, int):
                yield subject, rtt
