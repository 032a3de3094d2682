"""The services of the workloads that run here: registered when an instance runs, withdrawn before it stops.

All instances of a workload on one node are endpoints of one service record. An instance counts as ready when
its service is registered and, if it has checks, healthy.
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


class Exposed:
    """See the module.

    Args:
        ready: told of each instance that has become ready; more than once if it likes.
    """

    def __init__(self, offered: Offering, ready: Callable[[Seat], None]) -> None:
        self._offers = offered.offers
        self._registry = offered.registry
        self._tell_ready = ready
        self._seats: dict[Seat, tuple[Workload, Mapping[str, int]]] = {}
        self._ids: dict[str, str] = {}
        self._dirty: set[str] = set()
        self._news = trio.Event()
        self._lock = trio.Lock()
        self._registry.on_change.append(self._moved)

    def add(self, seat: Seat, workload: Workload, ports: Mapping[str, int]) -> None:
        """An instance runs."""
        self._seats[seat] = (workload, dict(ports))
        self._mark(seat.name)

    async def remove(self, seat: Seat) -> bool:
        """An instance is about to stop, or has; returns whether anybody could have been using it."""
        known = self._seats.pop(seat, None) is not None and seat.name in self._ids
        if known:
            await self._sync(seat.name)
        return known

    def _mark(self, name: str) -> None:
        self._dirty.add(name)
        self._news.set()

    async def run(self) -> None:
        """Until cancelled. What could not be registered is tried again after AGAIN_S."""
        again: set[str] = set()
        while True:
            with trio.move_on_after(AGAIN_S if again else float("inf")):
                await self._news.wait()
            self._news = trio.Event()
            names, self._dirty = sorted(self._dirty | again), set()
            again = {name for name in names if not await self._sync(name)}

    async def _sync(self, name: str) -> bool:
        """Bring the service record of a workload in line with what runs here."""
        async with self._lock:
            try:
                await self._register(name)
            except MeshError as error:
                log.warning("the service of %s cannot be registered: %s", name, error.message)
                return False
        self._look(name)
        return True

    async def _register(self, name: str) -> None:
        spec, held = self._wanted(name), self._ids.get(name)
        if spec is not None:
            service = await self._offers.register(spec, origin=WORKLOAD, source=name, replace=True)
            self._ids[name] = service.id
        if held is not None and (spec is None or self._ids[name] != held):
            await self._offers.deregister(held, origin=WORKLOAD, source=name)
            if spec is None:
                del self._ids[name]

    def _wanted(self, name: str) -> ServiceSpec | None:
        found = [self._seats[seat] for seat in sorted(self._seats) if seat.name == name]
        if not found:
            return None
        workload = found[-1][0]
        chosen = workload.service.port or (workload.ports[0].name if workload.ports else "")
        return service_spec(workload, [ports[chosen] for _, ports in found if ports.get(chosen)])

    # -- readiness --------------------------------------------------------------------------------------

    def _moved(self, names: frozenset[str] | None) -> None:
        for name in list(self._ids):
            self._look(name)

    def healthy(self, name: str) -> bool:
        """Whether what runs here of a workload is registered and, if it has checks, passes them."""
        seats = [seat for seat in sorted(self._seats) if seat.name == name]
        if not seats:
            return False
        id_ = self._ids.get(name)
        if id_ is None or not self._seats[seats[0]][0].checks:
            return True
        instance = self._registry.service(id_)
        return instance is not None and instance.health.usable

    def _look(self, name: str) -> None:
        seats = [seat for seat in sorted(self._seats) if seat.name == name]
        if not seats:
            return
        id_ = self._ids.get(name)
        if id_ is not None and self._seats[seats[0]][0].checks:
            instance = self._registry.service(id_)
            if instance is None or not instance.health.usable:
                return
        for seat in seats:
            self._tell_ready(seat)
