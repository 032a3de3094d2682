"""Instances of the other generation, beside those that hold the seats: see `core/bluegreen.py`.

They have no claims of their own: what runs beside goes where the seat goes, and ends when it ends. When the
other generation comes to hold the seats, what ran beside runs on as it is (`risen`).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

import trio

from mesh.agent.exposing import Exposed
from mesh.agent.instances import Status
from mesh.agent.orders import Orders
from mesh.core.claims import Seat
from mesh.core.seating import Spec

ENDS = ("backoff", "failed", "exited", "gone")


class Beside:
    """See the module.

    Args:
        expose: registers an instance that runs.
        spawn: starts a task.
        want: tell the supervisor anew what is to run.
        linger_s: between the end of a service and the stop of the instance.
    """

    def __init__(
        self,
        orders: Orders,
        exposed: Exposed,
        expose: Callable[[Seat, Spec], None],
        spawn: Callable[[Callable[[Seat], Awaitable[object]], Seat], None],
        want: Callable[[], None],
        linger_s: float,
    ) -> None:
        self._orders = orders
        self._exposed = exposed
        self._expose = expose
        self._spawn = spawn
        self._want = want
        self._linger_s = linger_s
        self._runs: dict[Seat, tuple[Spec, int]] = {}
        self._ending: set[Seat] = set()

    def launches(self, runs: Mapping[Seat, tuple[int, int]]) -> dict[Seat, tuple[Spec, int]]:
        """What is to run beside these seats: of each its spec and its epoch."""
        wanted: dict[Seat, tuple[Spec, int]] = {}
        holding = set()
        for seat, (_, epoch) in runs.items():
            spec = self._orders.specs().get(seat.name)
            if spec is not None:
                holding.add(seat.dyed(spec.colour))
                if spec.beside is not None:
                    wanted[seat.dyed(spec.beside.colour)] = (spec.beside, epoch)
        ended = self._runs.keys() - wanted.keys() - holding
        for seat in sorted(ended - self._ending):
            self._ending.add(seat)
            self._spawn(self._end, seat)
        self._runs.update(wanted)
        return {seat: held for seat, held in self._runs.items() if seat not in holding}

    async def _end(self, seat: Seat) -> None:
        """No longer wanted: its service first, then the instance."""
        if await self._exposed.remove(seat):
            await trio.sleep(self._linger_s)
        self._ending.discard(seat)
        spec = self._orders.specs().get(seat.name)
        if spec is None or spec.beside is None or spec.beside.colour != seat.colour:
            self._runs.pop(seat, None)
        self._want()

    def risen(self, seat: Seat, gen: int, epoch: int) -> bool:
        """Whether what is to hold a seat ran beside until now."""
        held = self._runs.pop(seat, None)
        return held is not None and (held[0].gen, held[1]) == (gen, epoch)

    def supervised(self, seat: Seat, status: Status) -> None:
        """What became of an instance that holds no seat."""
        held = self._runs.get(seat)
        if status.state in ENDS:
            self._spawn(self._exposed.remove, seat)
        elif seat in self._ending or held is None:
            return
        elif status.state == "running" and status.epoch == held[1]:
            self._expose(seat, held[0])
