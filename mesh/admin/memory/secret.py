"""Secrets of the made-up mesh: kept, and never told."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mesh.admin.memory.clock import ID, Clock
from mesh.core import secret as core
from mesh.errors import NotFound

Json = dict[str, Any]
Rows = list[Json]
NAME = "alpha"


class MemorySecrets:
    """See `mesh.admin.workload_features.Secrets`."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._held: dict[str, tuple[Json, bytes]] = {"seen": (self._row("seen", 1, "", []), b"x")}

    def _row(self, name: str, gen: int, selector: str, nodes: Sequence[str]) -> Json:
        empty: Json = {"waiting": [], "exposed": [], "used_by": []}
        who = {"author": ID, "author_name": NAME, "time": self._clock.now()}
        row = {"name": name, "gen": gen, "selector": selector, "nodes": list(nodes), "readers": [NAME]}
        return {**row, **empty, **who}

    async def set(
        self, name: str, value: bytes, *, selector: str | None, nodes: Sequence[str] | None
    ) -> Json:
        core.path_of(name)
        core.check_selector(selector or "")
        core.check_value(value)
        row, old = self._held.get(name, ({"gen": 0, "selector": "", "nodes": []}, b""))
        if old == value:
            return {**row, "change": "unchanged", "restarted": []}
        keep = selector is None and nodes is None
        meant = (row["selector"], row["nodes"]) if keep else (selector or "", nodes or [])
        self._held[name] = (self._row(name, row["gen"] + 1, *meant), value)
        change = "changed" if row["gen"] else "created"
        return {**self._held[name][0], "change": change, "restarted": []}

    async def list(self) -> Rows:
        return [row for _, (row, _) in sorted(self._held.items())]

    async def show(self, name: str) -> Json:
        if name not in self._held:
            raise NotFound(f"no secret {name!r:.80}")
        return self._held[name][0]

    async def remove(self, name: str) -> Json:
        row = await self.show(name)
        del self._held[name]
        return row
