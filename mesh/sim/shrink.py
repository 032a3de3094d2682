"""Makes a failing run smaller: fewer blows, less time, the same check broken (delta debugging, Zeller 2002).

A plan is plain data and the seed stays, so each try is one run. First the time after the failure is cut off,
then blows are left out in halves, quarters and single ones, as long as what is left still fails the same way.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import msgspec

from mesh.sim.faults import Blow
from mesh.sim.parts import Parts
from mesh.sim.run import UNMEASURED, Result, Run
from mesh.sim.scenario import Scenario

TRIES_MAX = 40
MARGIN_S = 1.0
Told: TypeAlias = Callable[[int, int], None]


class Shrinker:
    """One failure on its way to the smallest run that shows it.

    Args:
        told: called with (tries so far, blows left).
    """

    def __init__(
        self, scenario: Scenario, found: Result, parts: Parts | None, told: Told | None = None
    ) -> None:
        assert found.failure is not None
        self.scenario, self.best = scenario, found
        self._check = found.failure.check
        self._parts, self._told = parts, told or (lambda tries, left: None)
        self.tries = 0

    def shrink(self) -> tuple[Scenario, Result]:
        """The smallest scenario and run found within the tries."""
        if self._check == UNMEASURED:
            return self.scenario, self.best  # without its faults there would be even less to measure
        self._shorten()
        size = max(1, len(self.best.plan) // 2)
        while size >= 1 and self.best.plan and self.tries < TRIES_MAX:
            if not self._drop(size):
                size //= 2
            size = min(size, len(self.best.plan))
        self._shorten()
        return self.scenario, self.best

    def _shorten(self) -> None:
        failure = self.best.failure
        assert failure is not None
        formed = self.best.figures.get("formed_s", 0.0) + self.scenario.mesh.quiet_s
        needed = min(self.scenario.mesh.duration_s, max(failure.at_s - formed, 0.0) + MARGIN_S)
        if needed < self.scenario.mesh.duration_s:
            mesh = msgspec.structs.replace(self.scenario.mesh, duration_s=round(needed, 1))
            shorter = msgspec.structs.replace(self.scenario, mesh=mesh)
            self._try(shorter, [blow for blow in self.best.plan if blow.at_s <= needed])

    def _drop(self, size: int) -> bool:
        """Leave out some run of `size` blows; whether one could be spared."""
        for start in range(0, len(self.best.plan), size):
            rest = [*self.best.plan[:start], *self.best.plan[start + size :]]
            if self._try(self.scenario, rest):
                return True
        return False

    def _try(self, scenario: Scenario, blows: Sequence[Blow]) -> bool:
        if self.tries >= TRIES_MAX:
            return False
        self.tries += 1
        self._told(self.tries, len(self.best.plan))
        result = Run(scenario, self.best.seed, blows=blows, parts=self._parts).execute()
        if result.failure is None or result.failure.check != self._check:
            return False
        self.scenario, self.best = scenario, result
        return True
