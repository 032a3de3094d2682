"""Keeps packets on their way for a while: `python delay.py QUEUE NEAR_MS FAR_MS JITTER`, in the hub.

The kernel hands us the packets that a rule `-j NFQUEUE --queue-num QUEUE` takes out of its way, over a
netlink socket (linux/netfilter/nfnetlink_queue.h), and keeps each until we say that it may go on. Of a packet
we look at the two addresses only: between two of one side it is kept NEAR_MS, between sides FAR_MS, by chance
up to JITTER (a share of it) more or less. Packets between the same two never overtake each other. A kernel
with `sch_netem` could do the same, but few small machines have it, and this asks for the kernel alone.

Prints `ready` when the queue is bound; ends at end of input. With `--probe` it says only whether it could.
"""

from __future__ import annotations

import argparse
import errno
import heapq
import random
import select
import socket
import struct
import sys
import time
from typing import NamedTuple

NETFILTER = 12  # NETLINK_NETFILTER
QUEUE = 3 << 8  # NFNL_SUBSYS_QUEUE
PACKET, VERDICT, CONFIG = QUEUE | 0, QUEUE | 1, QUEUE | 2
ERROR = 2  # NLMSG_ERROR
COMMAND, PARAMS, MAXLEN, MASK, FLAGS = 1, 2, 3, 4, 5  # NFQA_CFG_...
HEADER, OF_VERDICT, PAYLOAD = 1, 2, 10  # NFQA_PACKET_HDR, NFQA_VERDICT_HDR, NFQA_PAYLOAD
BIND, COPY_PACKET, ACCEPT = 1, 2, 1
WHOLE = 4  # NFQA_CFG_F_GSO: large segments are not cut up for us
QUEUED_MAX = 65_536
BUFFER_BYTES = 32 << 20
IP_BYTES = 20
_REQUEST, _ACKNOWLEDGE = 1, 4
_SO_RCVBUFFORCE, _SOL_NETLINK, _NO_ENOBUFS = 33, 270, 5
_VERDICTS_AT_ONCE = 64


def _attribute(kind: int, content: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(content), kind) + content + bytes(-len(content) % 4)


class Packet(NamedTuple):
    """A packet that waits, and whence and whither it goes (b"" where that could not be read)."""

    number: int
    source: bytes
    target: bytes


def parsed(message: bytes) -> Packet | None:
    """The packet of a message behind its netlink header; None if it holds none."""
    number, source, target = None, b"", b""
    at = 4
    while at + 4 <= len(message):
        size, kind = struct.unpack_from("=HH", message, at)
        if size < 4:
            return None
        content = message[at + 4 : at + size]
        if kind & 0x3FFF == HEADER and len(content) >= 4:
            (number,) = struct.unpack_from("!I", content)
        elif kind & 0x3FFF == PAYLOAD and len(content) >= IP_BYTES and content[0] >> 4 == 4:
            source, target = content[12:16], content[16:20]
        at += size + -size % 4
    return None if number is None else Packet(number, source, target)


