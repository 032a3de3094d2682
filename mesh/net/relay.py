"""Connections through a third node, for two that cannot reach each other, as behind NAT.

    caller  -> relay    01 | key wanted (32)
    relay   -> callee   02 | key of the caller (32)
    callee  -> relay    00 accepted | 01 refused
    relay   -> caller   00 connected | else a reason (REASONS)

From then on the relay passes bytes both ways, and the two ends make their handshake through it: it is
sealed from end to end, and the key that answers is proved as on any connection. The relay can cut or
delay, and see how much passes, nothing else. Both legs are plain streams, so their windows bound what
the relay holds, and it carries few at once. A direct connection replaces a relayed one, whose open streams
may come to their end; a relayed one replaces a direct one only where its caller has given that up, and that
is not of just now. Relays are not chained.

(py-libp2p has circuit relay v2. It is built on its host, which is not used here, and a relay there must
be asked for a reservation that runs out; in a mesh everybody holds connections anyway.)
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Protocol

import trio

from mesh.errors import MeshError, PeerError, Unreachable
from mesh.identity.keys import peer_id_of
from mesh.net import negotiate
from mesh.net.stream import MuxStream
from mesh.net.wire import Wire

if TYPE_CHECKING:
    from mesh.net.base import HostLimits, Stream
    from mesh.net.connection import MuxConnection

PROTOCOL = "/mesh/relay/1"
_KEY_BYTES = 32
_CALL, _RING = b"\x01", b"\x02"
_OK, _NOT_CONNECTED, _BUSY, _REFUSED = b"\x00", b"\x01", b"\x02", b"\x03"
REASONS = {
    _NOT_CONNECTED: "it is not connected with it",
    _BUSY: "it carries as many connections as it may",
    _REFUSED: "the other end does not take it",
}


class Switching(Protocol):
    """What a relay needs of its host."""

    public: bytes
    limits: HostLimits

    def connection(self, public: bytes) -> MuxConnection | None: ...

    async def take_in_relayed(self, wire: Wire) -> None: ...


class StreamWire(Wire):
    """A wire inside a stream to a relay."""

    relayed = True

    def __init__(self, stream: MuxStream, remote: tuple[str, int], *, initiator: bool) -> None:
        super().__init__(remote, f"/p2p/{stream.peer_id}/p2p-circuit", initiator=initiator)
        self._stream = stream

    def close_now(self) -> None:
        if not self.closed:
            self.closed = True
            self._stream.abort()

    def try_send(self, data: bytes | memoryview) -> int:
        sent = self._stream.try_send(data)
        self.bytes_out += sent
        return sent

    async def wait_writable(self) -> None:
        await self._stream.wait_writable()

    async def _receive(self) -> bytes:
        return await self._stream.receive()


class Relay:
    """The three parts in one: asks relays, is one, and is called through them.

    Attributes:
        carried: connections of others carried now.
    """

    def __init__(self, host: Switching) -> None:
        self._host = host
        self._carried: Counter[bytes] = Counter()

    @property
    def carried(self) -> int:
        return self._carried.total()

    async def ask(self, stream: MuxStream, public: bytes) -> Wire:
        """The caller's part, on a stream to the relay.

        Raises:
            Unreachable: the relay says no, or is gone.
        """
        try:
            await stream.send(_CALL + public)
            answer = await negotiate.exactly(stream.receive, 1)
            if answer != _OK:
                why = REASONS.get(answer, "of an unknown reason")
                raise Unreachable(f"{stream.peer_id} does not relay to {peer_id_of(public)}: {why}")
            return self._wire(stream, initiator=True)
        except BaseException:
            stream.abort()
            raise

    async def serve(self, stream: Stream) -> None:
        """Handler of the protocol."""
        assert isinstance(stream, MuxStream)
        head = await negotiate.exactly(stream.receive, 1 + _KEY_BYTES)
        kind, public = head[:1], head[1:]
        if kind == _RING:
            await stream.send(_OK)
            await self._host.take_in_relayed(self._wire(stream, initiator=False))
        elif kind == _CALL:
            refused = await self._carry(stream, public)
            if refused:
                await stream.send(refused, last=True)
        else:
            raise PeerError(f"asked a relay for {kind!r}")

    def _wire(self, stream: MuxStream, *, initiator: bool) -> StreamWire:
        relay = self._host.connection(stream.public)
        if relay is None:
            raise Unreachable(f"the connection with {stream.peer_id} is gone")
        return StreamWire(stream, relay.wire.remote, initiator=initiator)

    async def _carry(self, caller: MuxStream, public: bytes) -> bytes:
        """Connect two peers until one of them ends it; or the reason why not."""
        limits, asking = self._host.limits, caller.public
        callee = self._host.connection(public)
        here = self._host.connection(asking)
        if callee is None or callee.relayed or here is None or here.relayed or public == asking:
            return _NOT_CONNECTED
        if self.carried >= limits.relays_max or self._carried[asking] >= limits.relays_per_peer_max:
            return _BUSY
        self._carried[asking] += 1
        try:
            async with await callee.open(PROTOCOL, deadline_s=limits.negotiate_s) as leg:
                try:
                    with trio.fail_after(limits.handshake_s):
                        await leg.send(_RING + asking)
                        answer = await negotiate.exactly(leg.receive, 1)
                except (MeshError, trio.TooSlowError):
                    return _REFUSED
                if answer != _OK:
                    return _REFUSED
                await caller.send(_OK)
                await _splice(caller, leg)
        finally:
            self._carried[asking] -= 1
            if not self._carried[asking]:
                del self._carried[asking]
        return b""


async def _splice(one: MuxStream, other: MuxStream) -> None:
    """Pass bytes both ways until both directions have ended, or one has broken."""
    async with trio.open_nursery() as nursery:

        async def pump(source: MuxStream, sink: MuxStream) -> None:
            try:
                while data := await source.receive():
                    await sink.send(data)
                await sink.close()
            except MeshError:
                one.abort()
                other.abort()
                nursery.cancel_scope.cancel()

        nursery.start_soon(pump, one, other)
        nursery.start_soon(pump, other, one)
