"""What users write while things go wrong: puts and deletes of registers, at random nodes and moments."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TYPE_CHECKING

from mesh.core import folds
from mesh.core.collect import Statement
from mesh.core.log import Log
from mesh.core.record import MESH, ZONE, Kind, Op, Record
from mesh.sim.gauges import audience
from mesh.sim.reads import held_against
from mesh.sim.scenario import Load

if TYPE_CHECKING:
    from mesh.sim.fleet import Fleet
    from mesh.sim.node import Node

KINDS = {"reg": Kind.REG, "mv": Kind.MV}


class Writers:
    """Writes until told to stop."""

    def __init__(self, fleet: Fleet, load: Load, seed: int) -> None:
        self._fleet, self._load = fleet, load
        self._rng = random.Random(f"load/{seed}")
        self._count = 0
        self.over = not load.writes_per_s
        self._until = fleet.world.now + load.until_s if load.until_s else float("inf")
        count = load.writers or len(fleet.nodes)
        self._nodes = self._rng.sample(fleet.nodes, min(count, len(fleet.nodes)))
        if not self.over:
            self._next()

    def _next(self) -> None:
        self._fleet.world.after(self._rng.expovariate(self._load.writes_per_s), self._write)

    def _write(self) -> None:
        if self.over or self._fleet.world.now > self._until:
            return
        node = self._rng.choice(self._nodes)
        scope = ZONE if self._rng.random() < self._load.zone_share else MESH
        kind = KINDS[self._rng.choice(self._load.kinds)]
        number = self._count if not self._load.keys else self._rng.randrange(self._load.keys)
        delete = self._rng.random() < self._load.deletes
        self._count += 1
        if node.replica is not None and not node.frozen:
            path = f"kv/{kind.name.lower()}/{number}"
            node.replica.say(
                scope,
                lambda log: self._statement(node, log, path, kind, delete=delete),
                lambda records: self._said(node, scope, records),
            )
        self._next()

    def _statement(self, node: Node, log: Log, path: str, kind: Kind, *, delete: bool) -> Sequence[Statement]:
        slots = [rec for rec in log.slots(path) if rec.kind == kind]
        sees = folds.sees_of(slots, node.aid, kind)
        there = self._reads(node, path, slots, kind)
        if delete and there:
            return [Statement(path, kind, op=Op.DEL, sees=sees)]
        expires = bool(self._load.ttl_s) and self._rng.random() < self._load.ttl_share
        ttl = int(self._load.ttl_s * 1000) if expires else None
        return [Statement(path, kind, self._fleet.ledger.number(), ttl=ttl, sees=sees)]

    def _reads(self, node: Node, path: str, slots: list[Record], kind: int) -> bool:
        """Read before writing, as users do; whether anything is there."""
        assert node.replica is not None
        reads, now_ms = node.replica.reads, node.now_ms()
        if wrong := held_against(reads, path, slots, kind, now_ms):
            self._fleet.checks.fail("reading", f"{path} on node {node.number}: {wrong}")
        return bool(reads.shown(path, slots, kind, now_ms))

    def _said(self, node: Node, scope: str, records: list[Record]) -> None:
        for rec in records:
            self._fleet.gauges.track(node, scope, rec, audience(node, scope))
