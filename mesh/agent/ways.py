"""The way to a member: direct, and where that does not come about soon, through a neighbour linked with both.

    at once         its known addresses, one after the other
    a little later  neighbours are asked to relay, also while an address is still being tried: the first that
                    stands wins and the other try ends (as Happy Eyeballs does with IPv6 and IPv4, RFC 8305)
    while relayed   its addresses are tried again, after RETURN_S[0] and then ever less often. The direct
                    connection replaces the relayed one, whose open streams may come to their end

Who has a connection costs nothing here. A host that refuses is there and its agent is not, so no relay is
asked then.
"""

from __future__ import annotations

import logging
import random
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Iterable
from contextlib import asynccontextmanager

import trio

from mesh.agent.lasting import sparing
from mesh.errors import Denied, MeshError, TimedOut, Unreachable
from mesh.identity.keys import peer_id_of, public_of
from mesh.net.base import Host, Refused, Stream

log = logging.getLogger(__name__)

DIAL_DEADLINE_S = 5.0
RELAY_DEADLINE_S = 3.0
RELAY_AFTER_S = 1.0
RELAY_SHARE = 4  # of a deadline, at most one such part is spent before a relay is asked
RELAYS_TRIED = 3
RETURN_S = (5.0, 10.0, 20.0, 40.0, 60.0)
LOOK_S = 5.0


async def race(
    direct: Callable[[], Awaitable[object]], relayed: Callable[[], Awaitable[bool]], after_s: float
) -> None:
    """Try the direct way, and after a while, or when it fails, a relay beside it; ends with the first.

    Raises:
        MeshError: what the direct way failed with, if no relay worked either.
    """
    failed = trio.Event()
    errors: list[MeshError] = []
    stands = False

    async def first() -> None:
        nonlocal stands
        try:
            await direct()
            stands = True
        except MeshError as error:
            errors.append(error)
            failed.set()
        else:
            nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(first)
        with trio.move_on_after(max(0.0, after_s)):
            await failed.wait()
        if not (errors and isinstance(errors[0], Refused | Denied)):
            try:
                if await relayed():
                    stands = True
                    nursery.cancel_scope.cancel()
            except MeshError as error:  # here it would come out as a group, which nobody expects
                log.debug("the way through another failed: %s", error.message)
    if not stands:
        raise errors[0]


class Ways:
    """Connections of one node with members, made when somebody needs one.

    Args:
        addresses_of: known multiaddrs of a member, best first.
        neighbours: keys of linked neighbours, which may be asked to relay.
        seen_by: who says that it is linked with a member, or of whom that member says so.
    """

    def __init__(
        self,
        addresses_of: Callable[[bytes], Iterable[str]],
        neighbours: Callable[[], Iterable[bytes]],
        seen_by: Callable[[bytes], Collection[bytes]],
        rng: random.Random,
    ) -> None:
        self._host: Host
        self._addresses_of = addresses_of
        self._neighbours = neighbours
        self._seen_by = seen_by
        self._rng = rng
        self._locks: dict[tuple[str, bytes], trio.Lock] = {}
        self._returns: dict[bytes, tuple[int, float]] = {}

    def use(self, host: Host) -> None:
        """The host is made after the rest, because loading it takes most of a start."""
        self._host = host

    async def open(self, public: bytes, protocol: str, deadline_s: float) -> Stream:
        """A stream to a member, connected for it if need be.

        Raises:
            Unreachable, TimedOut: it cannot be reached.
        """
        try:
            return await self._host.open(public, protocol, deadline_s=deadline_s)
        except Unreachable:
            pass
        with trio.move_on_after(max(0.0, deadline_s)):
            async with self._alone("open", public):
                if self._host.connection(public) is None:
                    after_s = min(RELAY_AFTER_S, deadline_s / RELAY_SHARE)
                    await race(
                        lambda: self._direct(public, deadline_s), lambda: self.relayed(public), after_s
                    )
            return await self._host.open(public, protocol, deadline_s=deadline_s)
        raise TimedOut(f"{peer_id_of(public)} was not reached within {deadline_s:g} s")

    async def _direct(self, public: bytes, deadline_s: float) -> str:
        """Connect at the first address that answers; which."""
        last: MeshError = Unreachable(f"no address of {peer_id_of(public)} is known")
        for address in list(self._addresses_of(public[:16])):
            try:
                await self._host.dial(address, public, deadline_s=deadline_s)
                return address
            except MeshError as error:
                last = error
        raise last

    async def relayed(self, public: bytes) -> bool:
        """Connect to a member through a neighbour of ours that is linked with it; says whether it worked."""
        async with self._alone("relay", public):
            if self._host.connection(public) is not None:
                return True
            for via in self._relays(public):
                try:
                    await self._host.dial_via(via, public, deadline_s=RELAY_DEADLINE_S)
                    return True
                except MeshError as error:
                    name, by = peer_id_of(public), peer_id_of(via)
                    log.debug("%s is not reached through %s: %s", name, by, error.message)
        return False

    def carrier_of(self, public: bytes) -> bytes | None:
        """Through whom we are connected with a member, None for directly or not at all."""
        connection = self._host.connection(public)
        if connection is None or not connection.relayed:
            return None
        return public_of(connection.address.split("/")[2])

    def _relays(self, public: bytes) -> list[bytes]:
        """Whom to ask, those first that are known to be linked with the member."""
        near = sorted(set(self._neighbours()) - {public})
        self._rng.shuffle(near)
        seen_by = self._seen_by(public[:16])
        return sorted(near, key=lambda via: via[:16] not in seen_by)[:RELAYS_TRIED]

    @asynccontextmanager
    async def _alone(self, what: str, public: bytes) -> AsyncGenerator[None]:
        """One at a time: of two connections to one peer the second would replace the first."""
        lock = self._locks.setdefault((what, public), trio.Lock())
        try:
            async with lock:
                yield
        finally:
            if not lock.locked():
                self._locks.pop((what, public), None)

    # -- back to the direct way -------------------------------------------------------------------------

    async def keep_returning(self, returned: Callable[[bytes, str], Awaitable[None]]) -> None:
        """Look for direct ways to whom we reach through others. Until cancelled.

        Args:
            returned: called with the key and address of a member to which a direct way stands again.
        """
        async with trio.open_nursery() as nursery:
            while True:
                await trio.sleep(LOOK_S * self._rng.uniform(0.8, 1.2))
                for public in self._due(trio.current_time()):
                    nursery.start_soon(sparing, self._return, public, returned)

    def _due(self, now: float) -> list[bytes]:
        relayed = [each.public for each in self._host.connections() if each.relayed]
        self._returns = {public: self._returns.get(public, (0, now)) for public in relayed}
        due = [public for public, (_, at) in self._returns.items() if at <= now]
        for public in due:
            tries = self._returns[public][0]
            wait_s = RETURN_S[min(tries, len(RETURN_S) - 1)]
            self._returns[public] = tries + 1, now + wait_s * self._rng.uniform(0.8, 1.2)
        return due

    async def _return(self, public: bytes, returned: Callable[[bytes, str], Awaitable[None]]) -> None:
        try:
            await returned(public, await self._direct(public, DIAL_DEADLINE_S))
        except MeshError as error:
            log.debug("%s is still reached through others only: %s", peer_id_of(public), error.message)
