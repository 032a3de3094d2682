"""Rollouts and documents of the made-up mesh: one node, so everything is done at once."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

from mesh.admin.memory.clock import ID, Clock
from mesh.errors import NotFound

Json = dict[str, Any]


class MemoryRollouts:
    """Every rollout is over at once."""

    def __init__(self, clock: Clock) -> None:
        self._time = clock.now()
        self.steered: dict[str, str] = {}

    async def show(self, subject: str) -> Json:
        node = {
            "node": ID,
            "node_name": "alpha",
            "state": "ok",
            "alive": True,
            "since": self._time,
            "why": "",
        }
        return {
            "id": f"{subject}-2",
            "subject": subject,
            "strategy": "rolling",
            "before": 1,
            "after": 2,
            "gen": 1,
            "state": {"pause": "paused", "abort": "aborted"}.get(self.steered.get(subject, ""), "done"),
            "halt": "",
            "started": self._time,
            "targets": 1,
            "counts": {"ok": 1},
            "nodes": [node],
        }

    async def watch(self, subject: str) -> AsyncIterator[Json]:
        yield await self.show(subject)

    async def steer(self, subject: str, word: str) -> Json:
        self.steered[subject] = word
        return await self.show(subject)

    async def start(self, subject: str, changes: Json) -> Json:
        return await self.show(subject)

    async def history(self, subject: str) -> list[Json]:
        return [{"generation": 1, "time": self._time, "present": True, "spec": {}}]

    async def undo(self, subject: str, generation: int | None) -> Json:
        return await self.show(subject)

    async def list(self) -> list[Json]:
        detail = await self.show("workload/web")
        return [{name: value for name, value in detail.items() if name != "nodes"}]


class MemoryShadows:
    """Documents that are in force at once."""

    def __init__(self, clock: Clock) -> None:
        self._time = clock.now()
        self.specs: dict[str, Json] = {"all": {"settings": {}, "apps": {"web": {"GREETING": "hello"}}}}

    async def list(self) -> list[Json]:
        return [{**await self.show(scope), "nodes": 1} for scope in sorted(self.specs)]

    async def show(self, scope: str) -> Json:
        report = {"node": ID, "node_name": "alpha", "generation": 1, "state": "applied", "why": ""}
        return {
            "scope": scope,
            "generation": 1,
            "time": self._time,
            "spec": self.specs.get(scope, {}),
            "nodes": [report],
            "applied": 1,
        }

    async def set(
        self,
        scope: str,
        *,
        values: Mapping[str, Any],
        app: str,
        unset: Sequence[str],
        plan: Json | None,
    ) -> Json:
        spec = self.specs.setdefault(scope, {"settings": {}, "apps": {}})
        held = spec["apps"].setdefault(app, {}) if app else spec["settings"]
        held.update(values)
        for name in unset:
            held.pop(name, None)
        return await self.show(scope)

    async def delete(self, scope: str) -> Json:
        row = await self.show(scope)
        if self.specs.pop(scope, None) is None and scope != "seen":
            raise NotFound(f"there is no document for {scope}")
        return row

    def variables(self, app: str) -> dict[str, str]:
        found: dict[str, str] = {}
        for spec in self.specs.values():
            found.update(spec["apps"].get(app, {}))
        return found
