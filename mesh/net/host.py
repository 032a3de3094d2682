"""A node's end of every connection on real sockets: TCP, Noise and Yamux, as any libp2p speaks them.

The handshake is py-libp2p's. The rest is not its Swarm and BasicHost but this room, because most of what
makes those unsafe lies in how they hold connections; see `hostbase`, `door`, `wire` and `yamux` for what
is done otherwise and why.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from functools import partial

from mesh.net import address, standard
from mesh.net.base import Admission, Connection, Gate, Handler, HostLimits, Key, Refused, Stream
from mesh.net.channel import Sealed
from mesh.net.dialling import connect, unreachable
from mesh.net.door import Door, bind
from mesh.net.handshake import Handshaker
from mesh.net.hostbase import HostBase
from mesh.net.wire import TcpWire, Wire

__all__ = ["Admission", "Connection", "Gate", "Handler", "Host", "HostLimits", "Refused", "Stream"]


class Host(HostBase):
    """See `mesh.net.base.Host`.

    Args:
        key: a node's key (`mesh.identity.keys.NodeKey`).
        listen: multiaddrs; port 0 takes a free number, one for all of them, also free as a UDP port.
            Empty: this node only dials.
        gate: asked with a public key and the ip, right after each handshake and at every `recheck`.
        prologue: bytes that every member has in common, else no handshake succeeds; b"" is plain libp2p.
        agent: how we present ourselves to libp2p tools.
    """

    def __init__(
        self,
        key: Key,
        *,
        listen: Sequence[str] = (),
        gate: Gate,
        limits: HostLimits | None = None,
        prologue: bytes = b"",
        agent: str = "mesh",
    ) -> None:
        super().__init__(key, gate, limits)
        self._listen = list(listen)
        self._handshaker = Handshaker(key, prologue)
        self._door = Door(self.limits, self._enter, self.counts)
        self.handle(standard.PING, standard.answer_ping)
        self.handle(
            standard.IDENTIFY,
            standard.answer_identify(key.public, agent, lambda: self._addresses, lambda: self._handlers),
        )

    @property
    def pending(self) -> int:
        """Accepted connections whose handshake is not done."""
        return self._door.pending

    def _open(self) -> list[Callable[[], Awaitable[None]]]:
        listeners = bind(self._listen)
        self._addresses = [address.text_of(*sock.getsockname()[:2]) for sock in listeners]
        return [partial(self._door.serve, sock) for sock in listeners]

    async def _connect(self, to: address.Address) -> Wire:
        sock = await connect(to)
        try:
            return TcpWire(sock, initiator=True)
        except OSError as error:  # taken up, and reset before we looked: its agent is just ending
            sock.close()
            raise unreachable(to, error) from None

    async def _outbound(self, wire: Wire, expected: bytes | None) -> Sealed:
        return await self._handshaker.outbound(wire, expected)

    async def _inbound(self, wire: Wire, gate: Callable[[bytes], None]) -> Sealed:
        return await self._handshaker.inbound(wire, gate)
