"""The feature `shards`: whose a key is, among the members that are alive, and what moves when they change.

`core/shards.py` decides. Nothing is computed until somebody asks; then the owners of all shards are kept up,
and what moves is told as an event and to watches.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import trio

from mesh.agent.events import Events
from mesh.agent.node import Node
from mesh.agent.table import Table
from mesh.agent.words import iso
from mesh.core import shards
from mesh.core.selector import Selector, parse_selector
from mesh.errors import NotFound, UsageError

Json = dict[str, Any]

SETTLE_S = 0.2


class Shards:
    """See `mesh.admin.features.Shards`."""

    def __init__(self, node: Node, table: Table, events: Events) -> None:
        self._node = node
        self._table = table
        self._events = events
        self._moved = trio.Event()
        self._asked = trio.Event()
        node.on_state.append(lambda _: self._move())
        node.on_members.append(lambda joined, gone: self._move())

    def _move(self) -> None:
        moved, self._moved = self._moved, trio.Event()
        moved.set()

    def _candidates(self, selector: Selector) -> list[shards.Owner]:
        found = []
        for aid in self._table.present():
            labels = self._table.labels_of(aid)
            if labels and selector.takes(labels):
                found.append(shards.Owner(aid, shards.weight_of(labels)))
        return found

    async def lookup(self, key: str, *, replicas: int, selector: str) -> Json:
        """`shapes.Shard`.

        Raises:
            UsageError: the key is too long, or the selector cannot be read.
            NotFound: no live member matches.
        """
        raw = key.encode()
        if not 0 < len(raw) <= shards.KEY_BYTES_MAX:
            raise UsageError(f"a key has 1 to {shards.KEY_BYTES_MAX} bytes, this one {len(raw)}")
        self._asked.set()
        shard = shards.shard_of(raw)
        found = shards.owners(shard, self._candidates(parse_selector(selector)), replicas)
        if not found:
            raise NotFound(f"no live member matches {selector or 'with a shard-weight above 0'}")
        return {"key": key, "shard": shard, "nodes": [self._node_row(aid) for aid in found]}

    def _node_row(self, aid: bytes) -> Json:
        id_, name = self._table.who(aid)
        return {"id": id_, "name": name, "zone": self._table.labels_of(aid).get("zone", "")}

    async def watch(self, *, replicas: int, selector: str) -> AsyncIterator[Json]:
        """`shapes.ShardChange`: every shard once as "present", one "ready", then those that move."""
        chosen, table, first = parse_selector(selector), shards.Table(replicas), True
        while True:
            moved = self._moved
            for each in table.update(self._candidates(chosen)):
                yield self._row("present" if first else "moved", each)
            if first:
                yield {"change": "ready", "time": self._time(), "shard": None, "before": [], "after": []}
            first = False
            await moved.wait()
            await trio.sleep(SETTLE_S)

    def _row(self, change: str, moved: shards.Moved) -> Json:
        before, after = ([self._node_row(aid) for aid in aids] for aids in (moved.before, moved.after))
        return {
            "change": change,
            "time": self._time(),
            "shard": moved.shard,
            "before": before,
            "after": after,
        }

    def _time(self) -> str:
        return iso(self._node.now_ms())

    async def run(self) -> None:
        """Tell as an event what moves, from the first question on; until cancelled."""
        await self._asked.wait()
        me, table, everyone = self._node.me, shards.Table(), parse_selector("")
        table.update(self._candidates(everyone))
        while True:
            moved = self._moved
            found = table.update(self._candidates(everyone))
            if found:
                gained = sorted(each.shard for each in found if me in each.after)
                lost = sorted(each.shard for each in found if me in each.before)
                text = f"{len(found)} of {shards.SHARDS} shards moved, {len(gained)} here, {len(lost)} away"
                self._events.tell("shards_moved", text, count=len(found), gained=gained, lost=lost)
            await moved.wait()
            await trio.sleep(SETTLE_S)
