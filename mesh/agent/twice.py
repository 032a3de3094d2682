"""Says what ran twice, and reads what all nodes say of it; see `core/twice.py`.

After a split many may have to tell of many instances: what comes within a second is one commit.
"""

from __future__ import annotations

from collections import deque

import trio

from mesh.agent.author import Statement
from mesh.agent.insist import insist
from mesh.agent.node import Node
from mesh.core import twice
from mesh.core.log import Log
from mesh.core.record import MESH, Kind, Op, Record
from mesh.core.rivals import Overlap
from mesh.errors import PeerError

LINGER_S = 1.0
NAMES_MAX = 500
NEW_MAX = NAMES_MAX * twice.ROWS_MAX  # kept until they can be said: the disk may be full


class Twice:
    """See the module."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._new: deque[Overlap] = deque(maxlen=NEW_MAX)
        self._news = trio.Event()

    def told(self, overlap: Overlap) -> None:
        """Of two nodes, ours the first, that had an instance at once."""
        self._new.append(overlap)
        self._news.set()

    def of(self, workload: str) -> list[Overlap]:
        """What ran twice of a workload, oldest first."""
        found = list(self._new)
        with self._node.store.read(MESH) as slots:
            records = [
                record
                for path in slots.paths(twice.PREFIX)
                if path.endswith(f"/{workload}")
                for record in slots.slots(path)
            ]
        for record in records:
            found += self._read(record)
        return [it for it in twice.merged(found) if it.seat.name == workload]

    def _read(self, record: Record) -> list[Overlap]:
        node = self._node
        if record.op != Op.PUT or record.kind != Kind.ALL or record.expired(node.now_ms()):
            return []
        if not node.view.counts(record):
            return []
        try:
            return twice.read(record.path, record.aid, record.val)
        except PeerError as error:
            node.alarm("workload", record.aid, error.message)
            return []

    async def run(self) -> None:
        """Say what there is to be said, until cancelled."""
        while True:
            await self._news.wait()
            await trio.sleep(LINGER_S)
            self._news = trio.Event()
            await insist(self._say)

    async def _say(self) -> None:
        new = list(self._new)
        await self._node.author.say(MESH, lambda slots: self._statements(slots, new))
        said = set(new)
        self._new = deque((each for each in self._new if each not in said), NEW_MAX)

    def _statements(self, slots: Log, new: list[Overlap]) -> list[Statement]:
        me, said = self._node.me, list[Statement]()
        known = set(slots.paths(twice.path_of(me, "")))
        for name in sorted({overlap.seat.name for overlap in new}):
            path = twice.path_of(me, name)
            if path not in known and len(known) >= NAMES_MAX:
                continue
            known.add(path)
            held = [each for rec in slots.slots(path) if rec.aid == me for each in self._read(rec)]
            rows = twice.merged([*held, *(it for it in new if it.seat.name == name)])
            said.append(Statement(path, Kind.ALL, twice.written(rows), ttl=twice.TTL_MS))
        return said
