"""A whole simulated mesh and its troubles: kill, power cut, freeze, restart, split, one-way cuts, loss.

    fleet = Fleet(32, seed=1).form()
    fleet.kill(3)
    seconds = fleet.until(fleet.whole, 10)

Every transition that any node announces is kept in `changes` and folded into `trace`; one that calls a
healthy, reachable, awake member dead is kept in `false_dead` as well.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from mesh.core.liveness import Liveness
from mesh.core.rings import Place
from mesh.core.vitals import PROFILES, LivenessConfig, State, StateChanged
from mesh.sim.network import Network, Pipe
from mesh.sim.node import Node
from mesh.sim.world import World

MESH_ID = b"simulated mesh 1"
AWAKE_S = 10.0
Builder = Callable[[Node, random.Random], Liveness]


class Change(NamedTuple):
    """One node changed its mind about another; numbers, not aids."""

    at: float
    viewer: int
    subject: int
    old: State
    new: State
    why: str
    seen_by: tuple[int, ...]


class Fleet:
    """Nodes 0 to count - 1 on one network.

    Args:
        seed: everything random follows from it.
        latency_s: one way.
        places: zone and duties per node; all in one zone by default.
        liveness: the machine's class, so that a broken variant can be switched in.
        flood: whether accusations ignore quiet links, as they should.
    """

    def __init__(
        self,
        count: int,
        seed: int,
        *,
        config: LivenessConfig = PROFILES["lan"],
        latency_s: float = 0.001,
        loss: float = 0.0,
        places: Sequence[Place] | None = None,
        liveness: type[Liveness] = Liveness,
        flood: bool = True,
    ) -> None:
        self.world = World()
        self.rng = random.Random(seed)
        self.config, self.flood = config, flood
        self._liveness = liveness
        self.net = Network(self.world, random.Random(f"net/{seed}"), latency_s)
        self.net.loss = loss
        self.nodes: list[Node] = []
        self.number: dict[bytes, int] = {}
        self.orphans: list[tuple[int, Pipe]] = []
        self.changes: list[Change] = []
        self.false_dead: list[Change] = []
        self._trace = hashlib.blake2b(digest_size=16)
        self._stirred = True
        for index in range(count):
            aid = self.rng.randbytes(16)
            node = Node(self, aid, places[index] if places else Place("default"), seed)
            self.number[aid] = node.number
            self.nodes.append(node)

    def build(self, node: Node, rng: random.Random) -> Liveness:
        """A machine for a node's new life."""
        return self._liveness(self.config, node.aid, MESH_ID, node.place, rng, node.disk_inc, self.world.now)

    def form(self, quiet_s: float = 20.0) -> Fleet:
        """Start everybody, wait until all agree, and let some quiet time pass; itself, for chaining."""
        self.start()
        assert self.until(self.whole, 60) < 60, "the mesh does not form"
        self.run(quiet_s + self.rng.random())
        return self

    # --- troubles ---

    def start(self, numbers: Iterable[int] | None = None, *, spread_s: float = 0.0) -> None:
        """Start processes, at once or evenly over some time."""
        cards = tuple((node.aid, node.place) for node in self.nodes)
        chosen = list(range(len(self.nodes)) if numbers is None else numbers)
        for index, number in enumerate(chosen):
            self._adopt_orphans(number)
            node = self.nodes[number]
            delay = spread_s * index / max(1, len(chosen) - 1)
            self.world.after(delay, lambda node=node: node.start(cards))  # type: ignore[misc]
        self.world.run(self.world.now + spread_s)
        self._stirred = True

    def _adopt_orphans(self, number: int) -> None:
        """A rebooted kernel answers segments of streams it does not know with a reset."""
        for host, pipe in self.orphans:
            if host == number:
                self.net.powered[number] = True
                pipe.end(number, graceful=False)
        self.orphans = [(host, pipe) for host, pipe in self.orphans if host != number]

    def kill(self, number: int) -> None:
        """kill -9."""
        self.nodes[number].stop(power_cut=False)
        self._stirred = True

    def power_cut(self, number: int) -> None:
        """The whole computer goes."""
        self.nodes[number].stop(power_cut=True)
        self._stirred = True

    def freeze(self, number: int, for_s: float | None = None) -> None:
        """SIGSTOP, and SIGCONT later if a time is given."""
        self.nodes[number].freeze()
        self._stirred = True
        if for_s is not None:
            self.world.after(for_s, lambda: self.resume(number))

    def resume(self, number: int) -> None:
        """SIGCONT."""
        self.nodes[number].resume()
        self._stirred = True

    def cut(self, sources: Iterable[int], targets: Iterable[int], *, both_ways: bool = True) -> None:
        """Let nothing through from any source to any target."""
        others = list(targets)
        for source in sources:
            for target in others:
                if source != target:
                    self.net.cut[source, target] = None
                    if both_ways:
                        self.net.cut[target, source] = None
        self._stirred = True

    def split(self, side: Sequence[int]) -> None:
        """Cut a side off from all others."""
        self.cut(side, [number for number in range(len(self.nodes)) if number not in side])

    def heal(self) -> None:
        """Let everything through again."""
        self.net.cut.clear()
        self._stirred = True

    # --- time and questions ---

    def run(self, seconds: float) -> None:
        """Let time pass."""
        self.world.run(self.world.now + seconds)

    def until(self, holds: Callable[[], bool], limit_s: float) -> float:
        """Let time pass until something holds, asked after every change of anybody's mind.

        Returns:
            Seconds it took; infinity if it did not hold within the limit.
        """
        begin = self.world.now

        def stop() -> bool:
            stirred, self._stirred = self._stirred, False
            return stirred and holds()

        if holds() or self.world.run(begin + limit_s, stop):
            return self.world.now - begin
        return float("inf")

    def running(self) -> list[Node]:
        """Nodes that run and are awake."""
        return [node for node in self.nodes if node.machine is not None and not node.frozen]

    def reaches(self, one: int, other: int) -> bool:
        """Whether packets pass both ways."""
        return (one, other) not in self.net.cut and (other, one) not in self.net.cut

    def whole(self) -> bool:
        """Whether everybody awake sees everybody as they are: reachable runners alive, all others gone."""
        return all(
            node.agrees(other, reachable=self.reaches(node.number, other.number))
            for node in self.running()
            for other in self.nodes
            if other is not node
        )

    def know_gone(self, number: int) -> bool:
        """Whether everybody awake sees one node as dead."""
        other = self.nodes[number]
        return all(node.agrees(other, reachable=False) for node in self.running() if node is not other)

    def bytes_per_second(self, seconds: float) -> float:
        """Mean bytes sent per node and second over the coming seconds, headers counted."""
        before = sum(self.net.bytes_sent)
        self.run(seconds)
        return (sum(self.net.bytes_sent) - before) / seconds / len(self.nodes)

    # --- the record ---

    def note(self, viewer: Node, action: StateChanged) -> None:
        """Keep one change of mind."""
        self._stirred = True
        subject = self.number[action.aid]
        seen_by = tuple(self.number[aid] for aid in action.seen_by)
        change = Change(self.world.now, viewer.number, subject, action.old, action.new, action.why, seen_by)
        self.changes.append(change)
        self._trace.update(repr(change).encode())
        if action.new == State.DEAD and self._healthy(viewer, self.nodes[subject]):
            self.false_dead.append(change)

    def _healthy(self, viewer: Node, subject: Node) -> bool:
        now = self.world.now
        return (
            subject.machine is not None
            and not subject.frozen
            and now - subject.resumed_at > AWAKE_S
            and now - viewer.resumed_at > AWAKE_S
            and not self.net.cut
        )

    @property
    def trace(self) -> str:
        """A digest of every change of mind so far."""
        return self._trace.hexdigest()
