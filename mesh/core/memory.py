"""A scope's slots in RAM: the live scope, and the twin of the LMDB log in tests and in the simulator.

Four indexes over the same records: by slot, by author and hlc, by path, by expiry. The ordered ones are plain
lists kept by bisection: to move a thousand entries is faster than to walk a tree, and takes less room.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterator

from mesh.core.clock import COUNTER_BITS
from mesh.core.log import NO_AUTHOR, AuthorState
from mesh.core.record import SIGNATURE_BYTES, Record, SlotKey, fingerprint

_FP_MASK = (1 << 128) - 1


class _Author:
    """State and hlc order of one author: `hlcs` ascending, and the record of each.

    Attributes:
        state: the numbers as they were last asked for, until one of them changes.
    """

    __slots__ = ("count", "floor", "fp", "head", "hlcs", "records", "size", "state")

    def __init__(self) -> None:
        self.head = 0
        self.floor = 0
        self.count = 0
        self.fp = 0
        self.size = 0
        self.hlcs: list[int] = []
        self.records: dict[int, Record] = {}
        self.state: AuthorState | None = None


class MemoryLog:
    """`mesh.core.log.Log` in RAM.

    Args:
        fingerprints: keep `fp`; the live scope compares heads only and saves the hashing.
    """

    def __init__(self, *, fingerprints: bool = True) -> None:
        self._fingerprints = fingerprints
        self._slots: dict[SlotKey, Record] = {}
        self._authors: dict[bytes, _Author] = {}
        self._order: list[SlotKey] = []
        self._expiry: list[tuple[int, bytes, int]] = []

    def __len__(self) -> int:
        return len(self._slots)

    # -- authors ----------------------------------------------------------------------------------------

    def author(self, aid: bytes) -> AuthorState:
        """State of an author; NO_AUTHOR when unknown."""
        author = self._authors.get(aid)
        if author is None:
            return NO_AUTHOR
        state = author.state
        if state is None:
            state = AuthorState(author.head, author.floor, author.count, author.fp, author.size)
            author.state = state
        return state

    def authors(self) -> Iterator[tuple[bytes, AuthorState]]:
        """All authors, ascending by aid."""
        for aid in sorted(self._authors):
            yield aid, self.author(aid)

    def set_marks(self, aid: bytes, *, head: int, floor: int) -> None:
        """Set head and floor of an author."""
        author = self._author(aid)
        author.head = head
        author.floor = floor
        author.state = None

    def drop_author(self, aid: bytes) -> None:
        """Remove every slot and the state of an author."""
        author = self._authors.get(aid)
        if author is not None:
            for record in list(author.records.values()):
                self.drop(record.slot)
            del self._authors[aid]

    def _author(self, aid: bytes) -> _Author:
        author = self._authors.get(aid)
        if author is None:
            author = self._authors[aid] = _Author()
        return author

    # -- slots ------------------------------------------------------------------------------------------

    def get(self, slot: SlotKey) -> Record | None:
        """The record in a slot."""
        return self._slots.get(slot)

    def peek(self, slot: SlotKey) -> tuple[int, bytes] | None:
        """(hlc, signature) of what is in a slot."""
        record = self._slots.get(slot)
        return None if record is None else (record.hlc, record.sig)

    def put(self, record: Record) -> None:
        """Store a record in its slot, replacing what was there."""
        slot = record.slot
        self._replace(slot, self._slots.get(slot), record)

    def _replace(self, slot: SlotKey, old: Record | None, record: Record) -> None:
        aid, hlc = record.aid, record.hlc
        author = self._authors.get(aid)
        if author is None:
            author = self._authors[aid] = _Author()
        if old is None:
            insort(self._order, slot)
        else:
            self._unlink(author, old)
        self._slots[slot] = record
        if hlc not in author.records:
            hlcs = author.hlcs
            if not hlcs or hlcs[-1] < hlc:
                hlcs.append(hlc)
            else:
                insort(hlcs, hlc)
        author.records[hlc] = record
        if record.ttl is not None:
            insort(self._expiry, ((hlc >> COUNTER_BITS) + record.ttl, record.aid, hlc))
        author.size += len(record.body) + SIGNATURE_BYTES
        author.count += 1
        author.state = None
        if self._fingerprints:
            author.fp = (author.fp + fingerprint(record.sig)) & _FP_MASK

    def drop(self, slot: SlotKey) -> None:
        """Remove a slot if present."""
        record = self._slots.pop(slot, None)
        if record is not None:
            del self._order[bisect_left(self._order, slot)]
            self._unlink(self._authors[record.aid], record)

    def _unlink(self, author: _Author, record: Record) -> None:
        hlc, hlcs = record.hlc, author.hlcs
        del author.records[hlc]
        del hlcs[-1 if hlcs[-1] == hlc else bisect_left(hlcs, hlc)]
        if record.ttl is not None:
            expiry = ((hlc >> COUNTER_BITS) + record.ttl, record.aid, hlc)
            del self._expiry[bisect_left(self._expiry, expiry)]
        author.size -= len(record.body) + SIGNATURE_BYTES
        author.count -= 1
        author.state = None
        if self._fingerprints:
            author.fp = (author.fp - fingerprint(record.sig)) & _FP_MASK

    # -- orders -----------------------------------------------------------------------------------------

    def since(self, aid: bytes, hlc: int) -> Iterator[Record]:
        """The author's records with a larger hlc, ascending by hlc."""
        author = self._authors.get(aid)
        if author is not None:
            for at in range(bisect_right(author.hlcs, hlc), len(author.hlcs)):
                yield author.records[author.hlcs[at]]

    def at(self, aid: bytes, hlc: int) -> Record | None:
        """The author's record with exactly this hlc."""
        author = self._authors.get(aid)
        return None if author is None else author.records.get(hlc)

    def newest(self, aid: bytes) -> int:
        """The largest hlc among the author's stored records; 0 when there are none."""
        author = self._authors.get(aid)
        return author.hlcs[-1] if author is not None and author.hlcs else 0

    def slots(self, path: str) -> Iterator[Record]:
        """Every author's records at one path, by (kind, aid, hlc)."""
        for at in range(bisect_left(self._order, (path,)), bisect_left(self._order, (path, 256))):
            yield self._slots[self._order[at]]

    def paths(self, prefix: str, start: str = "") -> Iterator[str]:
        """Distinct paths beginning with `prefix`, ascending, from `start` (inclusive) on."""
        index = bisect_left(self._order, (max(prefix, start),))
        while index < len(self._order):
            path = self._order[index].path
            if not path.startswith(prefix):
                return
            yield path
            index = bisect_left(self._order, (path, 256))

    def expiring(self, until_ms: int) -> Iterator[Record]:
        """Records whose ttl ends at or before `until_ms`, soonest first."""
        for at in range(bisect_left(self._expiry, (until_ms + 1,))):
            _, aid, hlc = self._expiry[at]
            yield self._authors[aid].records[hlc]