class Queue:
    """One queue of the kernel.

    Raises:
        OSError: the kernel has none, or this is not root, or somebody else holds it.
    """

    def __init__(self, number: int) -> None:
        self._number = number
        self._sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETFILTER)
        try:
            self._sock.setsockopt(_SOL_NETLINK, _NO_ENOBUFS, 1)
            self._sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, BUFFER_BYTES)
            self._configure(_attribute(COMMAND, struct.pack("!BBH", BIND, 0, 0)))
            self._configure(_attribute(PARAMS, struct.pack("!IB", IP_BYTES, COPY_PACKET)))
            self._configure(_attribute(MAXLEN, struct.pack("!I", QUEUED_MAX)))
            flags = struct.pack("!I", WHOLE)
            self._configure(_attribute(FLAGS, flags) + _attribute(MASK, flags))
        except OSError:
            self._sock.close()
            raise
        self._sock.setblocking(False)

    def fileno(self) -> int:
        return self._sock.fileno()

    def close(self) -> None:
        self._sock.close()

    def _message(self, kind: int, flags: int, attributes: bytes) -> bytes:
        body = struct.pack("!BBH", 0, 0, self._number) + attributes
        return struct.pack("=IHHII", 16 + len(body), kind, flags, 0, 0) + body

    def _configure(self, attributes: bytes) -> None:
        self._sock.send(self._message(CONFIG, _REQUEST | _ACKNOWLEDGE, attributes))
        while True:
            data = self._sock.recv(65_536)
            if struct.unpack_from("=IH", data)[1] == ERROR:
                (code,) = struct.unpack_from("=i", data, 16)
                if code:
                    raise OSError(-code, f"the kernel's packet queue: {errno.errorcode.get(-code, code)}")
                return

    def taken(self) -> list[Packet]:
        """What has come since the last call."""
        found: list[Packet] = []
        while True:
            try:
                data = self._sock.recv(65_536)
            except BlockingIOError:
                return found
            at = 0
            while at + 16 <= len(data):
                size, kind = struct.unpack_from("=IH", data, at)
                if size < 16:
                    break
                packet = parsed(data[at + 16 : at + size]) if kind == PACKET else None
                if packet is not None:
                    found.append(packet)
                at += size + -size % 4

    def pass_on(self, numbers: list[int]) -> None:
        """Let packets go on."""
        for first in range(0, len(numbers), _VERDICTS_AT_ONCE):
            messages = (
                self._message(VERDICT, _REQUEST, _attribute(OF_VERDICT, struct.pack("!II", ACCEPT, number)))
                for number in numbers[first : first + _VERDICTS_AT_ONCE]
            )
            self._sock.send(b"".join(messages))


class Waiting:
    """Packets on their way, and when each arrives. Times are seconds, `jitter` a share of the delay."""

    def __init__(self, near_s: float, far_s: float, jitter: float, dice: random.Random) -> None:
        self._near_s, self._far_s, self._jitter, self._dice = near_s, far_s, jitter, dice
        self._held: list[tuple[float, int, int]] = []
        self._last: dict[tuple[bytes, bytes], float] = {}
        self._count = 0

    def add(self, packet: Packet, now: float) -> None:
        way = packet.source, packet.target
        delay_s = self._near_s if packet.source[2:3] == packet.target[2:3] else self._far_s
        delay_s *= 1 + self._jitter * self._dice.uniform(-1, 1)
        due = max(now + delay_s, self._last.get(way, 0.0))
        self._last[way] = due
        self._count += 1
        heapq.heappush(self._held, (due, self._count, packet.number))

    def due(self, now: float) -> list[int]:
        """Those that arrive now, in their order."""
        found = []
        while self._held and self._held[0][0] <= now:
            found.append(heapq.heappop(self._held)[2])
        return found

    def patience_s(self, now: float) -> float | None:
        """How long nothing is to be done; None: until something comes."""
        return max(0.0, self._held[0][0] - now) if self._held else None


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("queue", type=int)
    parser.add_argument("near_ms", type=float, nargs="?", default=0.0)
    parser.add_argument("far_ms", type=float, nargs="?", default=0.0)
    parser.add_argument("jitter", type=float, nargs="?", default=0.0)
    parser.add_argument("--probe", action="store_true")
    given = parser.parse_args()
    try:
        queue = Queue(given.queue)
    except OSError as error:
        print(error, flush=True)
        return 1
    print("ready", flush=True)
    if given.probe:
        return 0
    waiting = Waiting(given.near_ms / 1000, given.far_ms / 1000, given.jitter, random.Random(1))
    while True:
        readable, _, _ = select.select([queue, sys.stdin], [], [], waiting.patience_s(time.monotonic()))
        if sys.stdin in readable:
            return 0
        now = time.monotonic()
        for packet in queue.taken():
            waiting.add(packet, now)
        queue.pass_on(waiting.due(time.monotonic()))


if __name__ == "__main__":
    sys.exit(main())
