"""A whole simulated mesh and its troubles: kill, power cut, freeze, restart, split, one-way cuts, loss.

    fleet = Fleet(32, seed=1).form()
    fleet.kill(3)
    seconds = fleet.until(fleet.whole, 10)

Every transition that any node announces is kept in `changes` and folded into the digest, with every trouble;
one that calls a healthy, reachable, awake member dead is kept in `false_dead` as well.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import msgspec

from mesh.core.lease import path_of
from mesh.core.liveness import Liveness
from mesh.core.record import MESH, SCOPES, scope_tag
from mesh.core.rings import Place
from mesh.core.tidings import Config as SpreadConfig
from mesh.core.vitals import PROFILES, LivenessConfig, RemoteReported, State, StateChanged
from mesh.sim.checks import Checks
from mesh.sim.disk import DURABLE, Disk
from mesh.sim.gauges import Gauges
from mesh.sim.ledger import Ledger
from mesh.sim.network import Line, Network, Pipe
from mesh.sim.node import Node
from mesh.sim.parts import Parts
from mesh.sim.post import Post
from mesh.sim.summary import Summary
from mesh.sim.world import World

MESH_ID = b"simulated mesh 1"
AWAKE_S = 10.0
SMALL, LOOK_EVERY_S = 200, 0.1
FEW = 3
FALLS, RISES = ("kill", "power cut", "freeze"), ("start", "resume")


class Change(NamedTuple):
    """One node changed its mind about another; numbers, not aids. `settled`: it has been up for a while."""

    at: float
    viewer: int
    subject: int
    old: State
    new: State
    why: str
    seen_by: tuple[int, ...]
    settled: bool


class Fleet:
    """Nodes 0 to count - 1 on one network.

    Args:
        seed: everything random follows from it.
        latency_s: one way, if `near` is not given. near, far: the lines inside and between zones.
        places: zone and duties per node; all in one zone by default.
        liveness: the machine's class, so that a broken variant can be switched in.
        parts: all the rules, where more than this one is broken.
        shared: nodes share what never changes of their views (`_cards`).
    """

    def __init__(
        self,
        count: int,
        seed: int,
        *,
        config: LivenessConfig = PROFILES["lan"],
        latency_s: float = 0.001,
        near: Line | None = None,
        far: Line | None = None,
        loss: float = 0.0,
        places: Sequence[Place] | None = None,
        liveness: type[Liveness] | None = None,
        parts: Parts | None = None,
        shared: bool = False,
    ) -> None:
        self.world = World()
        self.rng = random.Random(seed)
        self.config = config
        self.parts = parts or Parts()
        if liveness is not None:
            self.parts = msgspec.structs.replace(self.parts, liveness=liveness)
        if places and len({place.zone for place in places}) > 1:
            organs = self.parts.organs or (Summary,)
            self.parts = msgspec.structs.replace(self.parts, organs=organs)
        self.spread_config = SpreadConfig()
        self.answer_s = 3 * config.miss_s + 1.0
        self.calendar_ms = 0
        self.net = Network(self.world, random.Random(f"net/{seed}"), near or Line(latency_s), far)
        self.net.loss = loss
        self.checks, self.post, self.ledger, self.gauges = Checks(), Post(), Ledger(), Gauges()
        self.lines: Callable[[float, str, int, str], None] | None = None
        self.nodes: list[Node] = []
        self.number: dict[bytes, int] = {}
        self.lease_paths: dict[bytes, str] = {}
        self.zone_nodes: dict[str, list[Node]] = {}
        self.shared = shared
        self.words: dict[str, dict[str, Any]] = {}
        self._looked_at = float("-inf")
        self.orphans: list[tuple[int, Pipe]] = []
        self.changes: list[Change] = []
        self.false_dead: list[Change] = []
        self.flickers: list[Change] = []
        self.dead_beliefs = 0
        self.split_at: float | None = None
        self._fallen: dict[int, float] = {}
        self._trace = hashlib.blake2b(digest_size=16)
        self._stirred = True
        for index in range(count):
            aid = self.rng.randbytes(16)
            node = Node(self, aid, places[index] if places else Place("default"), seed)
            self.number[aid] = node.number
            self.lease_paths[aid] = path_of(aid)
            self.nodes.append(node)
            self.zone_nodes.setdefault(node.place.zone, []).append(node)
        self._able = [node for node in self.nodes if node.place.gateway]

    def build(self, node: Node, rng: random.Random) -> Liveness:
        """A machine for a node's new life."""
        make = self.parts.liveness
        return make(self.config, node.aid, MESH_ID, node.place, rng, node.disk.incarnation, self.world.now)

    def new_disk(self, number: int, aid: bytes, place: Place) -> Disk:
        """An empty disk."""
        tags = {scope: scope_tag(scope, place.zone) for scope in SCOPES}
        return Disk.empty(self.checks, number, aid, tags)

    def company(self, node: Node, scope: str) -> bool:
        """Whether anybody else replicates a scope."""
        return any(other is not node and (scope == MESH or node.near(other)) for other in self.nodes)

    def remote(self, node: Node, reports: list[RemoteReported]) -> None:
        """A gateway's word about its zone reached a node."""
        for report in reports:
            if node.machine is not None and node.machine.board.is_news(report.aid, report.state):
                node.feed(report)

    def form(self, quiet_s: float = 20.0) -> Fleet:
        """Start everybody, wait until all agree, and let some quiet time pass; itself, for chaining."""
        self.start()
        assert self.until(self.whole, 60) < 60, "the mesh does not form"
        self.run(quiet_s + self.rng.random())
        return self

    # --- troubles ---

    def start(self, numbers: Iterable[int] | None = None, *, spread_s: float = 0.0) -> None:
        """Start processes, at once or evenly over some time."""
        chosen = list(range(len(self.nodes)) if numbers is None else numbers)
        for index, number in enumerate(chosen):
            self._adopt_orphans(number)
            node = self.nodes[number]
            if not spread_s:
                self._start(node)
                continue
            delay = spread_s * index / max(1, len(chosen) - 1)
            self.world.after(delay, lambda node=node: self._start(node))  # type: ignore[misc]
        if spread_s:
            self.world.run(self.world.now + spread_s)
        self._stirred = True

    def _start(self, node: Node) -> None:
        self.trace("start", node.number)
        node.start(self._cards(node))
        self._stirred = True

    def _cards(self, node: Node) -> tuple[tuple[bytes, Place], ...]:
        """Whom a node knows as members.

        Where views are shared: its own zone, and of the others those who can be gateways, if it can be one
        itself; else those of one other zone, by which it knows that there are several. Nobody looks at the
        rest of the table but to answer users, and that answer is the same everywhere (`Run` holds it).
        """
        if not self.shared:
            return tuple((other.aid, other.place) for other in self.nodes)
        far = self._able if node.place.gateway else self._able[:FEW]
        near = self.zone_nodes[node.place.zone]
        known = [*near, *(other for other in far if not node.near(other))]
        return tuple((other.aid, other.place) for other in known)

    def _adopt_orphans(self, number: int) -> None:
        """A rebooted kernel answers segments of streams it does not know with a reset."""
        for host, pipe in self.orphans:
            if host == number:
                self.net.powered[number] = True
                pipe.end(number, graceful=False)
        self.orphans = [(host, pipe) for host, pipe in self.orphans if host != number]

    def kill(self, number: int) -> None:
        """kill -9."""
        self.trace("kill", number)
        self.nodes[number].stop(power_cut=False)
        self._stirred = True

    def power_cut(self, number: int) -> None:
        """The whole computer goes."""
        self.trace("power cut", number)
        self.nodes[number].stop(power_cut=True)
        self._stirred = True

    def freeze(self, number: int, for_s: float | None = None) -> None:
        """SIGSTOP, and SIGCONT later if a time is given."""
        self.trace("freeze", number)
        self.nodes[number].freeze()
        self._stirred = True
        if for_s is not None:
            self.world.after(for_s, lambda: self.resume(number))

    def resume(self, number: int) -> None:
        """SIGCONT."""
        self.trace("resume", number)
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

    def lose_disk(self, number: int) -> None:
        """A node that is down finds its disk empty when it comes back."""
        self._set_back(self.nodes[number], None)

    def set_back(self, number: int, image: Disk) -> None:
        """The disk of a node that is down is set back to a backup."""
        self._set_back(self.nodes[number], image)

    def _set_back(self, node: Node, image: Disk | None) -> None:
        assert node.machine is None, "a disk is exchanged while nobody uses it"
        self.trace("disk lost" if image is None else "disk set back", node.number)
        self.ledger.losing(node, image, self.nodes)
        node.disk = image if image is not None else self.new_disk(node.number, node.aid, node.place)
        for scope in SCOPES:
            head = node.disk.logs[scope].author(node.aid).head if scope in DURABLE else 0
            self.checks.set_back(scope_tag(scope, node.place.zone), node.aid, head)
        self.checks.incarnations[node.aid] = node.disk.incarnation

    def heal(self) -> None:
        """Let everything through again."""
        self.net.mend(list(self.net.cut))
        self._stirred = True

    def stir(self) -> None:
        """Something changed that `until` is to look at."""
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
        look_every_s = 0.0 if len(self.nodes) <= SMALL else LOOK_EVERY_S

        def stop() -> bool:
            if not self._stirred or self.world.now < self._looked_at + look_every_s:
                return False
            self._stirred, self._looked_at = False, self.world.now
            return holds()

        if holds() or self.world.run(begin + limit_s, stop) or (look_every_s and holds()):
            return self.world.now - begin
        return float("inf")

    def running(self) -> list[Node]:
        """Nodes that run and are awake."""
        return [node for node in self.nodes if node.machine is not None and not node.frozen]

    def reaches(self, one: int, other: int) -> bool:
        """Whether packets pass both ways."""
        return (one, other) not in self.net.cut and (other, one) not in self.net.cut

    def abroad(self) -> bool:
        """Whether everybody sees the members of other zones as alive, by the word of their gateways."""
        return all(
            node.near(other) or node.sees(other.aid) == State.ALIVE
            for node in self.running()
            for other in self.nodes
        )

    def whole(self) -> bool:
        """Whether everybody awake sees everybody as they are: reachable runners alive, all others gone."""
        return all(
            node.agrees(other, reachable=self.reaches(node.number, other.number))
            for node in self.running()
            for other in self.zone_nodes[node.place.zone]
            if other is not node
        )

    def overdue(self, bound_s: float) -> list[int]:
        """Nodes that went down longer ago than that, and not everybody knows."""
        return [number for number, since in self._fallen.items() if self.world.now - since > bound_s]

    def disagreement(self) -> str:
        """The first pair that keeps the mesh from being whole."""
        for node in self.running():
            for other in self.nodes:
                reachable = self.reaches(node.number, other.number)
                if other is not node and not node.agrees(other, reachable=reachable):
                    return f"node {node.number} sees {other.number} as {node.sees(other.aid)}"
        return "all agree"

    def know_gone(self, number: int) -> bool:
        """Whether everybody awake sees one node as dead."""
        other = self.nodes[number]
        near = self.zone_nodes[other.place.zone]
        awake = (node for node in near if node.machine is not None and not node.frozen and node is not other)
        return all(node.agrees(other, reachable=False) for node in awake)

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
        settled = self.world.now - viewer.started_at > AWAKE_S
        assert viewer.machine is not None
        self.checks.believes(viewer.number, action.aid, viewer.machine.board.members[action.aid].inc)
        change = Change(
            self.world.now, viewer.number, subject, action.old, action.new, action.why, seen_by, settled
        )
        self.changes.append(change)
        self.dead_beliefs += (change.new == State.DEAD) - (change.old == State.DEAD)
        self.trace(str(change.new), subject, f"was {change.old}, to {viewer.number}: {change.why}")
        if action.new == State.DEAD and self._healthy(viewer, self.nodes[subject]):
            # Who has heard nothing of a member itself yet may believe old accusations for a moment.
            known = viewer.machine.board.members[action.aid].hlc > 0
            (self.false_dead if known else self.flickers).append(change)
        if self.split_at is not None and self.whole():
            self.gauges.settled_s.add(self.world.now - self.split_at)
            self.split_at = None
        since = self._fallen.get(subject)
        if since is not None and action.new == State.DEAD and self.know_gone(subject):
            self.gauges.found_s.add(self.world.now - since)
            del self._fallen[subject]

    def _healthy(self, viewer: Node, subject: Node) -> bool:
        now = self.world.now
        return (
            subject.machine is not None
            and not subject.frozen
            and now - subject.resumed_at > AWAKE_S
            and now - viewer.resumed_at > AWAKE_S
            and not self.net.cut
            and now - self.net.mended_at > AWAKE_S
        )

    def trace(self, what: str, number: int, more: str = "") -> None:
        """Fold one line into the digest, and hand it to whoever keeps lines."""
        if what in FALLS:
            self._fallen[number] = self.world.now
        elif what in RISES:
            self._fallen.pop(number, None)
        self._trace.update(f"{self.world.now!r} {what} {number} {more}\n".encode())
        if self.lines is not None:
            self.lines(self.world.now, what, number, more)

    @property
    def digest(self) -> str:
        """A digest of everything traced so far."""
        return self._trace.hexdigest()
