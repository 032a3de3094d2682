"""Logs of the made-up mesh: one workload `web` with two instances that wrote one line each."""

from __future__ import annotations

from collections.abc import AsyncIterator

import trio

from mesh.admin.features import Json
from mesh.admin.memory.clock import ID
from mesh.errors import NotFound


class MemoryLogs:
    """See `mesh.admin.features.Logs`."""

    async def read(self, name: str, *, node: str | None, tail: int, follow: bool) -> AsyncIterator[Json]:
        """The two lines, then nothing more."""
        instances = [each for each in ("web/0", "web/1") if name in (each, "web")]
        if not instances:
            raise NotFound(f"no instance of {name[:80]!r} has a log on any node that is there")
        for instance in instances[: None if tail else 0]:
            yield {
                "node": ID,
                "node_name": "self",
                "instance": instance,
                "time": "2026-01-31T12:00:00.000000000Z",
                "stream": "stdout",
                "line": f"{instance} is up",
            }
        if follow:
            await trio.sleep_forever()
