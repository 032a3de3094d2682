"""Workloads as the subject of rollouts: which generation runs on this node, and whether it is well.

Targets are the nodes whose claims hold instances of the workload. Replicas are always those of the newest
spec; all else that a node runs is of one generation, the old or the new one. An instance counts as healthy
when it was started after its generation came into force here, runs, and passes its checks.
"""

from __future__ import annotations

from collections.abc import Iterable
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
from mesh.core.rollout import Plan
from mesh.core.seating import Spec
from mesh.core.workload import CLAIM_PREFIX, PREFIX, parse
from mesh.errors import PeerError, UsageError
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
        self._in_force: dict[str, tuple[int, int]] = {}
        with node.store.read(MESH) as slots:
            for path in slots.paths(CLAIM_PREFIX):
                for rec in slots.slots(path):
                    self._take(rec)
        orders.choose = self._choose
        rollouts.serve(KIND, self)
        rollouts.on_change.append(self._moved)
        node.store.add_listener(self._changed)
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
        gen, since_ms = self._in_force.get(name, (0, 0))
        found = min(claim.gen for claim in mine.values())
        well, failing, why = self._placer.exposed.healthy(name), False, ""
        for seat, claim in sorted(mine.items()):
            status = self._placer.supervisor.state(str(seat))
            fresh = status is not None and status.since_ms >= since_ms and claim.gen == gen
            up = fresh and status is not None and status.state == "running" and claim.st == Stage.RUN
            bad = claim.st == Stage.BAR or (fresh and status is not None and status.state in FAILING)
            well, failing = well and up, failing or bad
            if bad:
                why = f"{seat}: {claim.why or (status.message if status is not None else '')}"
        return Running(found, well and found == gen, failing, why)

    def path(self, name: str) -> str:
        return PREFIX + name

    def plan(self, spec: dict[str, Any]) -> Plan:
        return parse(spec).rollout

    # -- which generation -------------------------------------------------------------------------------

    def _choose(self, name: str, value: Any, newest: Spec) -> Spec:
        gen = self._rollouts.generation(f"{KIND}/{name}", newest.gen)
        spec = newest if gen == newest.gen else self._earlier(value, gen, newest)
        if self._in_force.get(name, (0, 0))[0] != spec.gen:
            first = name not in self._in_force
            self._in_force[name] = (spec.gen, 0 if first else self._node.now_ms())
        return spec

    def _earlier(self, value: Any, gen: int, newest: Spec) -> Spec:
        """An earlier generation, as many of it as of the newest; the newest where it is not kept."""
        try:
            raw = generations.spec_of(value, gen)
            if raw is None:
                return newest
            workload = msgspec.structs.replace(parse(raw), replicas=newest.workload.replicas)
        except (PeerError, UsageError):
            return newest
        return Spec(workload, gen, newest.restarts)

    def _moved(self, subject: str) -> None:
        kind, _, name = subject.partition("/")
        if kind == KIND:
            self._orders.refresh(name)
