"""The words of this room: what a host, a connection and a stream offer, and the limits they keep.

`mesh.net.host` has them on real sockets, `mesh.net.memory` in one process; whoever uses them sees the
protocols below and cannot tell the difference. One test suite runs against both.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from enum import Enum
from typing import Protocol

import msgspec
import trio

from mesh.errors import Unreachable

RECEIVE_BYTES = 64 << 10
DATAGRAM_BYTES_MAX = 1200


class Key(Protocol):
    """What is needed of a node's key (`mesh.identity.keys.NodeKey` has it)."""

    @property
    def seed(self) -> bytes: ...

    @property
    def public(self) -> bytes: ...


class Admission(Enum):
    """What the gate says of a public key."""

    MEMBER = "member"
    STRANGER = "stranger"  # may ask to join: few slots, a short stay
    REFUSED = "refused"


class Refused(Unreachable):
    """The host answered and nobody listens at that port: the machine lives, the agent does not."""


class HostLimits(msgspec.Struct, frozen=True, kw_only=True):
    """Every bound of a host, set on purpose.

    Attributes:
        inbound_max: accepted connections of members at once.
        outbound_max: dialled connections at once.
        strangers_max: connections of strangers at once; the oldest gives way to a new one.
        stranger_s: how long a stranger may stay without becoming a member.
        pending_max: accepted sockets whose handshake is not done. The one silent for longest gives way.
        pending_per_address_max: of these, from one IPv4 address or IPv6 /64.
        handshake_s: from accept to a finished handshake. A healthy one takes 5 ms and 3 round trips.
        negotiate_s: from a new stream to the name of its protocol.
        dials_max: own dials at once.
        streams_max: open streams per peer, each way; each proxied connection of a service is one.
        stranger_streams_max: the same for strangers.
        stall_s: a peer that takes nothing for this long while we have something for it is cut off.
        simultaneous_s: two connections made within this time by the two ends are one dial too many;
            a later one replaces an earlier one, whose other end must have forgotten it.
        close_s: how long a clean close may take.
        relays_max: connections of others carried at once; 0 carries none.
        relays_per_peer_max: of these, asked for by one peer.
    """

    inbound_max: int = 512
    outbound_max: int = 512
    strangers_max: int = 8
    stranger_s: float = 30.0
    pending_max: int = 256
    pending_per_address_max: int = 64
    handshake_s: float = 4.0
    negotiate_s: float = 5.0
    dials_max: int = 32
    streams_max: int = 256
    stranger_streams_max: int = 4
    stall_s: float = 30.0
    simultaneous_s: float = 3.0
    close_s: float = 0.5
    relays_max: int = 64
    relays_per_peer_max: int = 8


class Stream(Protocol):
    """An ordered, reliable, encrypted byte stream to one peer.

    Whoever opened or was handed a stream resets it when done (`finally: await stream.reset()`, or
    `async with stream`): after both ends closed it, this does nothing.
    """

    public: bytes
    peer_id: str
    protocol: str

    @property
    def relayed(self) -> bool:
        """Whether a third node carries its connection."""
        ...

    async def send(self, data: bytes, *, last: bool = False) -> None:
        """Write all of `data`; `last` closes our direction in the same frame.

        Returns when the data is with the kernel. May be cancelled: the connection stays whole, but part of
        `data` may have left, so a cancelled stream must be reset.

        Raises:
            Unreachable: the stream or its connection is gone, or the peer takes nothing.
        """
        ...

    async def receive(self, max_bytes: int = RECEIVE_BYTES) -> bytes:
        """What is there, at least one byte; b"" after the peer closed its direction. May be cancelled.

        Raises:
            Unreachable: the stream was reset or its connection is gone.
            NotFound: the peer does not speak the protocol.
        """
        ...

    async def close(self) -> None:
        """Close our direction; the peer's goes on. Never waits."""
        ...

    async def reset(self) -> None:
        """End both directions. Never waits and never raises."""
        ...


class Connection(Protocol):
    """One connection with one peer.

    Attributes:
        address: multiaddr of the other end, without /p2p.
        outbound: whether we dialled.
        relayed: whether a third node carries it.
        heard_at: monotonic time at which its last bytes arrived.
        why: the reason once it is closed, else "".
    """

    public: bytes
    peer_id: str
    address: str
    outbound: bool
    relayed: bool
    admission: Admission
    opened_at: float

    @property
    def heard_at(self) -> float: ...

    @property
    def why(self) -> str: ...

    @property
    def closed(self) -> bool: ...

    async def open(self, protocol: str, *, deadline_s: float) -> Stream: ...

    async def close(self, why: str = "closed here") -> None: ...

    async def wait_closed(self) -> None: ...


Gate = Callable[[bytes, str], Admission]
Handler = Callable[[Stream], Awaitable[None]]


class Host(Protocol):
    """Listens, dials, and hands streams to handlers."""

    on_connected: Callable[[Connection], None] | None
    on_disconnected: Callable[[Connection], None] | None

    @property
    def addresses(self) -> list[str]: ...

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None: ...

    def handle(self, protocol: str, handler: Handler, *, strangers: bool = False) -> None: ...

    async def dial(self, address: str, public: bytes | None, *, deadline_s: float) -> Connection: ...

    async def dial_via(self, via: bytes, public: bytes, *, deadline_s: float) -> Connection: ...

    async def open(self, public: bytes, protocol: str, *, deadline_s: float) -> Stream: ...

    def connection(self, public: bytes) -> Connection | None: ...

    def connections(self) -> Sequence[Connection]: ...

    async def close_peer(self, public: bytes) -> None: ...

    def recheck(self) -> None: ...


DatagramHandler = Callable[[bytes, tuple[str, int], bytes], None]


class Datagrams(Protocol):
    """Small sealed datagrams between members."""

    async def run(
        self, port: int, on_datagram: DatagramHandler, *, task_status: trio.TaskStatus[None]
    ) -> None: ...

    def send_nowait(self, public: bytes, to: tuple[str, int], payload: bytes) -> None: ...
