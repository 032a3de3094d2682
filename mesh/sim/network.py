"""The network between simulated hosts: datagrams, held streams, dials, loss, cuts.

Hosts are numbered. Between two of them lies a line of one of two classes, inside a zone or between zones:
latency with jitter, loss, reordering, duplication, bandwidth. A cut is a set of ordered pairs that let
nothing through, so one-way and non-transitive cuts are plain cases. Loss is independent per packet and way.

A stream behaves as TCP does under loss where it hurts: a lost segment holds everything behind it back until
its retransmission timer fires, the timer doubles, and while it backs off a lost acknowledgement keeps it
backing off (the window is one segment then). A segment that goes through carries all that has queued up.
Segments of a stream are never reordered or doubled for its ends to see; datagrams are.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

import msgspec

from mesh.sim.world import World

RTO_FIRST_S = 0.2
RTO_MAX_S = 60.0
SYN_FIRST_S = 1.0
HANDSHAKE_LEGS = 3
HANDSHAKE_BYTES = 600
DATAGRAM_OVERHEAD = 28 + 44
FRAME_OVERHEAD = 52 + 30
ACK_BYTES = 52
LATE_LATENCIES = 5
BACKLOG_S = 0.025


class Line(msgspec.Struct, frozen=True):
    """A class of links.

    Attributes:
        latency_s: one way, and `jitter` as the share of it that may be added.
        loss, reorder, duplicate: probabilities per packet.
        bytes_per_s: what the link carries each way; 0 for no limit.
    """

    latency_s: float = 0.001
    jitter: float = 0.5
    loss: float = 0.0
    reorder: float = 0.0
    duplicate: float = 0.0
    bytes_per_s: float = 0.0


class Host(Protocol):
    """What the network asks of an end."""

    def on_datagram(self, source: int, payload: Any) -> None: ...
    def on_pipe(self, pipe: Pipe, hello: Any) -> None: ...
    def on_frames(self, pipe: Pipe, payloads: list[Any]) -> None: ...
    def on_end(self, pipe: Pipe, graceful: bool) -> None: ...
    def on_writable(self, pipe: Pipe) -> None: ...
    def hello(self) -> Any: ...


class Flow:
    """One direction of a stream.

    Attributes:
        wanted: the sender has more and is to be told when the stream takes it.
    """

    __slots__ = (
        "arrival",
        "free_at",
        "line",
        "net",
        "pipe",
        "queue",
        "rto_s",
        "source",
        "stalled",
        "target",
        "wanted",
    )

    def __init__(self, net: Network, pipe: Pipe, source: int, target: int) -> None:
        self.net, self.pipe, self.source, self.target = net, pipe, source, target
        self.line = net.line(source, target)
        self.queue: list[tuple[str, Any]] = []
        self.rto_s = RTO_FIRST_S
        self.stalled = False
        self.arrival = 0.0
        self.free_at = 0.0
        self.wanted = False

    def ready(self) -> bool:
        """Whether the stream takes more now; if not, `on_writable` will tell."""
        if not self.stalled and self.free_at <= self.net.world.now + BACKLOG_S:
            return True
        if not self.wanted:
            self.wanted = True
            if not self.stalled:
                self.net.world.at(self.free_at - BACKLOG_S, self._writable)
        return False

    def _writable(self) -> None:
        if self.wanted and not self.stalled:
            self.wanted = False
            self.net.hosts[self.source].on_writable(self.pipe)

    def send(self, word: str, payload: Any, size: int) -> None:
        """Queue something; `word` is hello, frames, end or bye."""
        sent = self.net.bytes_sent
        sent[self.source] += size + FRAME_OVERHEAD
        sent[self.target] += ACK_BYTES
        rate = self.line.bytes_per_s
        if rate:
            self.free_at = max(self.free_at, self.net.world.now) + (size + FRAME_OVERHEAD) / rate
        self.queue.append((word, payload))
        if not self.stalled:
            self._attempt()

    def _attempt(self) -> None:
        net, world = self.net, self.net.world
        if not self.pipe.open:
            return
        whole = not (net.cut or net.loss or net.uneven or net.lossy)  # nothing is lost anywhere
        if whole or net.passes(self.source, self.target):
            batch, self.queue = self.queue, []
            begin, line = world.now, self.line
            if self.free_at > begin:
                begin = self.free_at
            arrival = begin + line.latency_s * (1 + net.random() * line.jitter)
            if arrival > self.arrival:
                self.arrival = arrival
            if batch:
                world.at(self.arrival, partial(self._arrive, batch))
            backing_off = self.rto_s > RTO_FIRST_S
            if not (backing_off and not net.passes(self.target, self.source)):
                self.stalled, self.rto_s = False, RTO_FIRST_S
                if self.wanted:
                    world.at(self.free_at - BACKLOG_S, self._writable)
                return
        self.stalled = True
        net.world.after(self.rto_s, self._attempt)
        self.rto_s = min(self.rto_s * 2, RTO_MAX_S)

    def _arrive(self, batch: list[tuple[str, Any]]) -> None:
        host, pipe = self.net.hosts[self.target], self.pipe
        for word, payload in batch:
            if word == "frames":
                host.on_frames(pipe, payload)
            elif word == "hello":
                host.on_pipe(self.pipe, payload)
            else:
                host.on_end(self.pipe, word == "bye")


class Pipe:
    """A held stream between two hosts."""

    __slots__ = ("dialler", "flows", "listener", "open")

    def __init__(self, net: Network, dialler: int, listener: int, hello: Any) -> None:
        self.open = True
        self.dialler, self.listener = dialler, listener
        self.flows = {
            dialler: Flow(net, self, dialler, listener),
            listener: Flow(net, self, listener, dialler),
        }
        self.flows[dialler].send("hello", hello, HANDSHAKE_BYTES)

    def other(self, end: int) -> int:
        """The far end."""
        return self.listener if end == self.dialler else self.dialler

    def send(self, source: int, payloads: list[Any], size: int) -> None:
        """Send frames of so many bytes together."""
        self.flows[source].send("frames", payloads, size)

    def end(self, source: int, *, graceful: bool) -> None:
        """Tell the far end that it is over: with a word before, or as a kernel does for a dead process."""
        self.flows[source].send("bye" if graceful else "end", None, 20)


class Network:
    """All hosts and what lies between them.

    Args:
        near: the line between hosts of one zone. far: between hosts of different zones.

    Attributes:
        loss: probability that a packet is lost on any line, each way, if its own is not larger.
        lossy: the same for single hosts, whatever they send or receive.
        bytes_sent: per host, headers counted. random: the dice of all lines.
        listening: hosts whose agent runs (frozen or not). powered: hosts whose kernel answers.
        frozen: hosts whose agent stands still. dialable: hosts that can be reached from outside.
        dialling: nobody gets through while it is False (`formed.py`).
    """

    def __init__(self, world: World, rng: random.Random, near: Line, far: Line | None = None) -> None:
        self.world = world
        self.near, self.far = near, far or near
        self.uneven = bool(self.near.loss or self.far.loss)
        self.loss = 0.0
        self.lossy: dict[int, float] = {}
        self.hosts: list[Host] = []
        self.zones: list[str] = []
        self.bytes_sent: list[int] = []
        self.listening: list[bool] = []
        self.powered: list[bool] = []
        self.frozen: list[bool] = []
        self.dialable: list[bool] = []
        self.cut: dict[tuple[int, int], None] = {}
        self.mended_at = float("-inf")
        self.dialling = True
        self.datagrams_blocked: dict[tuple[int, int], None] = {}
        self.random = rng.random

    def add(self, host: Host, zone: str) -> int:
        """Plug a host in; its number."""
        self.hosts.append(host)
        self.zones.append(zone)
        for column, first in (
            (self.listening, False),
            (self.powered, True),
            (self.frozen, False),
            (self.dialable, True),
        ):
            column.append(first)
        self.bytes_sent.append(0)
        return len(self.hosts) - 1

    def mend(self, pairs: list[tuple[int, int]]) -> None:
        """Let these pairs through again."""
        if pairs:
            self.mended_at = self.world.now
        for pair in pairs:
            self.cut.pop(pair, None)

    def line(self, source: int, target: int) -> Line:
        """What lies between two hosts."""
        return self.near if self.zones[source] == self.zones[target] else self.far

    def latency(self, line: Line) -> float:
        """One way, seconds: the base and up to `jitter` of it again."""
        return line.latency_s * (1 + self.random() * line.jitter)

    def passes(self, source: int, target: int) -> bool:
        """Whether one packet gets through."""
        if self.cut and (source, target) in self.cut:
            return False
        loss = self.loss
        if self.uneven:
            loss = max(loss, self.line(source, target).loss)
        if self.lossy:
            loss = max(loss, self.lossy.get(source, 0.0), self.lossy.get(target, 0.0))
        return not loss or self.random() >= loss

    def datagram(self, source: int, target: int, payload: Any, size: int) -> None:
        """Send a datagram."""
        self.bytes_sent[source] += size + DATAGRAM_OVERHEAD
        if (source, target) in self.datagrams_blocked or not self.passes(source, target):
            return
        host, line = self.hosts[target], self.line(source, target)
        delay_s = self.latency(line)
        if line.reorder and self.random() < line.reorder:
            delay_s += line.latency_s * LATE_LATENCIES * self.random()
        self.world.after(delay_s, partial(host.on_datagram, source, payload))
        if line.duplicate and self.random() < line.duplicate:
            self.world.after(delay_s + self.latency(line), lambda: host.on_datagram(source, payload))

    def dial(self, source: int, target: int, deadline_s: float, done: Callable[[str, Any], None]) -> None:
        """Connect, handshake, hello. `done` is told ok (with the hello), refused or timed_out, once."""
        if self.dialling:
            Dial(self, source, target, self.world.now + deadline_s, done)
        else:
            done("timed_out", None)


class Dial:
    """One attempt to connect: SYN, then legs that only a running agent answers."""

    def __init__(
        self, net: Network, source: int, target: int, deadline: float, done: Callable[[str, Any], None]
    ) -> None:
        self.net, self.source, self.target, self.deadline, self.done = net, source, target, deadline, done
        self.line = net.line(source, target)
        self.leg = 0
        self.wait_s = SYN_FIRST_S
        self.over = False
        self.hello: Any = None
        net.world.at(deadline, lambda: self._finish("timed_out"))
        self._attempt()

    def _finish(self, result: str) -> None:
        if not self.over:
            self.over = True
            self.done(result, self.hello)

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
        if self.leg == HANDSHAKE_LEGS:
            net.world.after(net.latency(self.line), self._answer)
        else:
            net.world.after(2 * net.latency(self.line), self._advance)

    def _answer(self) -> None:
        """The far end says hello: what it knows at this moment."""
        if self.net.listening[self.target]:
            self.hello = self.net.hosts[self.target].hello()
        self.net.world.after(self.net.latency(self.line), self._advance)

    def _advance(self) -> None:
        if not self.net.listening[self.target]:
            self._finish("refused")
        elif self.leg == HANDSHAKE_LEGS:
            self._finish("ok")
        else:
            self.leg += 1
            self.wait_s = RTO_FIRST_S
            self._attempt()
