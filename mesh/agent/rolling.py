"""Workloads as the subject of rollouts: which generation runs on this node, and whether it is well.

Targets are the nodes whose claims hold instances of the workload. Replicas are always those of the newest
spec; all else that a node runs is of one generation, the old or the new one. An instance counts as healthy
when it was started after its generation came into force here, runs, and passes its checks.

In a blue-green rollout a target's part is what it runs beside its instances, once it has begun with that.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from mesh.agent.node import Node
from mesh.agent.orders import Orders
from mesh.agent.placer import Placer
from mesh.agent.rollouts import Rollouts
from mesh.core import generations
from mesh.core.claims import Claim, Seat, Stage, decode_claim, seat_of
from mesh.core.clock import unix_ms_of
from mesh.core.mover import Running
from mesh.core.record import MESH, Op, Record
from mesh.core.registry import Service
from mesh.core.rollout import Plan
from mesh.core.seating import Spec
from mesh.core.workload import CLAIM_PREFIX, PREFIX, parse, refuse_two
from mesh.errors import Conflict, PeerError, UsageError
from mesh.store.store import Change

KIND = "workload"
HOLDING = (Stage.CLAIM, Stage.RUN)
FAILING = ("backoff", "failed")


class Rolling:
    """See the module."""

    staged_from_nothing = False

    def __init__(self, node: Node, rollouts: Rollouts, orders: Orders, placer: Placer) -> None:
        self._node = node
        self._rollouts = rollouts
        self._orders = orders
        self._placer = placer
        self._claims: dict[str, dict[tuple[bytes, Seat], Claim]] = {}
        self._in_force: dict[str, dict[str, tuple[int, int]]] = {}
        with node.store.read(MESH) as slots:
            for path in slots.paths(CLAIM_PREFIX):
                for rec in slots.slots(path):
                    self._take(rec)
        orders.choose = self._choose
        orders.on_change.append(self._ordered)
        rollouts.serve(KIND, self)
        rollouts.on_change.append(self._moved)
        rollouts.on_shown.append(self._switched)
        placer.exposed.registry.shows = self._shows
        node.store.add_listener(self._changed, user_data=False)
        placer.supervisor.on_change.append(lambda status: rollouts.wake())

    # -- claims -----------------------------------------------------------------------------------------

    def _take(self, rec: Record) -> None:
        try:
            aid, seat = seat_of(rec.path)
            if aid != rec.aid:
                return
            claims = self._claims.setdefault(seat.name, {})
            claims.pop((aid, seat), None)
            if rec.op == Op.PUT:
                claims[aid, seat] = decode_claim(rec.val, unix_ms_of(rec.hlc))
        except PeerError:
            return

    def _changed(self, changes: list[Change]) -> None:
        for change in changes:
            if change.scope != MESH or not change.path.startswith(CLAIM_PREFIX):
                continue
            if change.record is not None:
                self._take(change.record)
            else:
                self._drop(change)
            if change.aid == self._node.me:
                self._rollouts.reconsider()
            elif len(parts := change.path.split("/")) == 4:
                self._rollouts.look(f"{KIND}/{parts[2]}")

    def _drop(self, change: Change) -> None:
        try:
            aid, seat = seat_of(change.path)
        except PeerError:
            return
        self._claims.get(seat.name, {}).pop((aid, seat), None)

    # -- for rollouts -----------------------------------------------------------------------------------

    def targets(self, name: str) -> Iterable[bytes]:
        """Nodes that have an instance."""
        return {aid for (aid, _), claim in self._claims.get(name, {}).items() if claim.st in HOLDING}

    def knew(self, name: str) -> Iterable[bytes]:
        """Nodes that have an instance, or gave one up after it failed there."""
        return {aid for aid, _ in self._claims.get(name, {})}

    def running(self, name: str) -> Running | None:
        """What this node has of a workload."""
        mine = {
            seat: claim
            for (aid, seat), claim in self._claims.get(name, {}).items()
            if aid == self._node.me and claim.st in (*HOLDING, Stage.BAR)
        }
        if not mine:
            return None
        spec = self._orders.known(name)
        if spec is not None and spec.beside is not None:
            return self._beside(name, mine, spec.beside)
        colour = spec.colour if spec is not None else ""
        gen, since_ms = self._since(name, colour)
        found = min(claim.gen for claim in mine.values())
        well, failing, why = self._placer.exposed.healthy(name, colour), False, ""
        for seat, claim in sorted(mine.items()):
            status = self._placer.supervisor.state(str(seat.dyed(colour)))
            fresh = status is not None and status.since_ms >= since_ms and claim.gen == gen
            up = fresh and status is not None and status.state == "running" and claim.st == Stage.RUN
            bad = claim.st == Stage.BAR or (fresh and status is not None and status.state in FAILING)
            well, failing = well and up, failing or bad
            if bad:
                why = f"{seat}: {claim.why or (status.message if status is not None else '')}"
        return Running(found, well and found == gen, failing, why)

    def _beside(self, name: str, mine: Mapping[Seat, Claim], spec: Spec) -> Running:
        """What this node has of the generation beside its instances."""
        gen, since_ms = self._since(name, spec.colour)
        well, failing, why = self._placer.exposed.healthy(name, spec.colour), False, ""
        for seat in sorted(mine):
            status = self._placer.supervisor.state(str(seat.dyed(spec.colour)))
            fresh = status is not None and status.since_ms >= since_ms
            well = well and fresh and status is not None and status.state == "running"
            if fresh and status is not None and status.state in FAILING:
                failing, why = True, f"{status.instance}: {status.message}"
        return Running(spec.gen, well and gen == spec.gen, failing, why)

    def path(self, name: str) -> str:
        return PREFIX + name

    def plan(self, spec: dict[str, Any]) -> Plan:
        return parse(spec).rollout

    def check(self, name: str, spec: dict[str, Any], plan: Plan) -> None:
        """Whether both generations can stand side by side, and have room."""
        if plan.strategy != "bluegreen":
            return
        workload, now = parse(spec), self._orders.newest.get(name)
        refuse_two(f"workload {name}", workload)
        if now is None:
            return
        if now.workload.mode != workload.mode:
            raise UsageError(
                f"workload {name}: rollout.strategy bluegreen: mode changes from {now.workload.mode}",
                "roll the mode out first, with rolling",
            )
        aid, why = self._placer.machine.table.why_not_both(workload)
        if why:
            raise Conflict(
                f"workload {name}: rollout.strategy bluegreen: no room for both generations on "
                f"{self._placer.name_of(aid)}: {why}",
                "use rolling, ask for less, or make room",
            )

    def short(self, name: str, up: Iterable[bytes]) -> int:
        """Instances without a claim by one of these nodes."""
        spec, there = self._orders.known(name), set(up)
        if spec is None or spec.workload.each:
            return 0
        held = {
            seat.number
            for (aid, seat), claim in self._claims.get(name, {}).items()
            if aid in there and claim.st in HOLDING
        }
        return sum(number not in held for number in range(spec.workload.replicas))

    # -- which generation -------------------------------------------------------------------------------

    def _choose(self, name: str, value: Any, newest: Spec) -> Spec:
        its = self._rollouts.sides(f"{KIND}/{name}", newest.gen)
        spec = self._of(value, its.gen, its.colour, newest)
        if its.both:
            after = newest.workload.resources.requests
            beside = self._of(value, its.beside, its.other, newest) if its.beside else None
            spec = msgspec.structs.replace(spec, beside=beside, also=after)
        return spec

    def _of(self, value: Any, gen: int, colour: str, newest: Spec) -> Spec:
        """A generation in its colour; since when it is in force here is noted."""
        spec = newest if gen == newest.gen else self._earlier(value, gen, newest)
        colours = self._in_force.setdefault(newest.workload.name, {})
        if colour not in colours or colours[colour][0] != spec.gen:
            colours[colour] = (spec.gen, self._node.now_ms() if colours else 0)
        return msgspec.structs.replace(spec, colour=colour)

    def _since(self, name: str, colour: str) -> tuple[int, int]:
        """Which generation is in force here in a colour, and since when."""
        return self._in_force.get(name, {}).get(colour, (0, 0))

    def _ordered(self, specs: dict[str, Spec | None], rules: bool) -> None:
        for name in [name for name, spec in specs.items() if spec is None]:
            self._in_force.pop(name, None)

    def _earlier(self, value: Any, gen: int, newest: Spec) -> Spec:
        """An earlier generation, as many of it and where the newest may be; this where it is not kept."""
        try:
            raw = generations.spec_of(value, gen)
            if raw is None:
                return newest
            now = newest.workload
            workload = msgspec.structs.replace(parse(raw), replicas=now.replicas, avoid=now.avoid)
        except (PeerError, UsageError):
            return newest
        return Spec(workload, gen, newest.restarts)

    def _moved(self, subject: str) -> None:
        kind, _, name = subject.partition("/")
        if kind == KIND:
            self._orders.refresh(name)

    # -- which one is the service ------------------------------------------------------------------------

    def _shows(self, service: Service) -> bool:
        """Whether a service is not that of a generation that is not to be seen."""
        shown = self._rollouts.shown(f"{KIND}/{service.meta.get(KIND, '')}") if service.generation else None
        return shown is None or (
            service.colour == shown[0] and (not shown[1] or service.generation == shown[1])
        )

    def _switched(self, subject: str) -> None:
        kind, _, name = subject.partition("/")
        if kind == KIND:
            self._placer.exposed.registry.touch(lambda service: service.meta.get(KIND) == name)
