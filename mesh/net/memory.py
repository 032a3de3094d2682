"""Hosts and datagrams of one process, plugged into a switchboard instead of a network.

Everything above the socket is the real thing: multiplexer, windows, streams, admission, replacement of
connections. Handshake and cipher are left out: the ends just name their keys.
"""

from __future__ import annotations

import heapq
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence

import trio

from mesh.errors import Denied, MeshError, PeerError, Unreachable
from mesh.identity.keys import peer_id_of
from mesh.net import address, negotiate
from mesh.net.base import DATAGRAM_BYTES_MAX, DatagramHandler, Gate, HostLimits, Key, Refused
from mesh.net.channel import Sealed
from mesh.net.hostbase import HostBase
from mesh.net.switchboard import KERNEL_BYTES, Conditions, Pipe, Switchboard
from mesh.net.wire import Wire

__all__ = ["Conditions", "MemoryDatagrams", "MemoryHost", "Switchboard"]
_logger = logging.getLogger("mesh.net")
_INBOX_MAX = 4096


class MemoryWire(Wire):
    """One end of a connection across the switchboard."""

    def __init__(self, out: Pipe, into: Pipe, remote: tuple[str, int], *, initiator: bool) -> None:
        super().__init__(remote, address.text_of(*remote), initiator=initiator)
        self._out, self._into = out, into

    def close_now(self) -> None:
        if not self.closed:
            self.closed = True
            self._out.put(b"")
            self._into.closed_here = True
            self._into.touch()
            self._out.touch()

    def try_send(self, data: bytes | memoryview) -> int:
        if self.closed:
            raise Unreachable("the connection is gone")
        taken = bytes(data[: max(0, KERNEL_BYTES - self._out.size)])
        if taken:
            self._out.put(taken)
        self.bytes_out += len(taken)
        return len(taken)

    async def wait_writable(self) -> None:
        await self._out.wait_room()
        if self.closed:
            raise Unreachable("the connection is gone")

    async def _receive(self) -> bytes:
        await trio.lowlevel.checkpoint()
        return await self._into.take()


class _Plain:
    """The cipher of bytes that nobody can overhear."""

    def encrypt(self, data: bytes) -> bytes:
        return data

    def decrypt(self, data: bytes) -> bytes:
        return data


class MemoryHost(HostBase):
    """See `mesh.net.base.Host`. Listening on port 0 takes a free number.

    Args:
        prologue: both ends must have the same, as on the real host.
    """

    def __init__(
        self,
        board: Switchboard,
        key: Key,
        *,
        listen: Sequence[str] = (),
        gate: Gate,
        limits: HostLimits | None = None,
        prologue: bytes = b"",
    ) -> None:
        super().__init__(key, gate, limits)
        self._board = board
        self._listen = [address.parse(text) for text in listen]
        self._prologue = prologue

    def _open(self) -> list[Callable[[], Awaitable[None]]]:
        free_port = 0
        for where in self._listen:
            free_port = free_port or (0 if where.port else self._board.free_port())
            at = where.host, where.port or free_port
            self._board.plug_in(at, self)
            self._addresses.append(address.text_of(*at))
        return [self._listen_until_cancelled]

    async def _listen_until_cancelled(self) -> None:
        try:
            await trio.sleep_forever()
        finally:
            self._board.pull_out(self)

    async def _connect(self, to: address.Address) -> Wire:
        listener = await self._board.reach((to.host, to.port), self.public)
        if listener is None:
            raise Refused(f"{to.host}:{to.port} refused the connection: nobody listens there")
        out = Pipe(self._board, self.public, listener.public)
        back = Pipe(self._board, listener.public, self.public)
        source = (address.parse(self._addresses[0]).host if self._addresses else "127.0.0.1"), 1
        listener.arrive(MemoryWire(back, out, source, initiator=False))
        return MemoryWire(out, back, (to.host, to.port), initiator=True)

    async def _outbound(self, wire: Wire, expected: bytes | None) -> Sealed:
        wire.collect(self.public + len(self._prologue).to_bytes(2, "big") + self._prologue)
        public = await negotiate.exactly(wire.read, 32)
        if expected is not None and public != expected:
            raise Denied(f"another node than {peer_id_of(expected)} answered")
        return Sealed(_Plain(), public)

    async def _inbound(self, wire: Wire, gate: Callable[[bytes], None]) -> Sealed:
        public = await negotiate.exactly(wire.read, 32)
        size = int.from_bytes(await negotiate.exactly(wire.read, 2), "big")
        if (await negotiate.exactly(wire.read, size) if size else b"") != self._prologue:
            raise PeerError("it is of another mesh")
        gate(public)
        wire.collect(self.public)
        await wire.flush()
        return Sealed(_Plain(), public)

    def arrive(self, wire: Wire) -> None:
        """Another host dials this one."""
        self.counts["accepted"] += 1
        self._start(self._attend, wire)

    async def _attend(self, wire: Wire) -> None:
        try:
            with trio.fail_after(self.limits.handshake_s):
                await self._enter(wire)
        except (MeshError, trio.TooSlowError) as error:
            self.counts["handshake_failed"] += 1
            _logger.debug("%s was not let in: %s", wire.remote, error)
            wire.close_now()
        except BaseException:
            wire.close_now()
            raise


