"""The rules of admission as people set, list and try them; `core/guard.py` says what a rule is."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from mesh.agent.author import Statement
from mesh.agent.certs import Certs
from mesh.agent.node import Node
from mesh.agent.orders import Orders
from mesh.agent.placer import Placer
from mesh.agent.table import Table
from mesh.core import guard
from mesh.core.guard import Rule
from mesh.core.holding import KEEPING
from mesh.core.record import MESH, Kind, Op
from mesh.core.workload import Workload, parse
from mesh.errors import MeshError, NotFound, UsageError

Json = dict[str, Any]
Rows = list[Json]


class Admitting:
    """One half of the feature `workloads`."""

    def __init__(self, node: Node, certs: Certs, table: Table, orders: Orders, placer: Placer) -> None:
        self._node = node
        self._certs = certs
        self._table = table
        self._orders = orders
        self._placer = placer

    async def rules(self) -> Rows:
        """`shapes.AdmissionRule` of each, by name."""
        return [self._rule_row(rule) for rule in sorted(self._orders.rules(), key=lambda rule: rule.name)]

    def _rule_row(self, rule: Rule) -> Json:
        rec = self._orders.in_force(guard.PREFIX + rule.name)
        author_name = self._table.who(rec.aid)[1] if rec is not None else ""
        return {"name": rule.name, "rule": guard.document(rule), "author_name": author_name}

    async def set_rules(self, rules: Sequence[Json], *, dry_run: bool) -> Rows:
        """`shapes.AdmissionSet` of each that was set. UsageError, Denied."""
        parsed = [guard.parse(raw) for raw in rules]
        stops = [self._stops(rule) for rule in parsed]
        if not dry_run:
            self._certs.require_admin()
            statements = [
                Statement(guard.PREFIX + rule.name, Kind.REG, guard.document(rule)) for rule in parsed
            ]
            await self._node.author.say(MESH, lambda _: statements)
        return [{**self._rule_row(rule), "stops": stop} for rule, stop in zip(parsed, stops, strict=True)]

    def _stops(self, rule: Rule) -> Rows:
        """`shapes.Stops` of each workload that has instances where the rule allows none."""
        table, specs, rows = self._placer.machine.table, self._orders.specs(), []
        for name in sorted(specs):
            workload, nodes = specs[name].workload, list[bytes]()
            why = rule.objection(workload) if workload.mode != "pinned" else ""  # what is pinned goes on
            for seat in table.seats(name) if why else ():
                for aid, claim in sorted(table.claims.get(seat, {}).items()):
                    site = table.sites.get(aid)
                    if claim.st in KEEPING and site is not None and rule.is_for(workload, site.labels):
                        nodes.append(aid)
            if nodes:
                names = sorted({self._table.name_of(aid) for aid in nodes})
                rows.append({"workload": name, "instances": len(nodes), "nodes": names, "why": why})
        return rows

    async def delete_rule(self, name: str) -> Json:
        """`shapes.AdmissionRule` as it was. NotFound, Denied."""
        path = guard.PREFIX + name
        if self._orders.in_force(path) is None:
            raise NotFound(f"no admission rule {name!r:.80}", "`meshctl admission ls` lists them")
        self._certs.require_admin()
        held = next((rule for rule in self._orders.rules() if rule.name == name), Rule(name=name))
        row = self._rule_row(held)
        await self._node.author.say(MESH, lambda _: [Statement(path, Kind.REG, None, Op.DEL)])
        return row

    async def test(self, specs: Sequence[Json], rules: Sequence[Json]) -> Rows:
        """`shapes.Admitted` of each spec on each node, by `rules`, or by those in force if there are none."""
        asked = [guard.parse(raw) for raw in rules] or self._orders.rules()
        rows: Rows = []
        for raw in specs:
            try:
                workload = parse(raw)
            except UsageError as error:
                name = str(raw.get("name", "")) if isinstance(raw, dict) else ""
                rows.append(_admitted(name, None, None, error))
                continue
            rows += self._test(workload, asked)
        return rows

    def _test(self, workload: Workload, rules: Iterable[Rule]) -> Rows:
        rows: Rows = []
        for aid in sorted(self._placer.machine.table.sites):
            site = self._placer.machine.table.sites[aid]
            why = guard.refused_by_device(site.offer, workload)
            why = why or guard.objection(rules, workload, site.labels)
            rows.append(_admitted(workload.name, *self._table.who(aid), why))
        return sorted(rows, key=lambda row: row["node_name"])


def _admitted(name: str, node: str | None, node_name: str | None, why: str | MeshError) -> Json:
    text = why.message if isinstance(why, MeshError) else why
    return {"workload": name, "node": node, "node_name": node_name, "allowed": not text, "why": text}
