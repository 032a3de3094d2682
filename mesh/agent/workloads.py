"""The feature `workloads`: what is to run on the mesh, ordered by admins, shown and explained to everybody.

How orders are given is in `ordering.py`. What is shown is read from the same table that placement decides by,
on whatever node is asked.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mesh.agent.certs import Certs
from mesh.agent.emptying import Emptying
from mesh.agent.measured import Measured
from mesh.agent.node import Node
from mesh.agent.ordering import Ordering
from mesh.agent.orders import Orders
from mesh.agent.placer import Placer
from mesh.agent.rollouts import Rollouts
from mesh.agent.table import Table
from mesh.agent.words import iso, iso_of
from mesh.core import candidates, voters
from mesh.core.claims import Claim, Seat, Stage
from mesh.core.outlook import why_none
from mesh.core.record import AID_BYTES, MESH
from mesh.core.seating import Seating, Spec
from mesh.core.workload import document, schema
from mesh.identity.keys import public_of

Json = dict[str, Any]
Rows = list[Json]


class Workloads(Ordering):
    """See `mesh.admin.workload_features.Workloads`."""

    def __init__(
        self,
        node: Node,
        certificates: Certs,
        table: Table,
        orders: Orders,
        placer: Placer,
        rollouts: Rollouts,
        measured: Measured,
    ) -> None:
        super().__init__(node, certificates, table, orders, placer, rollouts)
        self._measured = measured
        self._emptying = Emptying(table, lambda: self._seats, self._stage, self._why_nobody, placer.dyed)

    @property
    def _seats(self) -> Seating:
        return self._placer.machine.table

    async def schema(self) -> Json:
        """`shapes.WorkloadSchema`."""
        return {"schema": schema()}

    # -- showing ----------------------------------------------------------------------------------------

    async def list(self) -> Rows:
        """`shapes.Workload` of each, by name."""
        return [self._row(name) for name in sorted(self._orders.specs())]

    def _row(self, name: str) -> Json:
        spec = self._spec(name)
        instances = self._instances(name)
        running = sum(row["state"] == "running" for row in instances)
        wanted = self._wanted(spec)
        listed = [row for row in instances if running < wanted or row["state"] != "barred"]
        return {
            "name": name,
            "version": spec.workload.version,
            "mode": spec.workload.mode,
            "runtime": spec.workload.runtime,
            "gen": spec.gen,
            "replicas": "each" if spec.workload.each else spec.workload.replicas,
            "wanted": wanted,
            "running": running,
            "state": _state(wanted, running, instances),
            "nodes": sorted({row["node_name"] for row in listed if row["node_name"]}),
            "why": next((row["why"] for row in listed if row["why"]), "")
            or (self._no_quorum(spec) if running < wanted else "")
            or (self._why_older(spec, instances) if instances else self._why_nobody(name)),
        }

    def _why_older(self, spec: Spec, instances: Rows) -> str:
        """That what runs is not what was ordered last, and why; or ""."""
        older = sorted({row["gen"] for row in instances if row["state"] == "running"} - {spec.gen})
        state = self._rollouts.state(f"workload/{spec.workload.name}", spec.gen) if older else ""
        if not state:
            return ""
        return f"generation {older[0]} runs; the rollout of {spec.gen}: {state}"

    def _wanted(self, spec: Spec) -> int:
        if not spec.workload.each:
            return spec.workload.replicas
        table, name = self._seats, spec.workload.name
        return sum(not table.why_unfit(name, aid) and table.standing(aid) == "alive" for aid in table.sites)

    def _instances(self, name: str) -> Rows:
        rows: Rows = []
        table = self._seats
        for seat in table.seats(name):
            claims = table.claims.get(seat, {})
            rows += [self._instance(seat, aid, claims[aid]) for aid in sorted(claims)]
            if not any(claim.st != Stage.BAR for claim in claims.values()):
                rows.append(self._empty(seat))
        return rows

    def holders(self, name: str) -> Sequence[bytes]:
        """Nodes that have, or had, an instance of a workload, as far as claims tell."""
        claims = self._seats.claims.items()
        return sorted({aid for seat, by_node in claims if seat.name == name for aid in by_node})

    def _empty(self, seat: Seat) -> Json:
        why = self._no_quorum(self._spec(seat.name)) or self._why_nobody(seat.name)
        return {
            "instance": str(self._placer.dyed(seat)),
            "state": "unplaced",
            "node": None,
            "node_name": None,
            "gen": None,
            "epoch": None,
            "since": None,
            "why": why,
        }

    def _no_quorum(self, spec: Spec) -> str:
        """Why no node can have a lease for it, or ""."""
        name = spec.workload.voters
        if not name:
            return ""
        with self._node.store.read(MESH) as slots:
            found = voters.in_force(slots.slots(voters.PREFIX + name), self._node.directory)
        if found is None:
            return f"there is no quorum {name}: `meshctl quorum create {name} ...`"
        away = voters.lacking(found, lambda aid: self._seats.standing(aid) in ("dead", "gone"))
        names = ", ".join(self._table.name_of(aid) for aid in away)
        if not away:
            return ""
        return f"quorum {name} has no majority: {names} of its {len(found.seats)} voters are away"

    def _why_nobody(self, name: str) -> str:
        """Why no node can run it, "" if one can."""
        table = self._seats
        found = {aid: table.why_not(name, aid) or table.why_crowded(name, aid) for aid in table.sites}
        if not all(found.values()):
            return ""
        return f"no node can run it: {why_none((self._table.name_of(aid), found[aid]) for aid in found)}"

    def _instance(self, seat: Seat, aid: bytes, claim: Claim) -> Json:
        node, node_name = self._table.who(aid)
        return {
            "instance": str(self._placer.dyed(seat)),
            "state": self._stage(aid, claim),
            "node": node,
            "node_name": node_name,
            "gen": claim.gen,
            "epoch": claim.epoch,
            "since": iso(claim.since_ms),
            "why": claim.why,
        }

    def _stage(self, aid: bytes, claim: Claim) -> str:
        standing = self._seats.standing(aid)
        if claim.st in (Stage.DONE, Stage.BAR):
            return "done" if claim.st == Stage.DONE else "barred"
        if standing != "alive":
            return "lost" if standing == "dead" else standing
        if claim.st == Stage.DRAIN:
            return "draining"
        if not self._seats.runs(aid, claim):
            return "starting"
        return "failing" if claim.why else "running"

    async def show(self, name: str) -> Json:
        """`shapes.WorkloadDetail`."""
        spec, rec = self._spec(name), self._orders.record(name)
        assert rec is not None
        author, author_name = self._table.who(rec.aid)
        return {
            **self._row(name),
            "spec": document(spec.workload),
            "author": author,
            "author_name": author_name,
            "time": iso_of(rec.stamp),
            "instances": await self._measured.add(name, self._instances(name)),
            "duplicates": [
                {
                    "time": iso(at_ms),
                    "instance": str(seat),
                    "nodes": [self._table.name_of(aid) for aid in nodes],
                    "seconds": round(seconds, 3),
                }
                for at_ms, seat, nodes, seconds in self._placer.twice.of(name)
            ],
        }

    async def on_node(self, node: str) -> Json:
        """`shapes.NodeWork`."""
        return self._emptying.work(public_of(node)[:AID_BYTES])

    async def explain(self, name: str) -> Rows:
        """`shapes.PlacementVerdict` of each node, for an empty seat or else the first, best first."""
        spec, table = self._spec(name), self._seats
        empty = [seat for seat in table.seats(name) if not table.claims.get(seat)]
        seat = (empty or [Seat(name, 0)])[0]
        now, now_ms = self._placer.now(), self._node.now_ms()
        order = {it.aid: place for place, it in enumerate(table.plan(name, [seat], now, now_ms)[seat], 1)}
        no_quorum = self._no_quorum(spec)
        order = {} if no_quorum else order
        members = set(self._node.directory.members()) | set(table.sites)
        rows = [self._verdict(name, seat, aid, order, no_quorum) for aid in sorted(members)]
        return sorted(rows, key=lambda row: (row["place"] is None, row["place"] or 0, row["node_name"]))

    def _verdict(self, name: str, seat: Seat, aid: bytes, order: Mapping[bytes, int], no_quorum: str) -> Json:
        table = self._seats
        node, node_name = self._table.who(aid)
        runs = [str(each) for each in table.seats(name) if self._holds(each, aid)]
        if aid not in table.sites:
            why = "offers nothing to workloads"
        else:
            why = table.why_not(name, aid) or table.why_crowded(name, aid) or no_quorum
        why = why or self._why_barred(seat, aid)
        return {
            "node": node,
            "node_name": node_name,
            "instance": str(seat),
            "runs": runs,
            "place": order.get(aid),
            "why": why,
            "weight": table.weighs(seat, aid),
            "score": round(table.worth(seat, aid), 6),
            "free": self._free(aid),
        }

    def _why_barred(self, seat: Seat, aid: bytes) -> str:
        """Why a node comes after all others for a seat, or ""."""
        claim, now_ms = self._seats.claims.get(seat, {}).get(aid), self._node.now_ms()
        if claim is None or claim.st != Stage.BAR or claim.until_ms <= now_ms:
            return ""
        return f"last, for {(claim.until_ms - now_ms) / 60000:.0f} min: {seat} failed there too often"

    def _holds(self, seat: Seat, aid: bytes) -> bool:
        claim = self._seats.claims.get(seat, {}).get(aid)
        return claim is not None and claim.st in (Stage.CLAIM, Stage.RUN, Stage.DRAIN)

    def _free(self, aid: bytes) -> Json:
        site, load = self._seats.sites.get(aid), self._seats.load(aid)
        room = site.room if site is not None else candidates.NOTHING
        return {
            "cpu": round(max(0.0, room.cpu - load.cpu), 3) if room.cpu else None,
            "memory": max(0, int(room.memory - load.memory)) if room.memory else None,
            "instances": load.count,
        }


def _state(wanted: int, running: int, instances: Rows) -> str:
    states = {row["state"] for row in instances}
    if instances and states <= {"done"}:
        return "done"
    if running >= wanted and (wanted or running) and not states & {"failing", "draining"}:
        return "running"
    for state in ("failing", "starting", "draining", "lost", "barred"):
        if state in states:
            return state
    return "unplaced" if wanted else "idle"
