"""What leaves a node on its links, and what has to: watched for one life of a node.

resets      whoever asks from below an author's floor is served a reset, with the proof of the floor (I6)
listings    a neighbour that has an author's head, but not its fingerprint, is sent a listing once the
            author is quiet: at the third comparison that finds nothing changed at the latest (I8)
storms      no frame of records leaves by one link again and again
queues      what waits for a link is bounded by the authors there are, however much is written (I11)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from mesh.core.floors import gc_floor, is_gc
from mesh.core.neighbour import Neighbour
from mesh.core.record import LIVE
from mesh.sim.network import BACKLOG_S, Flow
from mesh.wire.messages import Delta, Heads, Listing

if TYPE_CHECKING:
    from mesh.sim.replica import Replica

COMPARISONS = 3
COMPARED_S = 45.0
CONTROL_MAX = 512
STREAM_MAX = 64
FEW = 16
AGAIN_MAX, AGAIN_S, REMEMBERED_MAX = 12, 10.0, 64
STREAM_S = 1.0


class _Unlike(msgspec.Struct):
    """An author of whom a neighbour holds something else under the same head, and since when."""

    since: float
    values: tuple[int, int, bytes]
    found: int = 1


class Lookout:
    """Watches one replica."""

    def __init__(self, replica: Replica) -> None:
        self._replica = replica
        self._checks = replica.fleet.checks
        self._number = replica.node.number
        self._unlike: dict[tuple[bytes, str, bytes], _Unlike] = {}
        self._left: dict[tuple[bytes, bytes], tuple[float, int]] = {}

    def link_down(self, peer: bytes) -> None:
        """A link is over, and with it what was owed on it."""
        for key in [key for key in self._unlike if key[0] == peer]:
            del self._unlike[key]

    # -- what leaves ------------------------------------------------------------------------------------

    def leaves(self, peer: bytes, bodies: list[bytes], passed_on: list[bytes]) -> None:
        """Frames go out; those passed on unchanged are their first sender's word."""
        for body in bodies:
            self._again(peer, body)
            if passed_on and body in passed_on:
                continue
            message = self._replica.fleet.post.decode(body)
            if type(message) is Delta:
                self._served(message, body)
            elif type(message) is Listing:
                self._unlike.pop((peer, message.scope, message.aid), None)

    def _again(self, peer: bytes, body: bytes) -> None:
        now = self._replica.fleet.world.now
        key = (peer, body)
        since, count = self._left.get(key, (now, 0))
        if now - since > AGAIN_S:
            since, count = now, 0
        elif count >= AGAIN_MAX and isinstance(self._replica.fleet.post.decode(body), Delta):
            self._checks.fail(
                "storms", f"node {self._number} sends one frame {count} times in {now - since:g} s"
            )
        if len(self._left) >= REMEMBERED_MAX:
            self._left.clear()
        self._left[key] = since, count + 1

    def _served(self, delta: Delta, body: bytes) -> None:
        if delta.scope == LIVE or delta.pull or delta.since == delta.upto:
            return
        replica = self._replica
        floor = replica.logs[delta.scope].author(delta.aid).floor
        whose = f"node {self._number} serves {delta.aid.hex()[:8]} from {delta.since}"
        if not delta.reset:
            if delta.since < floor:
                self._checks.fail("resets", f"{whose}, below the floor {floor}, and not as a reset")
            return
        records = replica.fleet.post.records(replica.tags[delta.scope], delta, body)
        if max((gc_floor(rec) for rec in records if is_gc(rec)), default=0) < floor:
            self._checks.fail("resets", f"{whose} as a reset without the proof of its floor {floor}")

    # -- what has to leave ------------------------------------------------------------------------------

    def compared(self, peer: bytes, message: Heads) -> None:
        """A neighbour has said its heads, and the machine has answered."""
        replica = self._replica
        if message.ask or message.scope == LIVE:
            return
        now = replica.fleet.world.now
        for aid, head, fp in message.heads:
            key, mine = (peer, message.scope, aid), replica.logs[message.scope].author(aid)
            alike = head != mine.head or fp == mine.fp.to_bytes(16, "big")
            if alike or not head or aid == replica.me:
                self._unlike.pop(key, None)
                continue
            values, known = (head, mine.fp, fp), self._unlike.get(key)
            if known is None or known.values != values:
                self._unlike[key] = _Unlike(now, values)
                continue
            known.found += 1
            if known.found >= COMPARISONS and now - known.since > COMPARED_S:
                text = f"node {self._number} sends no listing of {aid.hex()[:8]} to {peer.hex()[:8]}"
                self._checks.fail("listings", text)

    # -- what waits -------------------------------------------------------------------------------------

    def waits(self, link: Neighbour) -> None:
        """More than FEW things are to be sent on a link."""
        machine = self._replica.machine
        authors = sum(map(len, machine.heads.values()))
        self._bounded("frames to be passed on", len(link.passing), machine.config.passing_max)
        self._bounded("small messages", len(link.control), CONTROL_MAX + 4 * authors)
        self._bounded("dirty authors", len(link.dirty), authors)
        self._bounded("authors to be announced", sum(map(len, link.lazy.values())), authors)

    def sent(self, flow: Flow) -> None:
        """The stream took what it would take."""
        frames, wait_s = len(flow.queue), flow.free_at - flow.net.world.now
        if frames <= FEW and wait_s <= BACKLOG_S:
            return
        self._bounded("frames in the stream", frames, STREAM_MAX)
        rate = flow.line.bytes_per_s
        batch_s = 2 * self._replica.machine.config.frame_bytes / rate if rate else 0.0
        self._bounded("seconds in the stream", wait_s, BACKLOG_S + batch_s + STREAM_S)

    def _bounded(self, what: str, value: float, bound: float) -> None:
        if value > bound:
            self._checks.fail("queues", f"node {self._number} keeps {value:g} {what}, at most {bound:g}")
