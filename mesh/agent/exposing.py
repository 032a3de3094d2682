"""The services of the workloads that run here: registered when an instance runs, withdrawn before it stops.

All instances of a workload on one node are endpoints of one service record, and while two generations stand
side by side those of each. An instance counts as ready when its service is registered and, if it has checks,
healthy.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping

import trio

from mesh.agent.offering import Offering
from mesh.agent.offers import WORKLOAD
from mesh.core.claims import Seat
from mesh.core.registry import Spec as ServiceSpec
from mesh.core.workload import Workload, service_spec
from mesh.errors import MeshError

log = logging.getLogger(__name__)

AGAIN_S = 2.0
Kin = tuple[str, str]  # a workload's name and a colour


class Exposed:
    """See the module.

    Args:
        ready: told of each instance that has become ready; more than once if it likes.
    """

    def __init__(self, offered: Offering, ready: Callable[[Seat], None]) -> None:
        self._offers = offered.offers
        self._checks = offered.checks
        self.registry = offered.registry
        self._tell_ready = ready
        self._seats: dict[Seat, tuple[Workload, int, Mapping[str, int]]] = {}
        self._ids: dict[Kin, str] = {}
        self._dirty: set[Kin] = set()
        self._news = trio.Event()
        self._lock = trio.Lock()
        self.registry.on_change.append(self._moved)

    def add(self, seat: Seat, workload: Workload, gen: int, ports: Mapping[str, int]) -> None:
        """An instance runs."""
        self._seats[seat] = (workload, gen, dict(ports))
        self._dirty.add(_kin(seat))
        self._news.set()

    async def remove(self, seat: Seat) -> bool:
        """An instance is about to stop, or has; returns whether anybody could have been using it."""
        known = self._seats.pop(seat, None) is not None and _kin(seat) in self._ids
        if known:
            await self._sync(_kin(seat))
        return known

    async def run(self) -> None:
        """Until cancelled. What could not be registered is tried again after AGAIN_S."""
        again: set[Kin] = set()
        while True:
            with trio.move_on_after(AGAIN_S if again else float("inf")):
                await self._news.wait()
            self._news = trio.Event()
            found, self._dirty = sorted(self._dirty | again), set()
            again = {kin for kin in found if not await self._sync(kin)}

    async def _sync(self, kin: Kin) -> bool:
        """Bring the service record of a workload in line with what runs here."""
        async with self._lock:
            try:
                await self._register(kin)
            except MeshError as error:
                log.warning("the service of %s cannot be registered: %s", kin[0], error.message)
                return False
        self._look(kin)
        return True

    async def _register(self, kin: Kin) -> None:
        spec, held = self._wanted(kin), self._ids.get(kin)
        if spec is not None:
            service = await self._offers.register(spec, origin=WORKLOAD, source=kin[0], replace=True)
            self._ids[kin] = service.id
        if held is not None and (spec is None or self._ids[kin] != held):
            await self._offers.deregister(held, origin=WORKLOAD, source=kin[0])
            if spec is None:
                del self._ids[kin]

    def _of(self, kin: Kin) -> list[Seat]:
        return [seat for seat in sorted(self._seats) if _kin(seat) == kin]

    def _wanted(self, kin: Kin) -> ServiceSpec | None:
        found = [self._seats[seat] for seat in self._of(kin)]
        if not found:
            return None
        workload, gen, _ = found[-1]
        chosen = workload.service.port or (workload.ports[0].name if workload.ports else "")
        ports = [each[chosen] for _, _, each in found if each.get(chosen)]
        return service_spec(workload, ports, colour=kin[1], generation=gen)

    # -- readiness --------------------------------------------------------------------------------------

    def _moved(self, names: frozenset[str] | None) -> None:
        for kin in list(self._ids):
            self._look(kin)

    def healthy(self, name: str, colour: str) -> bool:
        """Whether what runs here of a workload is registered, and each instance passes its checks, if any."""
        seats = self._of((name, colour))
        if not seats:
            return False
        id_ = self._ids.get((name, colour))
        if id_ is None:
            return self._wanted((name, colour)) is None  # not registered yet, or it has no service
        if not self._seats[seats[0]][0].checks:
            return True
        instance = self.registry.service(id_)
        well = all(gauge.health.usable for gauge in self._checks.gauges(id_))
        return well and instance is not None and instance.health.usable

    def _look(self, kin: Kin) -> None:
        seats = self._of(kin)
        if not seats:
            return
        id_ = self._ids.get(kin)
        if id_ is not None and self._seats[seats[0]][0].checks:
            instance = self.registry.service(id_)
            if instance is None or not instance.health.usable:
                return
        for seat in seats:
            self._tell_ready(seat)


def _kin(seat: Seat) -> Kin:
    return seat.name, seat.colour
