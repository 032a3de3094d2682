"""A virtual clock: a heap of timed calls. The same seed gives the same run, in any process.

Nothing here reads a clock, rolls dice of its own or iterates over a set. Calls due at one time run in the
order in which they were asked for.
"""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop, heappush


class World:
    """Virtual time, seconds, starting at 0."""

    def __init__(self) -> None:
        self.now = 0.0
        self.calls = 0
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0

    def at(self, when: float, call: Callable[[], None]) -> None:
        """Run `call` at a time; one that is past means now."""
        self._count += 1
        now = self.now
        heappush(self._heap, (when if when > now else now, self._count, call))

    def after(self, delay_s: float, call: Callable[[], None]) -> None:
        """Run `call` after a delay."""
        self._count += 1
        heappush(self._heap, (self.now + delay_s if delay_s > 0 else self.now, self._count, call))

    def run(self, until: float, stop: Callable[[], bool] | None = None) -> bool:
        """Let time pass up to `until`, or until `stop` holds after a call.

        Returns:
            Whether `stop` held.
        """
        heap, calls = self._heap, 0
        try:
            while heap and heap[0][0] <= until:
                self.now, _, call = heappop(heap)
                calls += 1
                call()
                if stop is not None and stop():
                    return True
        finally:
            self.calls += calls
        self.now = max(self.now, until)
        return False
