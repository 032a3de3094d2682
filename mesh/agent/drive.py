"""The one loop in which a machine of the core meets time.

A machine is `handle(event, now)`, `tick(now)` and `deadline()`; it never waits and never acts. `Drive`
hands it events with the monotonic clock, performs what it returns in order, and calls `tick` when its
deadline comes. Performing an action never waits for the network: it fills bounded queues.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any, Protocol

import trio

DEAR_S = 0.0001


class Machine(Protocol):
    """What `Drive` needs of a machine; see `mesh/core`."""

    def handle(self, event: Any, now: float) -> Iterable[Any]: ...

    def tick(self, now: float) -> Iterable[Any]: ...

    def deadline(self) -> float: ...


class Drive:
    """Runs one machine.

    Args:
        perform: carries out one action; synchronous, must not fail.

    Attributes:
        counts: events and actions seen, by their type's name.
    """

    def __init__(self, machine: Machine, perform: Callable[[Any], None]) -> None:
        self.machine = machine
        self.counts: Counter[str] = Counter()
        self._perform = perform
        self._moved = trio.Event()
        self._sleeps_until = float("-inf")
        self._dear = False

    def handle(self, event: Any) -> None:
        """Give the machine an event now."""
        self.counts[type(event).__name__] += 1
        self._carry_out(self.machine.handle(event, trio.current_time()))
        self.nudge()

    def nudge(self) -> None:
        """The machine's deadline may have moved; if it comes before the end of our sleep, wake."""
        if self._dear or self.machine.deadline() < self._sleeps_until:
            self._moved.set()

    def _carry_out(self, actions: Iterable[Any]) -> None:
        for action in actions:
            self.counts[type(action).__name__] += 1
            self._perform(action)

    async def run(self) -> None:
        """Tick the machine at its deadlines, until cancelled."""
        while True:
            begun = time.perf_counter()
            deadline = self.machine.deadline()
            self._dear = time.perf_counter() - begun > DEAR_S  # too dear to ask at every event
            if deadline <= trio.current_time():
                self._carry_out(self.machine.tick(trio.current_time()))
                await trio.lowlevel.checkpoint()
                continue
            self._moved, self._sleeps_until = trio.Event(), deadline
            with trio.move_on_at(deadline):
                await self._moved.wait()
