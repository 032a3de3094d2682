"""One connection: a wire, its cipher, its multiplexer, and who is at the other end."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import trio

from mesh.identity.keys import peer_id_of
from mesh.net.base import Admission, HostLimits
from mesh.net.channel import Channel, Sealed
from mesh.net.stream import MuxStream
from mesh.net.wire import Wire
from mesh.net.yamux import Mux


class MuxConnection:
    """See `mesh.net.base.Connection`.

    Args:
        start: starts a task that the host cancels when it stops.
        accept: told of each stream that the peer opens.
        ended: told once when the connection has ended.
    """

    def __init__(
        self,
        wire: Wire,
        sealed: Sealed,
        limits: HostLimits,
        *,
        start: Callable[[Callable[[], Awaitable[object]]], None],
        accept: Callable[[MuxConnection, MuxStream], None],
        ended: Callable[[MuxConnection], None],
    ) -> None:
        self.wire = wire
        self.public = sealed.public
        self.peer_id = peer_id_of(sealed.public)
        self.address = wire.address
        self.outbound = wire.is_initiator
        self.relayed = wire.relayed
        self.admission = Admission.STRANGER
        self.opened_at = trio.current_time()
        self._close_s = limits.close_s
        self._ended = ended
        self._closed = trio.Event()
        channel = Channel(
            wire,
            sealed.cipher,
            early=sealed.early,
            stall_s=limits.stall_s,
            spawn=start,
            fail=lambda why: self.mux.fail(why),
        )
        self.mux = Mux(
            channel,
            public=self.public,
            peer_id=self.peer_id,
            initiator=wire.is_initiator,
            stall_s=limits.stall_s,
            streams_max=limits.streams_max,
            accept=lambda stream: accept(self, stream),
            failed=self._failed,
        )

    def __repr__(self) -> str:
        return f"<connection {'to' if self.outbound else 'from'} {self.peer_id} at {self.address}>"

    @property
    def why(self) -> str:
        return self.mux.why

    @property
    def closed(self) -> bool:
        return self._closed.is_set()

    @property
    def heard_at(self) -> float:
        return self.wire.heard_at

    @property
    def bytes_in(self) -> int:
        """Bytes received on the socket so far."""
        return self.wire.bytes_in

    @property
    def bytes_out(self) -> int:
        """Bytes sent on the socket so far."""
        return self.wire.bytes_out

    async def open(self, protocol: str, *, deadline_s: float) -> MuxStream:
        """A new stream; see `Host.open`."""
        return await self.mux.open(protocol, deadline_s=deadline_s)

    async def close(self, why: str = "closed here") -> None:
        """Say goodbye, give what is queued a moment to leave, and close."""
        if not self.closed:
            self.mux.say_goodbye()
            try:
                with trio.move_on_after(self._close_s):
                    await self.mux.channel.wait_emptied()
            finally:
                self.mux.fail(why)

    async def wait_closed(self) -> None:
        await self._closed.wait()

    def _failed(self, _why: str) -> None:
        self._closed.set()
        self._ended(self)
