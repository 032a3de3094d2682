"""The live scope: slots in RAM that tell the store what changed in them."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from mesh.core.memory import MemoryLog
from mesh.core.record import LIVE, Record, SlotKey
from mesh.store.watch import Change


class LiveLog(MemoryLog):
    """`MemoryLog` that reports changes.

    Args:
        tell: called with the changes of one step, in order.
    """

    def __init__(self, tell: Callable[[list[Change]], None]) -> None:
        super().__init__(fingerprints=False)
        self._tell = tell
        self._noted: list[Change] = []
        self._depth = 0

    def put(self, record: Record) -> None:
        """Store a record in its slot, replacing what was there."""
        super().put(record)
        self._note(Change(LIVE, record.path, record.kind, record.aid, record.hlc, record))

    def drop(self, slot: SlotKey) -> None:
        """Remove a slot if present."""
        record = self.get(slot)
        if record is not None:
            super().drop(slot)
            self._note(Change(LIVE, slot.path, slot.kind, slot.aid, record.hlc, None))

    def drop_author(self, aid: bytes) -> None:
        """Remove every slot and the state of an author."""
        with self.together():
            super().drop_author(aid)

    def _note(self, change: Change) -> None:
        self._noted.append(change)
        if self._depth == 0:
            self._flush()

    def _flush(self) -> None:
        noted, self._noted = self._noted, []
        if noted:
            self._tell(noted)

    @contextmanager
    def together(self) -> Iterator[None]:
        """Tell the changes made inside as one step."""
        self._depth += 1
        try:
            yield
        finally:
            self._depth -= 1
            if self._depth == 0:
                self._flush()

    def next_expiry_ms(self, now_ms: int) -> int | None:
        """When the next record after `now_ms` expires, or None."""
        at = bisect_left(self._expiry, (now_ms + 1,))
        return self._expiry[at][0] if at < len(self._expiry) else None

    def expired_paths(self, after_ms: int, until_ms: int) -> list[str]:
        """Paths of records whose ttl ends in (after_ms, until_ms]."""
        first, end = (bisect_left(self._expiry, (at + 1,)) for at in (after_ms, until_ms))
        span = self._expiry[first:end]
        return list(dict.fromkeys(self._authors[aid].records[hlc].path for _, aid, hlc in span))
