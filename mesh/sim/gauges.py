"""What a run measures: how fast and by how many hops records spread, how fast the dead are found.

Distributions keep every sample up to a bound; past it new ones replace old ones at random places, so that a
long run is still represented evenly (reservoir sampling, Vitter 1985).
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import msgspec

from mesh.core.record import MESH, Record

if TYPE_CHECKING:
    from mesh.sim.node import Node

SAMPLES_MAX = 20_000
TRACKED_MAX = 4_000


class Samples:
    """A distribution."""

    def __init__(self, seed: int) -> None:
        self.count = 0
        self.total = 0.0
        self.largest = float("-inf")
        self._kept: list[float] = []
        self._rng = random.Random(seed)

    def add(self, value: float) -> None:
        """Take one sample."""
        self.count += 1
        self.total += value
        self.largest = max(self.largest, value)
        if len(self._kept) < SAMPLES_MAX:
            self._kept.append(value)
        else:
            at = self._rng.randrange(self.count)
            if at < SAMPLES_MAX:
                self._kept[at] = value

    def quantile(self, share: float) -> float:
        """The value below which a share of the samples lies; nan without any."""
        if not self._kept:
            return float("nan")
        ordered = sorted(self._kept)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))]

    def figures(self) -> dict[str, Any]:
        """count, mean, p50, p90, p99, max."""
        if not self.count:
            return {"count": 0}
        figures = {"mean": self.total / self.count, "max": self.largest}
        figures |= {f"p{int(share * 100)}": self.quantile(share) for share in (0.5, 0.9, 0.99)}
        return {"count": self.count, **{name: round(value, 4) for name, value in figures.items()}}


class _Tracked(msgspec.Struct):
    """One write on its way: since when, whom it is for, and by how many hops it got where."""

    since: float
    audience: int
    hops: dict[int, int]


class Gauges:
    """The measures of one run. `messages`: frames that left together in one write to a stream count once."""

    def __init__(self) -> None:
        self.frames = self.messages = 0
        self.reach_s = Samples(1)
        self.all_s = Samples(2)
        self.hops = Samples(3)
        self.found_s = Samples(4)
        self.settled_s = Samples(5)
        self._tracked: dict[tuple[str, bytes, int], _Tracked] = {}

    def track(self, node: Node, scope: str, rec: Record, audience: int) -> None:
        """Follow a write from its acknowledgement on."""
        if len(self._tracked) >= TRACKED_MAX:
            del self._tracked[next(iter(self._tracked))]
        key = (scope, rec.aid, rec.hlc)
        self._tracked[key] = _Tracked(node.fleet.world.now, audience, {node.number: 0})

    def arrived(self, node: Node, scope: str, records: list[Record], link: bytes | None) -> None:
        """Records were committed somewhere."""
        for rec in records:
            tracked = self._tracked.get((scope, rec.aid, rec.hlc))
            if tracked is None or node.number in tracked.hops:
                continue
            source = node.fleet.number.get(link, -1) if link is not None else -1
            hops = tracked.hops[node.number] = tracked.hops.get(source, 0) + 1
            if node.started_at > tracked.since:
                continue  # it was down: when it has the record says when it came back
            delay_s = node.fleet.world.now - tracked.since
            self.reach_s.add(delay_s)
            self.hops.add(hops)
            if len(tracked.hops) == tracked.audience:
                self.all_s.add(delay_s)
                del self._tracked[scope, rec.aid, rec.hlc]


def audience(node: Node, scope: str) -> int:
    """How many nodes a record of a scope is for."""
    nodes = node.fleet.nodes
    return len(nodes) if scope == MESH else sum(node.near(other) for other in nodes)
