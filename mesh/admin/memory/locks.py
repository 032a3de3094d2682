"""Quorums and locks of the made-up mesh: one process, so a lock is a dict entry."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

import trio

from mesh.admin.memory.clock import ID
from mesh.admin.memory.node import MemoryMembers
from mesh.errors import Conflict, NotFound

Json = dict[str, Any]


class MemoryQuorums:
    """Voters that always vote."""

    def __init__(self, members: MemoryMembers) -> None:
        self._members = members
        self.all: dict[str, Json] = {"main": self._made("main", 1, [ID])}

    async def list(self) -> list[Json]:
        return [self.all[name] for name in sorted(self.all)]

    async def show(self, name: str) -> Json:
        return self.all.get(name) or self._made(name, 1, [ID])

    async def create(self, name: str, nodes: Sequence[str]) -> Json:
        if name in self.all:
            raise Conflict(f"quorum {name} is there already")
        self.all[name] = self._made(name, 1, nodes)
        return self.all[name]

    async def replace(self, name: str, changes: Mapping[str, str]) -> Json:
        held = await self.show(name)
        nodes = [changes.get(voter["node"], voter["node"]) for voter in held["voters"]]
        self.all[name] = self._made(name, held["generation"] + 1, nodes)
        return self.all[name]

    def _made(self, name: str, generation: int, nodes: Sequence[str]) -> Json:
        names = dict(self._members.names())
        voters = [{"node": node, "node_name": names.get(node, ""), "state": "voting"} for node in nodes]
        return {"name": name, "generation": generation, "voters": voters, "next": None, "majority": True}


class MemoryLeases:
    """Locks that are held until they are released."""

    def __init__(self) -> None:
        self.held: dict[str, Json] = {}
        self.tokens: dict[str, int] = {}

    async def acquire(
        self, name: str, *, quorum: str, ttl_s: float, wait_s: float, session: str | None
    ) -> Json:
        if name in self.held:
            raise Conflict(f"lock {name} is held by alpha")
        self.tokens[name] = token = self.tokens.get(name, 0) + 1
        self.held[name] = row = {
            "name": name,
            "quorum": quorum or "main",
            "session": session or f"{len(self.tokens):032x}",
            "token": token,
            "until_boot_s": time.clock_gettime(time.CLOCK_BOOTTIME) + ttl_s,
            "expires_in_s": ttl_s,
        }
        return row

    async def renew(self, session: str) -> Json:
        return self._find(session)

    async def release(self, session: str) -> Json:
        row = self._find(session)
        del self.held[row["name"]]
        return row

    def _find(self, session: str) -> Json:
        for row in self.held.values():
            if row["session"] == session:
                return row
        raise NotFound(f"there is no lease with session {session}")

    async def hold_lines(
        self, name: str, *, quorum: str, ttl_s: float, wait_s: float | None
    ) -> AsyncIterator[Json]:
        row = await self.acquire(name, quorum=quorum, ttl_s=ttl_s, wait_s=0, session=None)
        try:
            yield {"state": "held", **row, "why": ""}
            await trio.sleep_forever()
        finally:
            await self.release(row["session"])

    async def show(self, name: str, *, quorum: str) -> Json:
        row = self.held.get(name)
        return {
            "name": name,
            "quorum": quorum or "main",
            "held": row is not None,
            "node": ID if row else None,
            "node_name": "alpha" if row else None,
            "token": self.tokens.get(name),
            "ttl_s": row["expires_in_s"] if row else None,
        }

    async def watch(self, name: str, *, quorum: str) -> AsyncIterator[Json]:
        yield await self.show(name, quorum=quorum)

    async def list(self) -> list[Json]:
        return list(self.held.values())