class MemoryDatagrams:
    """See `mesh.net.base.Datagrams`.

    Args:
        host: the IP address it is reached at.
    """

    def __init__(
        self,
        board: Switchboard,
        key: Key,
        public_of: Callable[[bytes], bytes | None],
        *,
        host: str = "127.0.0.1",
    ) -> None:
        self.public = key.public
        self._board = board
        self._public_of = public_of
        self._host = host
        self._at: tuple[str, int] | None = None
        self._inbox: list[tuple[float, int, bytes, tuple[str, int], bytes]] = []
        self._changed = trio.Event()
        self.counts: Counter[str] = Counter()

    async def run(
        self,
        port: int,
        on_datagram: DatagramHandler,
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Receive until cancelled."""
        self._at = self._host, port
        self._board.plug_in_datagrams(self._at, self)
        try:
            task_status.started()
            while True:
                due = self._inbox[0][0] if self._inbox else float("inf")
                if due > trio.current_time():
                    self._changed = trio.Event()
                    with trio.move_on_at(due):
                        await self._changed.wait()
                    continue
                _, _, sender, source, payload = heapq.heappop(self._inbox)
                self._deliver(on_datagram, sender, source, payload)
                await trio.lowlevel.checkpoint()
        finally:
            self._board.plug_in_datagrams(self._at, None)
            self._at = None

    def _deliver(
        self, on_datagram: DatagramHandler, sender: bytes, source: tuple[str, int], payload: bytes
    ) -> None:
        if self._public_of(sender[:16]) != sender or sender == self.public:
            self.counts["unknown"] += 1
            return
        self.counts["received"] += 1
        try:
            on_datagram(sender[:16], source, payload)
        except Exception:
            _logger.exception("a datagram from %s", sender[:16].hex())

    def send_nowait(self, public: bytes, to: tuple[str, int], payload: bytes) -> None:
        """Send, or lose, one datagram."""
        assert len(payload) <= DATAGRAM_BYTES_MAX, len(payload)
        there = self._board.inbox(to)
        if self._at is None or there is None:
            self.counts["unsendable"] += 1
            return
        self.counts["sent"] += 1
        if there.public == public and not self._board.is_lost(self.public, public):
            there.put(self._board.travel_s(self.public, public), self.public, self._at, payload)

    def put(self, travel_s: float, sender: bytes, source: tuple[str, int], payload: bytes) -> None:
        """A datagram is on its way here."""
        if len(self._inbox) < _INBOX_MAX:
            due = trio.current_time() + travel_s
            heapq.heappush(self._inbox, (due, self._board.number(), sender, source, payload))
            self._changed.set()
