"""Finds damaged rows before somebody needs them, a few hundred rows at a time.

A round visits every row of every table: checksums, that the tables agree (each record is in the order of its
author and, with a ttl, in the order of expiry, and nothing else is), and that count, size and fingerprint of
each author are those of its records. What changed while an author was being summed is judged next round.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import lmdb
import msgspec

from mesh.core.log import AuthorState
from mesh.core.record import AID_BYTES, fingerprint
from mesh.store import rows
from mesh.store.log import Tables
from mesh.store.rows import Damaged, Stored

STEP_ROWS = 200
_FP_MASK = (1 << 128) - 1


class _Sum(msgspec.Struct):
    """An author being summed: its row in `heads`, the state then, the last key of its log visited."""

    key: bytes
    state: AuthorState
    at: bytes
    count: int = 0
    fp: int = 0
    size: int = 0


class Scrub:
    """Where the round stands.

    Args:
        found: called with each damaged row.
    """

    def __init__(self, env: lmdb.Environment, tables: Tables, found: Callable[[Damaged], None]) -> None:
        self._env = env
        self._tables = tables
        self._found = found
        self._table = 0
        self._at = b""
        self._sum: _Sum | None = None
        self.rounds = 0
        self._check: dict[str, Callable[[Any, bytes, bytes], None]] = {
            "rec": self._rec,
            "log": self._log,
            "exp": self._exp,
            "heads": self._heads,
            "hist": self._hist,
            "ring": self._ring,
            "addr": lambda txn, key, value: _sealed("addr", key, value),
            "meta": lambda txn, key, value: _sealed("meta", key, value),
        }

    def total(self) -> int:
        """Rows of a round, for pacing."""
        with self._env.begin() as txn:
            return sum(txn.stat(table)["entries"] for table in self._tables)

    def step(self, most: int = STEP_ROWS) -> int:
        """Visit up to `most` rows in one short snapshot; returns how many."""
        with self._env.begin() as txn:
            visited = 0
            while visited < most:
                if self._sum is not None:
                    visited += self._sum_on(txn, most - visited)
                elif not self._next_row(txn):
                    return visited
                visited += 1
            return visited

    def _next_row(self, txn: Any) -> bool:
        """Visit the next row; False at the end of a round."""
        name = Tables._fields[self._table]
        cursor = txn.cursor(db=self._tables[self._table])
        if not cursor.set_range(self._at + b"\0" if self._at else b"\0"):
            self._at = b""
            self._table = (self._table + 1) % len(self._tables)
            self.rounds += self._table == 0
            return self._table != 0
        key, value = cursor.item()
        self._at = key
        try:
            self._check[name](txn, key, value)
        except Damaged as damaged:
            self._found(damaged)
        return True

    def _rec(self, txn: Any, key: bytes, value: bytes) -> None:
        slot = rows.parse_slot_key(key)
        stored = rows.unpack_stored(key, value)
        scope = key[:1]
        if txn.get(rows.log_key(scope, slot.aid, stored.hlc), db=self._tables.log) != key:
            raise Damaged("rec", key)
        if stored.expiry_ms is not None:
            row = rows.exp_key(scope, stored.expiry_ms, slot.aid, stored.hlc)
            if txn.get(row, db=self._tables.exp) != key:
                raise Damaged("rec", key)

    def _log(self, txn: Any, key: bytes, value: bytes) -> None:
        if self._stored(txn, "log", key, value).hlc != int.from_bytes(key[-8:], "big"):
            raise Damaged("log", key)

    def _exp(self, txn: Any, key: bytes, value: bytes) -> None:
        if self._stored(txn, "exp", key, value).expiry_ms != rows.exp_time_ms(key):
            raise Damaged("exp", key)

    def _stored(self, txn: Any, table: str, key: bytes, slot: bytes) -> Stored:
        value = txn.get(slot, db=self._tables.rec)
        if value is None:
            raise Damaged(table, key)
        return rows.unpack_stored(slot, value)

    def _hist(self, txn: Any, key: bytes, value: bytes) -> None:
        _sealed("hist", key, value)
        if txn.get(key[-8:], db=self._tables.ring) != key:
            raise Damaged("hist", key)

    def _ring(self, txn: Any, key: bytes, value: bytes) -> None:
        if txn.get(value, db=self._tables.hist) is None:
            raise Damaged("ring", key)

    def _heads(self, txn: Any, key: bytes, value: bytes) -> None:
        self._sum = _Sum(key, rows.unpack_state(key, value), key)

    def _sum_on(self, txn: Any, most: int) -> int:
        """Go on summing an author's records; at the end compare."""
        sums = self._sum
        assert sums is not None
        cursor, visited = txn.cursor(db=self._tables.log), 0
        more = cursor.set_range(sums.at + b"\0")
        while more and visited < most and cursor.key().startswith(sums.key):
            sums.at, slot = cursor.item()
            visited += 1
            try:
                stored = self._stored(txn, "log", sums.at, slot)
                sums.count += 1
                sums.fp += fingerprint(stored.sig)
                sums.size += stored.size
            except Damaged as damaged:
                self._found(damaged)
            more = cursor.next()
        if more and visited >= most and cursor.key().startswith(sums.key):
            return visited
        self._sum = None
        self._compare(txn, sums)
        return visited

    def _compare(self, txn: Any, sums: _Sum) -> None:
        value = txn.get(sums.key, db=self._tables.heads)
        try:
            if value is None or rows.unpack_state(sums.key, value) != sums.state:
                return
        except Damaged as damaged:
            self._found(damaged)
            return
        found = (sums.count, sums.fp & _FP_MASK, sums.size)
        if found != (sums.state.count, sums.state.fp, sums.state.size):
            self._found(Damaged("heads", sums.key))


def _sealed(table: str, key: bytes, value: bytes) -> None:
    rows.unseal(table, key, value)


def concerns(damaged: Damaged) -> tuple[str, bytes] | None:
    """(scope, aid) of the author whose rows are to be mended; None when it is nobody's."""
    key = damaged.key
    scope = key[:1].decode("latin-1")
    try:
        if damaged.table == "rec":
            return scope, rows.parse_slot_key(key).aid
        if damaged.table in ("log", "heads") and len(key) > AID_BYTES:
            return scope, key[1 : 1 + AID_BYTES]
        if damaged.table == "exp" and len(key) >= 9 + AID_BYTES:
            return scope, key[9 : 9 + AID_BYTES]
    except Damaged:
        pass
    return None
