"""A stream to any member: over the connection that is up, or over one dialled now."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import trio

from mesh.agent.callstream import Stream
from mesh.errors import TimedOut
from mesh.identity.keys import peer_id_of
from mesh.net.base import Host


class Reach:
    """Opens streams for calls.

    Args:
        host: ours; it is made late in a start.
        connect: connects with a member at one of its addresses, or raises Unreachable or Denied.
    """

    def __init__(self, host: Callable[[], Host], connect: Callable[[bytes], Awaitable[None]]) -> None:
        self._host = host
        self._connect = connect
        self._dials: dict[bytes, trio.Lock] = {}

    async def open(self, public: bytes, protocol: str, deadline_s: float) -> Stream:
        """A stream of a protocol to a member.

        Raises:
            Unreachable: no way to it. Denied: it, or we, refused. TimedOut: not done within the deadline.
        """
        with trio.move_on_after(deadline_s):
            if not self._connected(public):
                await self._dial(public)
            return await self._host().open(public, protocol, deadline_s=deadline_s)
        raise TimedOut(f"{peer_id_of(public)} could not be reached within {deadline_s:g} s")

    def _connected(self, public: bytes) -> bool:
        return any(connection.public == public for connection in self._host().connections())

    async def _dial(self, public: bytes) -> None:
        # One dial to a peer at a time: a second connection would replace the first under its streams.
        lock = self._dials.setdefault(public, trio.Lock())
        try:
            async with lock:
                if not self._connected(public):
                    await self._connect(public)
        finally:
            if not lock.locked():
                self._dials.pop(public, None)
