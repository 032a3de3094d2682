"""The network between simulated hosts: datagrams, held streams, dials, loss, cuts.

Hosts are numbered. A cut is a set of ordered pairs that let nothing through, so one-way and non-transitive
cuts are plain cases. Loss is independent per packet and direction.

A stream behaves as TCP does under loss where it hurts: a lost segment holds everything behind it back until
its retransmission timer fires, the timer doubles, and while it backs off a lost acknowledgement keeps it
backing off (the window is one segment then). A segment that goes through carries all that has queued up.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any, Protocol

from mesh.sim.world import World

RTO_FIRST_S = 0.2
RTO_MAX_S = 60.0
SYN_FIRST_S = 1.0
HANDSHAKE_LEGS = 3
HANDSHAKE_BYTES = 600
DATAGRAM_OVERHEAD = 28 + 44
FRAME_OVERHEAD = 52 + 30
ACK_BYTES = 52


class Host(Protocol):
    """What the network asks of an end."""

    def on_datagram(self, source: int, payload: Any) -> None: ...
    def on_pipe(self, pipe: Pipe) -> None: ...
    def on_frame(self, pipe: Pipe, payload: Any) -> None: ...
    def on_end(self, pipe: Pipe, graceful: bool) -> None: ...


class Flow:
    """One direction of a stream."""

    def __init__(self, net: Network, pipe: Pipe, source: int, target: int) -> None:
        self.net, self.pipe, self.source, self.target = net, pipe, source, target
        self.queue: list[tuple[str, Any]] = []
        self.rto_s = RTO_FIRST_S
        self.stalled = False
        self.arrival = 0.0

    def send(self, word: str, payload: Any, size: int) -> None:
        """Queue something; `word` is hello, frame, end or bye."""
        self.net.bytes_sent[self.source] += size + FRAME_OVERHEAD
        self.net.bytes_sent[self.target] += ACK_BYTES
        self.queue.append((word, payload))
        if not self.stalled:
            self._attempt()

    def _attempt(self) -> None:
        net = self.net
        if not self.pipe.open:
            return
        if net.passes(self.source, self.target):
            batch, self.queue = self.queue, []
            self.arrival = max(self.arrival, net.world.now + net.latency())
            if batch:
                net.world.at(self.arrival, lambda: self._arrive(batch))
            backing_off = self.rto_s > RTO_FIRST_S
            if not (backing_off and not net.passes(self.target, self.source)):
                self.stalled, self.rto_s = False, RTO_FIRST_S
                return
        self.stalled = True
        net.world.after(self.rto_s, self._attempt)
        self.rto_s = min(self.rto_s * 2, RTO_MAX_S)

    def _arrive(self, batch: list[tuple[str, Any]]) -> None:
        host = self.net.hosts[self.target]
        for word, payload in batch:
            if word == "frame":
                host.on_frame(self.pipe, payload)
            elif word == "hello":
                host.on_pipe(self.pipe)
            else:
                host.on_end(self.pipe, word == "bye")


class Pipe:
    """A held stream between two hosts."""

    def __init__(self, net: Network, dialler: int, listener: int) -> None:
        self.open = True
        self.dialler, self.listener = dialler, listener
        self.flows = {
            dialler: Flow(net, self, dialler, listener),
            listener: Flow(net, self, listener, dialler),
        }
        self.flows[dialler].send("hello", None, HANDSHAKE_BYTES)

    def other(self, end: int) -> int:
        """The far end."""
        return self.listener if end == self.dialler else self.dialler

    def send(self, source: int, payload: Any, size: int) -> None:
        """Send one frame of so many bytes."""
        self.flows[source].send("frame", payload, size)

    def end(self, source: int, *, graceful: bool) -> None:
        """Tell the far end that it is over: with a word before, or as a kernel does for a dead process."""
        self.flows[source].send("bye" if graceful else "end", None, 20)


class Network:
    """All hosts and what lies between them.

    Attributes:
        loss: probability that a packet is lost, each way.
        bytes_sent: per host, headers counted.
        listening: hosts whose agent runs (frozen or not). powered: hosts whose kernel answers.
        frozen: hosts whose agent stands still. dialable: hosts that can be reached from outside.
    """

    def __init__(self, world: World, rng: random.Random, latency_s: float) -> None:
        self.world = world
        self.loss = 0.0
        self.hosts: list[Host] = []
        self.bytes_sent: list[int] = []
        self.listening: list[bool] = []
        self.powered: list[bool] = []
        self.frozen: list[bool] = []
        self.dialable: list[bool] = []
        self.cut: dict[tuple[int, int], None] = {}
        self.datagrams_blocked: dict[tuple[int, int], None] = {}
        self._rng = rng
        self._latency_s = latency_s

    def add(self, host: Host) -> int:
        """Plug a host in; its number."""
        self.hosts.append(host)
        for column, first in (
            (self.listening, False),
            (self.powered, True),
            (self.frozen, False),
            (self.dialable, True),
        ):
            column.append(first)
        self.bytes_sent.append(0)
        return len(self.hosts) - 1

    def latency(self) -> float:
        """One way, seconds: the base and up to half of it again."""
        return self._latency_s * (1 + self._rng.random() / 2)

    def passes(self, source: int, target: int) -> bool:
        """Whether one packet gets through."""
        if self.cut and (source, target) in self.cut:
            return False
        return not self.loss or self._rng.random() >= self.loss

    def datagram(self, source: int, target: int, payload: Any, size: int) -> None:
        """Send a datagram."""
        self.bytes_sent[source] += size + DATAGRAM_OVERHEAD
        if (source, target) not in self.datagrams_blocked and self.passes(source, target):
            host = self.hosts[target]
            self.world.after(self.latency(), lambda: host.on_datagram(source, payload))

    def dial(self, source: int, target: int, deadline_s: float, done: Callable[[str], None]) -> None:
        """Connect, handshake and hello. `done` is told ok, refused or timed_out, once."""
        Dial(self, source, target, self.world.now + deadline_s, done)


class Dial:
    """One attempt to connect: SYN, then legs that only a running agent answers."""

    def __init__(
        self, net: Network, source: int, target: int, deadline: float, done: Callable[[str], None]
    ) -> None:
        self.net, self.source, self.target, self.deadline, self.done = net, source, target, deadline, done
        self.leg = 0
        self.wait_s = SYN_FIRST_S
        self.over = False
        net.world.at(deadline, lambda: self._finish("timed_out"))
        self._attempt()

    def _finish(self, result: str) -> None:
        if not self.over:
            self.over = True
            self.done(result)

    def _attempt(self) -> None:
        net = self.net
        if self.over:
            return
        net.bytes_sent[self.source] += 60 if self.leg == 0 else HANDSHAKE_BYTES // 2
        through = net.passes(self.source, self.target) and net.passes(self.target, self.source)
        answers = net.powered[self.target] and net.dialable[self.target]
        if self.leg and (net.frozen[self.target] or not net.listening[self.target]):
            answers = False
        if not (through and answers):
            net.world.after(self.wait_s, self._attempt)
            self.wait_s *= 2
            return
        net.bytes_sent[self.target] += 60 if self.leg == 0 else HANDSHAKE_BYTES // 2
        net.world.after(2 * net.latency(), self._advance)

    def _advance(self) -> None:
        if not self.net.listening[self.target]:
            self._finish("refused")
        elif self.leg == HANDSHAKE_LEGS:
            self._finish("ok")
        else:
            self.leg += 1
            self.wait_s = RTO_FIRST_S
            self._attempt()
