"""Workloads of the made-up mesh: kept and read, placed on its one node, and never run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mesh.admin.memory.clock import ID
from mesh.core import guard
from mesh.core.guard import Rule
from mesh.core.workload import Workload, document, parse, schema
from mesh.errors import NotFound

Json = dict[str, Any]
Rows = list[Json]
NAME = "alpha"


class MemoryWorkloads:
    """See `mesh.admin.workload_features.Workloads`."""

    def __init__(self) -> None:
        self._held: dict[str, tuple[Workload, int]] = {}
        self._rules: dict[str, Rule] = {}
        self._put(parse({"name": "seen", "command": ["/bin/true"]}))
        self._rules["seen"] = Rule(name="seen", root=False)

    def _put(self, workload: Workload) -> Json:
        held = self._held.get(workload.name)
        gen = held[1] + 1 if held is not None else 1
        self._held[workload.name] = (workload, gen)
        change = "changed" if held else "created"
        return {"name": workload.name, "change": change, "gen": gen, "warnings": []}

    def _get(self, name: str) -> tuple[Workload, int]:
        if name not in self._held:
            raise NotFound(f"no workload {name!r:.80}")
        return self._held[name]

    async def apply(self, specs: Sequence[Json], *, dry_run: bool, force: bool) -> Rows:
        return [self._put(workload) for workload in [parse(raw) for raw in specs]]

    async def list(self) -> Rows:
        return [self._row(name) for name in sorted(self._held)]

    def _row(self, name: str) -> Json:
        workload, gen = self._get(name)
        wanted = 1 if workload.each else workload.replicas
        return {
            "name": name,
            "version": workload.version,
            "mode": workload.mode,
            "runtime": workload.runtime,
            "gen": gen,
            "replicas": "each" if workload.each else workload.replicas,
            "wanted": wanted,
            "running": wanted,
            "state": "running",
            "nodes": [NAME],
            "why": "",
        }

    async def show(self, name: str) -> Json:
        row, time = self._row(name), "2026-01-31T12:00:00.000Z"
        instances = [
            {
                "instance": f"{name}/{number}",
                "state": "running",
                "node": ID,
                "node_name": NAME,
                "gen": row["gen"],
                "epoch": 7,
                "since": time,
                "why": "",
                "measured": {
                    "message": "",
                    "starts": 1,
                    "ends": 0,
                    "cpu_cores": 0.02,
                    "memory_bytes": 12 << 20,
                    "processes": 1,
                    "storage_bytes": None,
                    "notes": [],
                },
            }
            for number in range(row["wanted"])
        ]
        spec = document(self._get(name)[0])
        more = {"spec": spec, "author": ID, "author_name": NAME, "time": time}
        return {**row, **more, "instances": instances, "duplicates": []}

    async def on_node(self, node: str) -> Json:
        rows = [
            {
                "instance": each["instance"],
                "workload": name,
                "state": each["state"],
                "since": each["since"],
                "stays": self._get(name)[0].each,
                "why": "one runs on each node" if self._get(name)[0].each else "",
            }
            for name in sorted(self._held)
            for each in (await self.show(name))["instances"]
            if each["node"] == node
        ]
        return {"node": node, "node_name": NAME, "state": "alive", "offer": "up", "instances": rows}

    async def explain(self, name: str) -> Rows:
        self._get(name)
        return [
            {
                "node": ID,
                "node_name": NAME,
                "instance": f"{name}/0",
                "runs": [f"{name}/0"],
                "place": 1,
                "why": "",
                "weight": 0.5,
                "score": 0.25,
                "free": {"cpu": 3.9, "memory": 1 << 30, "instances": 1},
            }
        ]

    async def scale(self, name: str, replicas: int | str, *, force: bool) -> Json:
        self._put(parse({**document(self._get(name)[0]), "replicas": replicas}))
        return self._row(name)

    async def remove(self, name: str, nodes: Sequence[str], *, back: bool) -> Json:
        kept = [node for node in self._get(name)[0].avoid if node not in nodes]
        self._put(parse({**document(self._get(name)[0]), "avoid": kept if back else [*kept, *nodes]}))
        return await self.show(name)

    async def restart(self, name: str) -> Json:
        self._put(self._get(name)[0])
        return self._row(name)

    async def delete(self, name: str) -> Json:
        row = self._row(name)
        del self._held[name]
        return row

    async def schema(self) -> Json:
        return {"schema": schema()}

    async def rules(self) -> Rows:
        return [self._rule(name) for name in sorted(self._rules)]

    def _rule(self, name: str) -> Json:
        return {"name": name, "rule": guard.document(self._rules[name]), "author_name": NAME}

    async def set_rules(self, rules: Sequence[Json], *, dry_run: bool) -> Rows:
        parsed = [guard.parse(raw) for raw in rules]
        rows = []
        for rule in parsed:
            if not dry_run:
                self._rules[rule.name] = rule
            stops = [
                {"workload": name, "instances": self._row(name)["running"], "nodes": [NAME], "why": why}
                for name, (workload, _) in sorted(self._held.items())
                if (why := rule.objection(workload)) and rule.is_for(workload, {"name": NAME})
            ]
            row = {"name": rule.name, "rule": guard.document(rule), "author_name": NAME}
            rows.append({**row, "stops": stops})
        return rows

    async def delete_rule(self, name: str) -> Json:
        if name not in self._rules:
            raise NotFound(f"no admission rule {name!r:.80}")
        row = self._rule(name)
        del self._rules[name]
        return row

    async def test(self, specs: Sequence[Json], rules: Sequence[Json]) -> Rows:
        asked = [guard.parse(raw) for raw in rules] or list(self._rules.values())
        rows = []
        for workload in [parse(raw) for raw in specs]:
            why = guard.objection(asked, workload, {"name": NAME})
            node = {"node": ID, "node_name": NAME}
            rows.append({"workload": workload.name, **node, "allowed": not why, "why": why})
        return rows
