"""The policy of the made-up mesh."""

from __future__ import annotations

from typing import Any

from mesh.admin.memory.clock import ID, Clock
from mesh.admin.memory.node import MemoryMembers
from mesh.core import policy
from mesh.errors import UsageError

Json = dict[str, Any]


class MemoryPolicy:
    """Shown and replaced; everybody may do what its roles' patterns name literally."""

    def __init__(self, clock: Clock, members: MemoryMembers) -> None:
        self._clock = clock
        self._members = members
        self._value: Json = {"roles": {}, "nodes": {}}
        self._time: str | None = None

    async def show(self) -> Json:
        known = self._time is not None
        return {
            **self._value,
            "defaults": {
                role: {verb: list(texts) for verb, texts in grants.items()}
                for role, grants in policy.DEFAULTS.items()
            },
            "fault": "",
            "warnings": policy.warnings(self._value),
            "author": ID if known else None,
            "author_name": "alpha" if known else None,
            "time": self._time,
        }

    async def set(self, roles: Json, nodes: Json, *, dry_run: bool = False) -> Json:
        value = {"roles": roles, "nodes": nodes}
        policy.check(value)
        if dry_run:
            return {**await self.show(), **value, "warnings": policy.warnings(value)}
        self._value, self._time = value, self._clock.now()
        return await self.show()

    async def reset(self) -> Json:
        return await self.set({}, {})

    async def check(self, node: str, verb: str, name: str) -> Json:
        if verb not in policy.VERBS:
            raise UsageError(f"unknown verb {verb!r}", f"one of {', '.join(policy.VERBS)}")
        member = await self._members.show(node)
        grants = [self._value["roles"].get(role, policy.DEFAULTS.get(role, {})) for role in member["roles"]]
        allowed = any(name in each.get(verb, ()) or "**" in each.get(verb, ()) for each in grants)
        shown = {key: member[key] for key in ("id", "name", "roles")}
        return {**shown, "verb": verb, "path": name, "allowed": allowed}
