"""Counters of the agent: plain integers by name, which only grow.

    counters["link.frames_in"] += 1

Names are written in the code, never made from what a peer sent, so their number is bounded by it.
"""

from __future__ import annotations


class Counters(dict[str, int]):
    """A name that was never counted is 0."""

    def __missing__(self, name: str) -> int:
        return 0

    def snapshot(self) -> dict[str, int]:
        """A copy, sorted by name."""
        return dict(sorted(self.items()))
