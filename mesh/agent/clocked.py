"""The machine of placement on two clocks: the loop's, and mesh time."""

from __future__ import annotations

from collections.abc import Callable

from mesh.core import placing
from mesh.core.placement import Placement
from mesh.core.placing import AnyEvent


class Clocked:
    """The machine, told the mesh time along with the loop's."""

    def __init__(self, machine: Placement, now_ms: Callable[[], int]) -> None:
        self._machine = machine
        self._now_ms = now_ms
        self.deadline = machine.deadline

    def handle(self, event: AnyEvent, now: float) -> list[placing.Action]:
        self._machine.at(now, self._now_ms())
        return self._machine.handle(event, now)

    def tick(self, now: float) -> list[placing.Action]:
        self._machine.at(now, self._now_ms())
        return self._machine.tick(now)
