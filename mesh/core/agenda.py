"""What is due when: a heap of moments, and for each key the one that counts.

A moment that was moved or dropped leaves its entry in the heap; it is passed over when it comes up, and the
heap is made anew when most of it is such. So each change costs the logarithm of their number, however many
keys others make us keep: to look at all of them at every turn would let one neighbour stop the loop.
"""

from __future__ import annotations

from collections.abc import Iterator
from heapq import heapify, heappop, heappush
from typing import Generic, TypeVar

SPARE = 64
K = TypeVar("K", bound=tuple[str, bytes])


class Agenda(Generic[K]):
    """Keys with the moment at which each is due."""

    def __init__(self) -> None:
        self._at: dict[K, float] = {}
        self._heap: list[tuple[float, K]] = []

    def __contains__(self, key: object) -> bool:
        return key in self._at

    def __len__(self) -> int:
        return len(self._at)

    def __iter__(self) -> Iterator[K]:
        return iter(self._at)

    def at(self, key: K) -> float:
        """When a key is due; never, if it is not in the agenda."""
        return self._at.get(key, float("inf"))

    def set(self, key: K, at: float) -> None:
        """It is due then, whatever was said before."""
        self._at[key] = at
        heappush(self._heap, (at, key))
        if len(self._heap) > 2 * len(self._at) + SPARE:
            self._heap = [(when, held) for held, when in self._at.items()]
            heapify(self._heap)

    def drop(self, key: K) -> None:
        """It is not due any more."""
        self._at.pop(key, None)

    def take(self, now: float, most: int) -> list[K]:
        """What is due, the longest due first; no longer in the agenda."""
        taken: list[K] = []
        while len(taken) < most and self.first() <= now:
            _, key = heappop(self._heap)
            del self._at[key]
            taken.append(key)
        return taken

    def first(self) -> float:
        """When the next one is due."""
        while self._heap and self._at.get(self._heap[0][1]) != self._heap[0][0]:
            heappop(self._heap)
        return self._heap[0][0] if self._heap else float("inf")
