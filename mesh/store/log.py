"""One scope of the store inside one LMDB transaction: the `Log` of the replication rules.

A read snapshot and the writer's transaction are the same class; in the writer, the states of authors that a
job touches are kept in `states` until the transaction writes them back, and each change is noted.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator
from operator import itemgetter
from typing import Any, NamedTuple

import lmdb

from mesh.core.log import NO_AUTHOR, AuthorState
from mesh.core.record import AID_BYTES, Kind, Record, SlotKey, fingerprint
from mesh.store import rows
from mesh.store.rows import Damaged, Stored
from mesh.store.watch import Change

_FP_MASK = (1 << 128) - 1
HISTORY_PER_PATH_MAX = 16
_WITH_HISTORY = (Kind.REG, Kind.MV)


class Tables(NamedTuple):
    """Handles of the databases, named as in `rows.NAMES`."""

    rec: Any
    log: Any
    heads: Any
    exp: Any
    hist: Any
    ring: Any
    addr: Any
    meta: Any


class LmdbLog:
    """The `Log` protocol over LMDB.

    Args:
        changes: where the writer notes what a job changed; None makes this a read snapshot.
        history_max: replaced values kept in all, 0 for none.

    Raises (every method):
        Damaged: a row it needed does not match its checksum.
    """

    def __init__(
        self,
        txn: Any,
        tables: Tables,
        scope: str,
        changes: list[Change] | None = None,
        history_max: int = 0,
    ) -> None:
        self._txn = txn
        self._tables = tables
        self.scope = scope
        self._scope = scope.encode()
        self._changes = changes
        self._history_max = history_max
        self.states: dict[bytes, AuthorState] = {}
        self._read: dict[bytes, AuthorState] = {}

    # -- authors ----------------------------------------------------------------------------------------

    def author(self, aid: bytes) -> AuthorState:
        state = self.known(aid)
        if state is None:
            key = self._scope + aid
            value = self._txn.get(key, db=self._tables.heads)
            state = self._read[aid] = NO_AUTHOR if value is None else rows.unpack_state(key, value)
        return state

    def known(self, aid: bytes) -> AuthorState | None:
        """What was read or written of an author already."""
        return self.states.get(aid) or self._read.get(aid)

    def authors(self) -> Iterator[tuple[bytes, AuthorState]]:
        self.flush()
        for key, value in self._scan(self._tables.heads, self._scope, self._scope):
            yield key[1:], rows.unpack_state(key, value)

    def set_marks(self, aid: bytes, *, head: int, floor: int) -> None:
        old = self.author(aid)
        self.states[aid] = AuthorState(head, floor, old.count, old.fp, old.size)

    def flush(self) -> None:
        """Write back the states that a job changed."""
        for aid, state in self.states.items():
            key = self._scope + aid
            if state == NO_AUTHOR:
                self._txn.delete(key, db=self._tables.heads)
            else:
                self._txn.put(key, rows.pack_state(key, state), db=self._tables.heads)
        self._read.update(self.states)
        self.states.clear()

    # -- slots ------------------------------------------------------------------------------------------

    def get(self, slot: SlotKey) -> Record | None:
        return self._record(rows.slot_key(self._scope, slot))

    def peek(self, slot: SlotKey) -> tuple[int, bytes] | None:
        key = rows.slot_key(self._scope, slot)
        value = self._txn.get(key, db=self._tables.rec)
        if value is None:
            return None
        stored = rows.unpack_stored(key, value)
        return stored.hlc, stored.sig

    def at(self, aid: bytes, hlc: int) -> Record | None:
        key = self._txn.get(rows.log_key(self._scope, aid, hlc), db=self._tables.log)
        return None if key is None else self._record(key)

    def since(self, aid: bytes, hlc: int) -> Iterator[Record]:
        start = rows.log_key(self._scope, aid, hlc + 1) if hlc < rows.U64_MAX else None
        if start is None:
            return
        for key, slot in self._scan(self._tables.log, start, self._scope + aid):
            rec = self._record(slot)
            if rec is None:
                raise Damaged("log", key)
            yield rec

    def newest(self, aid: bytes) -> int:
        cursor = self._txn.cursor(db=self._tables.log)
        found = cursor.set_range(rows.log_key(self._scope, aid, rows.U64_MAX))
        if found and cursor.key() == rows.log_key(self._scope, aid, rows.U64_MAX):
            return rows.U64_MAX
        if not (cursor.prev() if found else cursor.last()):
            return 0
        key = cursor.key()
        return int.from_bytes(key[-8:], "big") if key.startswith(self._scope + aid) else 0

    def slots(self, path: str) -> Iterator[Record]:
        prefix = rows.path_prefix(self._scope, path)
        for key, value in self._scan(self._tables.rec, prefix, prefix):
            yield rows.unpack_record(key, value)

    def entries(
        self, path: str, after: Callable[[bytes], int | None], *, newest_first: bool = False
    ) -> Iterator[Record]:
        """The LOG records of a path by hlc, merged from its authors and decoded only when taken.

        Args:
            after: for an author the hlc above which its records are wanted, or None to leave it out.
        """
        prefix = rows.path_prefix(self._scope, path) + bytes([Kind.LOG])
        streams = [
            self._entries_of(prefix + aid, low, newest_first)
            for aid in self._log_authors(prefix)
            if (low := after(aid)) is not None
        ]
        for _, key, value in heapq.merge(*streams, key=itemgetter(0), reverse=newest_first):
            yield rows.unpack_record(key, value)

    def _log_authors(self, prefix: bytes) -> Iterator[bytes]:
        cursor, at = self._txn.cursor(db=self._tables.rec), len(prefix)
        more = cursor.set_range(prefix)
        while more and cursor.key().startswith(prefix):
            aid = cursor.key()[at : at + AID_BYTES]
            yield aid
            more = cursor.set_range(prefix + aid + b"\xff" * 9)

    def _entries_of(
        self, prefix: bytes, low: int, newest_first: bool
    ) -> Iterator[tuple[tuple[int, bytes], bytes, bytes]]:
        """((hlc, aid), key, value) of one author's LOG records at a path."""
        cursor, aid = self._txn.cursor(db=self._tables.rec), prefix[-AID_BYTES:]
        if newest_first:
            if not cursor.set_range(prefix + b"\xff" * 9):
                cursor.last()
            else:
                cursor.prev()
        elif not cursor.set_range(prefix + rows.hlc_bytes(min(low + 1, rows.U64_MAX))):
            return
        for key, value in cursor.iterprev() if newest_first else cursor.iternext():
            hlc = int.from_bytes(key[-8:], "big")
            if not key.startswith(prefix) or hlc <= low:
                return
            yield (hlc, aid), key, value

    def log_ends(self, path: str) -> dict[bytes, tuple[int, int]]:
        """For each author with LOG records at a path: its newest hlc there, and when the last expires."""
        prefix = rows.path_prefix(self._scope, path) + bytes([Kind.LOG])
        ends: dict[bytes, tuple[int, int]] = {}
        for key, value in self._scan(self._tables.rec, prefix, prefix):
            stored = rows.unpack_stored(key, value)
            aid = key[len(prefix) : len(prefix) + AID_BYTES]
            _, expiry_ms = ends.get(aid, (0, 0))
            ends[aid] = (stored.hlc, max(expiry_ms, stored.expiry_ms or 0))
        return ends

    def paths(self, prefix: str, start: str = "") -> Iterator[str]:
        wanted = self._scope + prefix.encode()
        cursor = self._txn.cursor(db=self._tables.rec)
        more = cursor.set_range(max(wanted, self._scope + start.encode()))
        while more:
            key = cursor.key()
            if not key.startswith(wanted):
                return
            end = key.find(b"\0", 1)
            yield key[1:end].decode()
            more = cursor.set_range(key[:end] + b"\x01")

    def expiring(self, until_ms: int) -> Iterator[Record]:
        for _, slot in self.expiries(0, until_ms):
            rec = self._record(slot)
            if rec is not None:
                yield rec

    def expiries(self, from_ms: int, until_ms: int) -> Iterator[tuple[int, bytes]]:
        """(expiry in ms, key in rec) of records whose ttl ends in [from_ms, until_ms], soonest first."""
        start = rows.exp_key(self._scope, max(0, from_ms), b"\0" * 16, 0)
        for key, slot in self._scan(self._tables.exp, start, self._scope):
            expiry_ms = rows.exp_time_ms(key)
            if expiry_ms > until_ms:
                return
            yield expiry_ms, slot

    def _record(self, key: bytes) -> Record | None:
        value = self._txn.get(key, db=self._tables.rec)
        return None if value is None else rows.unpack_record(key, value)

    def _scan(self, table: Any, start: bytes, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
        cursor = self._txn.cursor(db=table)
        if not cursor.set_range(start):
            return
        for key, value in cursor.iternext():
            if not key.startswith(prefix):
                return
            yield key, value

    # -- changing ---------------------------------------------------------------------------------------

    def put(self, record: Record) -> None:
        assert self._changes is not None, "a read snapshot cannot be written"
        slot = record.slot
        key = rows.slot_key(self._scope, slot)
        old_value = self._txn.replace(key, rows.pack_record(key, record), db=self._tables.rec)
        old = None if old_value is None else rows.unpack_stored(key, old_value)
        if old is not None:
            self._unindex(record.aid, old)
            if self._history_max and record.kind in _WITH_HISTORY and record.path.startswith("kv/"):
                self._keep(slot, old)
        self._txn.put(rows.log_key(self._scope, record.aid, record.hlc), key, db=self._tables.log)
        if record.expiry_ms is not None:
            exp = rows.exp_key(self._scope, record.expiry_ms, record.aid, record.hlc)
            self._txn.put(exp, key, db=self._tables.exp)
        self._account(record.aid, old, record.sig, record.size)
        self._changes.append(Change(self.scope, record.path, record.kind, record.aid, record.hlc, record))

    def drop(self, slot: SlotKey) -> None:
        assert self._changes is not None, "a read snapshot cannot be written"
        key = rows.slot_key(self._scope, slot)
        value = self._txn.pop(key, db=self._tables.rec)
        if value is None:
            return
        old = rows.unpack_stored(key, value)
        self._unindex(slot.aid, old)
        self._account(slot.aid, old, None, 0)
        self._changes.append(Change(self.scope, slot.path, slot.kind, slot.aid, old.hlc, None))

    def drop_author(self, aid: bytes) -> None:
        prefix = self._scope + aid
        for key in [slot for _, slot in self._scan(self._tables.log, prefix, prefix)]:
            self.drop(rows.parse_slot_key(key))
        self.states[aid] = NO_AUTHOR

    def _unindex(self, aid: bytes, old: Stored) -> None:
        self._txn.delete(rows.log_key(self._scope, aid, old.hlc), db=self._tables.log)
        if old.expiry_ms is not None:
            self._txn.delete(rows.exp_key(self._scope, old.expiry_ms, aid, old.hlc), db=self._tables.exp)

    def _account(self, aid: bytes, old: Stored | None, sig: bytes | None, size: int) -> None:
        state = self.author(aid)
        count = state.count + (sig is not None) - (old is not None)
        fp = state.fp + (fingerprint(sig) if sig is not None else 0) - (fingerprint(old.sig) if old else 0)
        size += state.size - (old.size if old else 0)
        self.states[aid] = AuthorState(state.head, state.floor, count, fp & _FP_MASK, size)

    # -- replaced values --------------------------------------------------------------------------------

    def _keep(self, slot: SlotKey, old: Stored) -> None:
        """Put a replaced value into the ring; the oldest of the path, then the oldest of all, makes room."""
        txn, tables = self._txn, self._tables
        ring = txn.cursor(db=tables.ring)
        serial = (int.from_bytes(ring.key(), "big") + 1 if ring.last() else 1).to_bytes(8, "big")
        prefix = rows.path_prefix(self._scope, slot.path)
        kept = [key for key, _ in self._scan(tables.hist, prefix, prefix)]
        if len(kept) >= HISTORY_PER_PATH_MAX:
            self._forget(kept[0][-8:], kept[0])
        elif txn.stat(tables.ring)["entries"] >= self._history_max and ring.first():
            self._forget(ring.key(), ring.value())
        key = prefix + serial
        txn.put(key, rows.pack_replaced(key, slot, old), db=tables.hist)
        txn.put(serial, key, db=tables.ring)

    def _forget(self, serial: bytes, key: bytes) -> None:
        self._txn.delete(serial, db=self._tables.ring)
        self._txn.delete(key, db=self._tables.hist)

    def replaced(self, path: str) -> list[Record]:
        """Values of REG and MV slots under `kv/` that were replaced here, oldest first; a bounded few."""
        prefix = rows.path_prefix(self._scope, path)
        return [
            rows.unpack_replaced(key, value) for key, value in self._scan(self._tables.hist, prefix, prefix)
        ]


def sizes(env: lmdb.Environment, tables: Tables) -> dict[str, int]:
    """Rows of each table, bytes used, bytes mapped."""
    info, page = env.info(), env.stat()["psize"]
    with env.begin() as txn:
        found = {f"{name}_rows": txn.stat(table)["entries"] for name, table in tables._asdict().items()}
    return {**found, "map_bytes": info["map_size"], "used_bytes": (info["last_pgno"] + 1) * page}
