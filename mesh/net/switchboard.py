"""A network inside one process: what carries bytes and datagrams between in-memory hosts.

Hosts are told apart by their public keys, and each direction between two of them has its conditions:
latency, jitter, loss, cuts. The switchboard needs no task of its own and takes its dice from the caller,
so under trio's MockClock a run depends on its seed alone.

Streams are reliable, so loss shows on them as TCP shows it: a lost packet, and all behind it, comes one
retransmission time-out later, doubled each time. A cut direction carries nothing; what was sent on a
stream waits for the heal.
"""

from __future__ import annotations

import random
from collections import deque
from typing import TYPE_CHECKING

import msgspec
import trio

from mesh.errors import Failed, Unreachable

if TYPE_CHECKING:
    from mesh.net.memory import MemoryDatagrams, MemoryHost

KERNEL_BYTES = 1 << 20  # what a socket's two buffers hold
_RTO_S, _RTO_MAX_S = 0.2, 60.0
_FIRST_PORT = 40_000


class Conditions(msgspec.Struct, frozen=True):
    """Of one direction. `loss` is the share of packets lost, 0 to 1."""

    latency_s: float = 0.0
    jitter_s: float = 0.0
    loss: float = 0.0
    cut: bool = False


class Switchboard:
    """What hosts and datagrams of one process are plugged into.

    Args:
        rng: for loss and jitter.
        default: conditions of every direction not set otherwise.
    """

    def __init__(self, rng: random.Random, default: Conditions | None = None) -> None:
        self.rng = rng
        self.default = default or Conditions()
        self._set: dict[tuple[bytes, bytes], Conditions] = {}
        self._listeners: dict[tuple[str, int], MemoryHost] = {}
        self._lived_at: dict[tuple[str, int], bytes] = {}
        self._inboxes: dict[tuple[str, int], MemoryDatagrams] = {}
        self._changed = trio.Event()
        self._next_port = _FIRST_PORT
        self._count = 0

    def conditions(self, sender: bytes, receiver: bytes) -> Conditions:
        """Those of the direction from one public key to another."""
        return self._set.get((sender, receiver), self.default)

    def set(self, sender: bytes, receiver: bytes, conditions: Conditions) -> None:
        """Change one direction; what waits notices."""
        self._set[sender, receiver] = conditions
        self._changed.set()
        self._changed = trio.Event()

    def cut(self, one: bytes, other: bytes, cut: bool = True) -> None:
        """Cut, or heal, both directions between two hosts."""
        for sender, receiver in ((one, other), (other, one)):
            old = self.conditions(sender, receiver)
            self.set(sender, receiver, msgspec.structs.replace(old, cut=cut))

    def is_cut(self, one: bytes, other: bytes) -> bool:
        """Whether either direction is cut."""
        return self.conditions(one, other).cut or self.conditions(other, one).cut

    async def wait_changed(self) -> None:
        """Wait until conditions are set anew."""
        await self._changed.wait()

    def travel_s(self, sender: bytes, receiver: bytes) -> float:
        """How long the next packet is on its way, retransmissions not counted."""
        now = self.conditions(sender, receiver)
        return now.latency_s + (self.rng.uniform(0, now.jitter_s) if now.jitter_s else 0.0)

    def is_lost(self, sender: bytes, receiver: bytes) -> bool:
        now = self.conditions(sender, receiver)
        return now.cut or (now.loss > 0 and self.rng.random() < now.loss)

    def delay_s(self, sender: bytes, receiver: bytes) -> float:
        """How long a stream's next packet is on its way, retransmissions included."""
        delay, timeout, loss = 0.0, _RTO_S, self.conditions(sender, receiver).loss
        while loss and self.rng.random() < loss and timeout < _RTO_MAX_S:
            delay += timeout
            timeout *= 2
        return delay + self.travel_s(sender, receiver)

    def free_port(self) -> int:
        self._next_port += 1
        return self._next_port

    def number(self) -> int:
        """Grows with every call: the order of sending among things due at one time."""
        self._count += 1
        return self._count

    def plug_in(self, at: tuple[str, int], host: MemoryHost) -> None:
        if at in self._listeners:
            raise Failed(f"port {at[1]} on {at[0]} is in use by another program")
        self._listeners[at] = host
        self._lived_at[at] = host.public

    def pull_out(self, host: MemoryHost) -> None:
        self._listeners = {at: each for at, each in self._listeners.items() if each is not host}

    async def reach(self, at: tuple[str, int], dialler: bytes) -> MemoryHost | None:
        """Who listens there, or None when the machine answers that nobody does. Across a cut: no answer."""
        there = self._lived_at.get(at)
        while there is not None and self.is_cut(there, dialler):
            await self.wait_changed()
        return self._listeners.get(at)

    def plug_in_datagrams(self, at: tuple[str, int], end: MemoryDatagrams | None) -> None:
        if end is None:
            self._inboxes.pop(at, None)
        else:
            self._inboxes[at] = end

    def inbox(self, at: tuple[str, int]) -> MemoryDatagrams | None:
        return self._inboxes.get(at)


class Pipe:
    """Bytes on their way from one key to another, in order."""

    def __init__(self, board: Switchboard, sender: bytes, receiver: bytes) -> None:
        self._board = board
        self._ends = sender, receiver
        self._items: deque[tuple[float, bytes]] = deque()
        self._last_due = 0.0
        self._changed = trio.Event()
        self.size = 0
        self.closed_here = False

    def put(self, data: bytes) -> None:
        """b"" is the end."""
        due = trio.current_time() + self._board.delay_s(*self._ends)
        self._last_due = max(self._last_due, due)
        self._items.append((self._last_due, data))
        self.size += len(data)
        self.touch()

    def touch(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    async def wait_room(self) -> None:
        while self.size >= KERNEL_BYTES and not self.closed_here:
            await self._changed.wait()

    async def take(self) -> bytes:
        """What has arrived."""
        while not self.closed_here:
            now = trio.current_time()
            due = self._items[0][0] if self._items else float("inf")
            if self._board.conditions(*self._ends).cut:
                await self._wait_for_heal()
            elif due > now:
                with trio.move_on_at(due):
                    await self._changed.wait()
            else:
                return self._take_due(now)
        raise Unreachable("the connection is gone")

    async def _wait_for_heal(self) -> None:
        async with trio.open_nursery() as nursery:

            async def closed() -> None:
                while not self.closed_here:
                    await self._changed.wait()
                nursery.cancel_scope.cancel()

            nursery.start_soon(closed)
            await self._board.wait_changed()
            nursery.cancel_scope.cancel()

    def _take_due(self, now: float) -> bytes:
        parts: list[bytes] = []
        while self._items and self._items[0][0] <= now:
            data = self._items[0][1]
            if not data:
                break  # the end, which stays
            self._items.popleft()
            parts.append(data)
            self.size -= len(data)
        self.touch()
        return b"".join(parts)
