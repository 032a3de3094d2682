"""Mends what was found damaged, without stopping.

A record that does not match its checksum is dropped and its author's order, expiry index, count and
fingerprint are rebuilt from the records that are left. The fingerprint then differs from the other members',
which is what makes them compare lists and send the lost record again: our own, too. Where the row with an
author's head is lost, the head falls to zero (everything is sent again) and the floor to what the author's
own `~gc` record says.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any, NamedTuple

from mesh.core.floors import gc_floor, gc_slot
from mesh.core.log import NO_AUTHOR, AuthorState
from mesh.core.record import AID_BYTES, fingerprint
from mesh.store import rows
from mesh.store.log import LmdbLog, Tables
from mesh.store.rows import Damaged
from mesh.store.txn import Txn
from mesh.store.votes import SEAT, VOTES
from mesh.store.watch import Change

_BREATHE_ROWS = 500
_FP_MASK = (1 << 128) - 1


class _Kept(NamedTuple):
    """What the orders of one good record are made of."""

    key: bytes
    expiry_ms: int | None
    hlc: int
    sig: bytes
    size: int


def mend_author(
    txn: Txn, tables: Tables, scope: str, aid: bytes, me: bytes | None
) -> Generator[None, None, int]:
    """A long job: rebuild all that belongs to one author in one scope; returns the number of lost records.

    Args:
        me: our own aid; our own head stays at our newest record.
    """
    raw, first = txn.raw, scope.encode()
    kept: list[_Kept] = []
    lost: list[bytes] = []
    seen = 0
    for key in _keys(raw, tables.rec, first):
        seen += 1
        if seen % _BREATHE_ROWS == 0:
            yield
        if not _is_of(key, aid):
            continue
        try:
            stored = rows.unpack_stored(key, raw.get(key, db=tables.rec))
            kept.append(_Kept(key, stored.expiry_ms, stored.hlc, stored.sig, stored.size))
        except Damaged:
            lost.append(key)
    for key in lost:
        _drop(txn, tables, scope, key)
    for table, at in ((tables.log, 1), (tables.exp, 9)):
        for key in _keys(raw, table, first):
            seen += 1
            if seen % _BREATHE_ROWS == 0:
                yield
            if key[at : at + AID_BYTES] == aid:
                txn.put_row(table, key, None)
    state = _rebuild(txn, tables, first, aid, kept)
    _restore_state(txn, tables, scope, aid, state, me)
    return len(lost)


def _keys(raw: Any, table: Any, prefix: bytes) -> Generator[bytes, None, None]:
    """Keys with a prefix, ascending; rows may be deleted on the way."""
    at = prefix
    while True:
        cursor = raw.cursor(db=table)
        if not cursor.set_range(at) or not cursor.key().startswith(prefix):
            return
        key = cursor.key()
        at = key + b"\0"
        yield key


def _is_of(key: bytes, aid: bytes) -> bool:
    """Whether a key of `rec` is the author's, or nobody's: then it is dropped with it."""
    try:
        return rows.parse_slot_key(key).aid == aid
    except Damaged:
        return True


def _drop(txn: Txn, tables: Tables, scope: str, key: bytes) -> None:
    txn.put_row(tables.rec, key, None)
    try:
        slot = rows.parse_slot_key(key)
    except Damaged:
        return
    txn.changes.append(Change(scope, slot.path, slot.kind, slot.aid, slot.hlc, None))


def _rebuild(txn: Txn, tables: Tables, scope: bytes, aid: bytes, kept: list[_Kept]) -> AuthorState:
    """Write the orders anew; returns count, fingerprint and size (no marks)."""
    count = fp = size = 0
    for row in kept:
        txn.put_row(tables.log, rows.log_key(scope, aid, row.hlc), row.key)
        if row.expiry_ms is not None:
            txn.put_row(tables.exp, rows.exp_key(scope, row.expiry_ms, aid, row.hlc), row.key)
        count += 1
        fp += fingerprint(row.sig)
        size += row.size
    return AuthorState(0, 0, count, fp & _FP_MASK, size)


def _restore_state(
    txn: Txn, tables: Tables, scope: str, aid: bytes, state: AuthorState, me: bytes | None
) -> None:
    log = LmdbLog(txn.raw, tables, scope)
    try:
        old = log.author(aid)
        head, floor = old.head, old.floor
    except Damaged:
        floor = gc_floor(log.get(gc_slot(aid)))
        head = log.newest(aid) if aid == me else 0
        floor = min(floor, head)
    new = AuthorState(head, floor, state.count, state.fp, state.size)
    key = scope.encode() + aid
    txn.put_row(tables.heads, key, None if new == NO_AUTHOR else rows.pack_state(key, new))


def drop_row(txn: Txn, tables: Tables, damaged: Damaged) -> None:
    """Drop a damaged row that is nobody's: history, an address, a named value."""
    table = getattr(tables, damaged.table)
    if damaged.table == "ring":
        value = txn.raw.get(damaged.key, db=table)
        if value is not None:
            txn.put_row(tables.hist, value, None)
    elif damaged.table == "hist":
        txn.put_row(tables.ring, damaged.key[-8:], None)
    elif damaged.table == "meta" and damaged.key.startswith(VOTES.encode()):
        txn.put_meta(SEAT, None)
    txn.put_row(table, damaged.key, None)
