"""What the rules of replication need of a store: one scope's slots, seen inside one transaction.

Two rooms implement `Log`: `core/memory.py` (RAM: the live scope, tests, the simulator) and
`store/` (LMDB: mesh and zone). One test suite runs against both.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import msgspec

from mesh.core.record import Record, SlotKey


class AuthorState(msgspec.Struct, frozen=True, gc=False):
    """What a replica knows of one author.

    Attributes:
        head: everything of the author up to this hlc is held (what survives compaction).
        floor: the author's deletes and expiries up to this hlc are collected.
        count: stored records, of every kind.
        fp: sum modulo 2**128 of `fingerprint(sig)` over them.
        size: their bytes, `Record.size` each.
    """

    head: int = 0
    floor: int = 0
    count: int = 0
    fp: int = 0
    size: int = 0


NO_AUTHOR = AuthorState()


class Log(Protocol):
    """One scope. `put` and `drop` keep the per-author hlc order and the expiry index; they also keep
    `count`, `fp` and `size` of the author's state; `head` and `floor` move only by `set_marks`.

    Iterators are read while nothing is changed: whoever wants to write on the way makes a list first.
    """

    def author(self, aid: bytes) -> AuthorState:
        """State of an author; NO_AUTHOR when unknown."""
        ...

    def authors(self) -> Iterator[tuple[bytes, AuthorState]]:
        """All authors, ascending by aid."""
        ...

    def set_marks(self, aid: bytes, *, head: int, floor: int) -> None: ...

    def get(self, slot: SlotKey) -> Record | None: ...

    def peek(self, slot: SlotKey) -> tuple[int, bytes] | None:
        """(hlc, signature) of what is in a slot, without decoding the record: the hot path of merging."""
        ...

    def put(self, record: Record) -> None:
        """Store a record in its slot, replacing what was there.

        The caller has made sure that no other slot of the author holds a record of the same hlc.
        """
        ...

    def drop(self, slot: SlotKey) -> None:
        """Remove a slot if present."""
        ...

    def since(self, aid: bytes, hlc: int) -> Iterator[Record]:
        """The author's records with a larger hlc, ascending by hlc."""
        ...

    def at(self, aid: bytes, hlc: int) -> Record | None:
        """The author's record with exactly this hlc."""
        ...

    def newest(self, aid: bytes) -> int:
        """The largest hlc among the author's stored records; 0 when there are none."""
        ...

    def slots(self, path: str) -> Iterator[Record]:
        """Every author's records at one path, by (kind, aid, hlc)."""
        ...

    def paths(self, prefix: str, start: str = "") -> Iterator[str]:
        """Distinct paths beginning with `prefix`, ascending, from `start` (inclusive) on."""
        ...

    def expiring(self, until_ms: int) -> Iterator[Record]:
        """Records whose ttl ends at or before `until_ms`, soonest first."""
        ...

    def drop_author(self, aid: bytes) -> None:
        """Remove every slot and the state of an author."""
        ...
