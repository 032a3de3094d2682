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
        count: stored slots (kind LOG not counted).
        fp: sum modulo 2**128 of `fingerprint(sig)` over those slots.
    """

    head: int = 0
    floor: int = 0
    count: int = 0
    fp: int = 0


NO_AUTHOR = AuthorState()


class Log(Protocol):
    """One scope. `put` and `drop` keep the per-author hlc order and the expiry index; they also keep
    `count` and `fp` of the author's state; `head` and `floor` move only by `set_marks`."""

    def author(self, aid: bytes) -> AuthorState:
        """State of an author; NO_AUTHOR when unknown."""
        ...

    def authors(self) -> Iterator[tuple[bytes, AuthorState]]:
        """All authors, ascending by aid."""
        ...

    def set_marks(self, aid: bytes, *, head: int, floor: int) -> None: ...

    def get(self, slot: SlotKey) -> Record | None: ...

    def put(self, record: Record) -> None:
        """Store a record in its slot, replacing what was there."""
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
