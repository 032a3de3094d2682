"""The mesh clock of a simulated node: its own wall clock, and what its neighbours say when asked."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mesh.core import tidings
from mesh.core.clock import too_far_ahead
from mesh.core.meshclock import MeshClock
from mesh.wire.messages import Ping, Pong

if TYPE_CHECKING:
    from mesh.sim.node import Node

PING_S = 15.0
ADJUST_S = 1.0
CLOCK_BYTES = 26
MOVED_MS = 1000


class Timekeeper:
    """One life of the clock; also drops what is past its ttl."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self.clock = MeshClock()
        self._asked: dict[int, int] = {}
        self._adjusted = float("-inf")
        self._due = False

    def start(self, first_s: float) -> None:
        """Ask now and then."""
        self._node.later(first_s, self._turn)

    def _turn(self) -> None:
        for peer in list(self._node.pipes):
            self.ask(peer)
        self._adjust()
        if self._node.replica is not None:
            self._node.replica.sweep()
        self._node.later(PING_S, self._turn)

    def ask(self, peer: int) -> None:
        """Ask a neighbour for the time."""
        sent_ms = self._asked[peer] = self._node.wall_ms()
        self._node.pipes[peer].send(self._node.number, [Ping(0, sent_ms)], CLOCK_BYTES)

    def asked(self, peer: int, ping: Ping) -> None:
        """Answer a neighbour."""
        pong = Pong(ping.nonce, ping.sent_ms, self._node.wall_ms())
        self._node.pipes[peer].send(self._node.number, [pong], CLOCK_BYTES)

    def forget(self, peer: int) -> None:
        """A link is over."""
        self._asked.pop(peer, None)

    def answered(self, peer: int, aid: bytes, pong: Pong) -> None:
        """A neighbour has answered."""
        now = self._node.fleet.world.now
        if self._asked.pop(peer, None) == pong.sent_ms:
            self.clock.sample(aid, pong.sent_ms, pong.clock_ms, self._node.wall_ms(), now)
            if now >= self._adjusted + ADJUST_S:
                self._adjust()
            elif not self._due:
                self._due = True
                self._node.later(ADJUST_S, self._adjust)

    def _adjust(self) -> None:
        node, self._due = self._node, False
        self._adjusted = node.fleet.world.now
        before_ms = self.clock.offset_ms
        # Days that the calendar turns for all are no clock that was set: everybody slept through them.
        slept_s = node.fleet.calendar_ms / 1000
        stepped = self.clock.adjust(node.wall_ms(), node.fleet.world.now, slept_s)
        if node.replica is not None and (stepped or abs(self.clock.offset_ms - before_ms) > MOVED_MS):
            node.replica.handle(tidings.ClockSet())
        if node.replica is None or not node.fleet.parts.takes_back:
            return
        agreed = self.clock.status(node.wall_ms(), node.fleet.world.now) in ("agreed", "two")
        if agreed and too_far_ahead(node.replica.newest, node.now_ms()) and not node.replica.rewinding:
            node.fleet.trace("clock", node.number, "takes back the future")
            node.replica.take_back_the_future()
