"""Leases of the exclusive instances that run here, or want to.

The session of a lease is kept in the store while it is held: an agent that is restarted within the lease goes
on with it under the same token, and its instance, which its shim keeps until the deadline, never stops.
"""

from __future__ import annotations

from collections.abc import Callable

import trio

from mesh.agent.leases import Hold, Leases
from mesh.agent.node import Node
from mesh.agent.supervisor import Supervisor
from mesh.core.claims import Seat
from mesh.core.placing import AnyEvent, Leased, Unleased
from mesh.errors import MeshError
from mesh.store.store import Txn

META = "workload_lease/"
WAIT_S = 10.0
AGAIN_S = 5.0


class Tenure:
    """See the module.

    Args:
        runs_as: a seat in the colour of what holds it.
        give: takes events for placement.
    """

    def __init__(
        self,
        node: Node,
        leases: Leases,
        supervisor: Supervisor,
        runs_as: Callable[[Seat], Seat],
        give: Callable[[AnyEvent], None],
    ) -> None:
        self._node = node
        self._leases = leases
        self._supervisor = supervisor
        self._runs_as = runs_as
        self._give = give
        self._holds: dict[Seat, Hold] = {}

    def until(self, seat: Seat) -> float:
        """CLOCK_BOOTTIME up to which an instance may live; 0 without a lease."""
        hold = self._holds.get(seat)
        return hold.until if hold is not None else 0.0

    async def hold(self, seat: Seat, voters: str, lease_s: float) -> None:
        """Take the lease of an instance, and let the instance live for as long as it is held."""
        try:
            hold = await self._leases.hold(
                f"workload/{seat}",
                wait_s=WAIT_S,
                quorum=voters,
                ttl_s=lease_s,
                session=self._node.store.meta(META + str(seat)),
                on_lost=lambda hold: self._lost(seat, hold),
            )
            await self._keep(seat, hold.session)
        except MeshError as error:
            self._give(Unleased(seat, error.message, AGAIN_S))
            return
        self._holds[seat] = hold
        self._supervisor.renew(str(self._runs_as(seat)), hold.until)
        self._give(Leased(seat, hold.token))
        while self._holds.get(seat) is hold and not hold.lost.is_set():
            self._supervisor.renew(str(self._runs_as(seat)), hold.until)
            renewed = hold.renewed
            with trio.move_on_after(1.0):
                await renewed.wait()

    def _lost(self, seat: Seat, hold: Hold) -> None:
        if self._holds.get(seat) is hold:
            del self._holds[seat]
            self._give(Unleased(seat, hold.why or "lost", AGAIN_S))

    async def release(self, seat: Seat) -> None:
        """Give a lease back; the instance has ended."""
        hold = self._holds.pop(seat, None)
        if hold is not None:
            self._leases.release_nowait(hold)
        await self._keep(seat, None)

    async def _keep(self, seat: Seat, session: bytes | None) -> None:
        if self._node.store.meta(META + str(seat)) != session:

            def job(txn: Txn) -> None:
                txn.put_meta(META + str(seat), session)

            await self._node.store.write(job, spare=True)
