"""A mesh of placement machines on one heap of timed events: claims travel, nodes die, split and come back.

Liveness is right after a while, the store is each node's word as it travels, a program starts in a tenth of a
second. `World.troubles` lists what must never be: an instance under an epoch that another node had it under
before, so that its fencing token does not grow; more work on a node than fits. The same seed gives the same
run.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable, Iterable
from typing import Any

from mesh.core.candidates import Site
from mesh.core.claims import Claim, Offer, Seat, Stage
from mesh.core.placement import Placement
from mesh.core.placing import (
    Acquire,
    ClaimsSaid,
    Config,
    Ended,
    Failed,
    Found,
    Leased,
    Ran,
    Release,
    Run,
    Say,
    Settled,
    SitesSaid,
    SpecsSaid,
    StandingSaid,
    Stop,
    Stopped,
    Tell,
    Unleased,
)
from mesh.core.seating import Spec
from mesh.core.workload import parse

GIB = 1 << 30


def aid_of(number: int) -> bytes:
    return bytes([number]) * 16


def spec(name: str, gen: int = 1, **fields: Any) -> Spec:
    return Spec(parse({"name": name, "command": ["/bin/true"], **fields}), gen)


class Node:
    """One node: its machine, and what runs on it. The world delivers."""

    def __init__(self, world: World, aid: bytes, **fields: Any) -> None:
        self.world = world
        self.aid = aid
        self.fields = fields
        self.up = False
        self.runs: dict[Seat, int] = {}
        self.stored: dict[Seat, Claim] = {}
        self.told: list[Tell] = []
        self.machine: Placement
        self.life = 0

    def start(self, *, found: Iterable[Seat] = (), settled: bool = True) -> None:
        world = self.world
        self.up = True
        self.life += 1
        self.machine = world.machine(world.config, self.aid, world.now_ms)
        offer = Offer(world.now_ms, runtimes=("process", "container"))
        world.sites[self.aid] = self.site(offer)
        self.give(SitesSaid(dict(world.sites)))
        self.give(SpecsSaid(dict(world.specs)))
        known = [(aid, seat, claim) for (aid, seat), claim in world.view(self).items()]
        self.give(ClaimsSaid(tuple(known)))
        for other in world.nodes:
            self.give(
                StandingSaid(other.aid, "alive" if other.up and world.linked(self, other) else "unknown")
            )
        self.runs = {seat: epoch for seat, epoch in self.runs.items() if seat in set(found)}
        self.give(Found(frozenset(found)))
        if settled:
            self.give(Settled())

    def site(self, offer: Offer) -> Site:
        labels = {"name": self.aid.hex()[:2], "zone": "default", **self.fields.get("labels", {})}
        cpu, memory = self.fields.get("cpu", 8.0), self.fields.get("memory", 16 * GIB)
        return Site(self.aid, offer, labels, self.fields.get("capabilities", frozenset()), cpu, memory)

    def give(self, event: Any) -> None:
        if self.up:
            self.machine.at(self.world.now, self.world.now_ms)
            self._do(self.machine.handle(event, self.world.now))

    def tick(self) -> None:
        if self.up:
            self.machine.at(self.world.now, self.world.now_ms)
            self._do(self.machine.tick(self.world.now))

    def _do(self, actions: Iterable[Any]) -> None:
        world = self.world
        for action in actions:
            match action:
                case Say(seat=seat, claim=claim):
                    if claim is None:
                        self.stored.pop(seat, None)
                    else:
                        self.stored[seat] = claim
                    world.spread(self, seat, claim)
                case Run(seat=seat, epoch=epoch):
                    world.later(world.start_s, self._started, seat, epoch, self.life)
                case Stop(seat=seat):
                    self.runs.pop(seat, None)
                    world.noted()
                    world.later(0.01, self.give, Stopped(seat))
                case Acquire(seat=seat):
                    world.later(0.02, self._ask, seat)
                case Release(seat=seat):
                    world.leases.pop(seat, None)
                case Tell():
                    self.told.append(action)
        if actions:
            world.agenda(self)

    def _ask(self, seat: Seat) -> None:
        holder, until, token = self.world.leases.get(seat, (b"", 0.0, 0))
        if holder in (b"", self.aid) or until < self.world.now:
            self.world.leases[seat] = (self.aid, self.world.now + 30.0, token + 1)
            self.give(Leased(seat, token + 1))
        else:
            self.give(Unleased(seat, "held", until - self.world.now + 0.1))

    def _started(self, seat: Seat, epoch: int, life: int) -> None:
        if not self.up or life != self.life or seat not in self.stored or self.machine.own.stopping(seat):
            return
        why = self.world.broken(self, seat)
        if why:
            self.give(Failed(seat, why))
            if seat in self.stored and not self.machine.own.stopping(seat):
                self.world.later(1.0, self._started, seat, epoch, life)
            return
        self.runs[seat] = epoch
        self.world.started(self, seat, epoch)
        self.world.noted()
        self.give(Ran(seat))

    def end(self, seat: Seat) -> None:
        self.runs.pop(seat, None)
        self.give(Ended(seat))

    def die(self) -> None:
        """The whole device: power cut."""
        self.up = False
        self.runs.clear()
        self.world.noted()


class World:
    """Time, the wires, and liveness that is right after a while."""

    def __init__(
        self,
        count: int,
        seed: int = 0,
        config: Config | None = None,
        machine: type[Placement] = Placement,
        **fields: Any,
    ) -> None:
        self.machine = machine
        self.troubles: list[str] = []
        self._epochs: dict[Seat, tuple[int, bytes]] = {}
        self.rng = random.Random(seed)
        self.config = config or Config()
        self.now = 1000.0
        self.epoch_ms = 1_700_000_000_000
        self.start_s = 0.1
        self.wire_s = (0.01, 0.2)
        self.verdict_s = (0.05, 0.5)
        self.specs: dict[str, Spec] = {}
        self.sites: dict[bytes, Site] = {}
        self.leases: dict[Seat, tuple[bytes, float, int]] = {}
        self.sides: dict[bytes, int] = {}
        self.broken: Callable[[Node, Seat], str] = lambda node, seat: ""
        self.watchers: list[Callable[[], None]] = []
        self._heap: list[tuple[float, int, Any, tuple[Any, ...]]] = []
        self._number = 0
        self.nodes = [Node(self, aid_of(n + 1), **fields) for n in range(count)]
        for node in self.nodes:
            node.up = True
        for node in self.nodes:
            self.sites[node.aid] = node.site(Offer(self.now_ms, runtimes=("process", "container")))
        for node in self.nodes:
            node.start()

    @property
    def now_ms(self) -> int:
        return self.epoch_ms + int(self.now * 1000)

    def linked(self, one: Node, other: Node) -> bool:
        return self.sides.get(one.aid, 0) == self.sides.get(other.aid, 0)

    def view(self, node: Node) -> dict[tuple[bytes, Seat], Claim]:
        """Claims as a node reads them from its store at a start."""
        found = {}
        for other in self.nodes:
            if self.linked(node, other):
                found.update({(other.aid, seat): claim for seat, claim in other.stored.items()})
        return found

    def later(self, after_s: float, act: Any, *args: Any) -> None:
        self._number += 1
        heapq.heappush(self._heap, (self.now + after_s, self._number, act, args))

    def agenda(self, node: Node) -> None:
        due = node.machine.deadline()
        if due < float("inf"):
            self.later(max(0.0, due - self.now), self._tick, node, node.life)

    def _tick(self, node: Node, life: int) -> None:
        if node.up and node.life == life and node.machine.deadline() <= self.now + 1e-9:
            node.tick()
            self.agenda(node)

    def spread(self, source: Node, seat: Seat, claim: Claim | None) -> None:
        for node in self.nodes:
            if node is not source:
                self.later(self.rng.uniform(*self.wire_s), self._arrive, source, node, seat, claim)

    def _arrive(self, source: Node, node: Node, seat: Seat, claim: Claim | None) -> None:
        # The newest statement counts, as slots do.
        if self.linked(source, node) and source.stored.get(seat) == claim:
            node.give(ClaimsSaid(((source.aid, seat, claim),)))
            self.agenda(node)

    def apply(self, *specs: Spec) -> None:
        for each in specs:
            self.specs[each.workload.name] = each
        for node in self.nodes:
            node.give(SpecsSaid({each.workload.name: each for each in specs}))
            self.agenda(node)

    def delete(self, name: str) -> None:
        del self.specs[name]
        for node in self.nodes:
            node.give(SpecsSaid({name: None}))

    def run(self, seconds: float) -> None:
        end = self.now + seconds
        for node in self.nodes:
            if node.up:
                self.agenda(node)
        while self._heap and self._heap[0][0] <= end:
            at, _, act, args = heapq.heappop(self._heap)
            self.now = max(self.now, at)
            act(*args)
        self.now = end

    def kill(self, *nodes: Node) -> None:
        for node in nodes:
            node.die()
        for other in self.nodes:
            for node in nodes:
                if other.up:
                    self.later(self.rng.uniform(*self.verdict_s), self._say, other, node, "dead")

    def revive(self, node: Node, **how: Any) -> None:
        node.start(**how)
        for other in self.nodes:
            if other is not node and other.up and self.linked(node, other):
                other.give(SitesSaid({node.aid: self.sites[node.aid]}))
                other.give(StandingSaid(node.aid, "alive"))
                self.agenda(other)

    def _say(self, other: Node, node: Node, standing: Any) -> None:
        if standing == "dead" and node.up and self.linked(other, node):
            return  # it is back already
        other.give(StandingSaid(node.aid, standing))
        self.agenda(other)

    def split(self, side: Iterable[Node], verdict_s: float = 8.0) -> None:
        self.sides = {node.aid: 1 for node in side}
        self._all_say("dead", verdict_s)

    def heal(self) -> None:
        before, self.sides = self.sides, {}
        for one in self.nodes:
            for other in self.nodes:
                if one.up and other.up and before.get(one.aid, 0) != before.get(other.aid, 0):
                    one.give(SitesSaid({other.aid: self.sites[other.aid]}))
                    one.give(StandingSaid(other.aid, "alive"))
                    claims = tuple((other.aid, seat, claim) for seat, claim in other.stored.items())
                    self.later(self.rng.uniform(*self.wire_s), self._learn, one, other.aid, claims)

    def _learn(self, node: Node, aid: bytes, claims: Any) -> None:
        held = {seat for seat, each in node.machine.table.claims.items() if aid in each}
        gone = held - {seat for _, seat, _ in claims}
        node.give(ClaimsSaid((*claims, *((aid, seat, None) for seat in sorted(gone)))))
        self.agenda(node)

    def _all_say(self, standing: str, after_s: float) -> None:
        for one in self.nodes:
            for other in self.nodes:
                if one.up and other.up and not self.linked(one, other):
                    self.later(self.rng.uniform(0.5, 1.0) * after_s, self._say, one, other, standing)

    def set_offer(self, node: Node, st: str) -> None:
        """Cordon, drain or open a node."""
        self.sites[node.aid] = node.site(Offer(node.machine.own._life_ms, st, ("process", "container")))
        for other in self.nodes:
            other.give(SitesSaid({node.aid: self.sites[node.aid]}))
            self.agenda(other)

    def noted(self) -> None:
        for watcher in self.watchers:
            watcher()

    def started(self, node: Node, seat: Seat, epoch: int) -> None:
        """An instance runs: its token must be above that of every owner before."""
        last, owner = self._epochs.get(seat, (-1, node.aid))
        alone = not any(seat in other.runs for other in self.nodes if other is not node)
        if alone and (epoch < last or (epoch == last and owner != node.aid)):
            text = f"{seat} starts under epoch {epoch} on {node.aid.hex()[:2]}"
            self.troubles.append(f"{self.now:.1f}: {text}, after {last} on {owner.hex()[:2]}")
        self._epochs[seat] = (epoch, node.aid)
        wants = sum(self.specs[it.name].workload.resources.requests.cpu for it in node.runs)
        offers = node.site(Offer(0)).cpu
        if wants > offers + 1e-9:
            self.troubles.append(f"{self.now:.1f}: {node.aid.hex()[:2]} runs {wants:g} of {offers:g} cpu")

    def running(self, name: str | None = None) -> dict[Seat, list[bytes]]:
        """Who runs what."""
        found: dict[Seat, list[bytes]] = {}
        for node in self.nodes:
            for seat in node.runs:
                if name in (None, seat.name):
                    found.setdefault(seat, []).append(node.aid)
        return found

    def claims(self, stage: Stage) -> int:
        return sum(claim.st == stage for node in self.nodes for claim in node.stored.values())
