"""The address book: where members were reached, kept over restarts, so that a node finds back alone."""

from __future__ import annotations

from typing import Any

import lmdb
import msgspec

from mesh.core.record import AID_BYTES
from mesh.errors import PeerError
from mesh.store import rows
from mesh.store.log import Tables
from mesh.store.rows import Damaged
from mesh.store.txn import Txn
from mesh.wire import codec

MEMBERS_MAX = 1024
ADDRESSES_MAX = 8


class Known(msgspec.Struct, frozen=True, array_like=True):
    """One member's addresses.

    Attributes:
        public: its 32-byte public key.
        addresses: multiaddrs without /p2p, best first, at most eight.
        seen_ms: when it was last reached, unix milliseconds.
    """

    public: bytes
    addresses: list[str]
    seen_ms: int


def put(txn: Txn, tables: Tables, known: Known) -> None:
    """Write an entry; above 1,024 members the one not seen for longest goes."""
    key = known.public[:AID_BYTES]
    content = codec.encode([known.public, known.addresses[:ADDRESSES_MAX], known.seen_ms])
    table = tables.addr
    if txn.raw.stat(table)["entries"] >= MEMBERS_MAX and txn.raw.get(key, db=table) is None:
        oldest = min(_entries(txn.raw, table), key=lambda entry: (entry.seen_ms, entry.public))
        txn.put_row(table, oldest.public[:AID_BYTES], None)
    txn.put_row(table, key, rows.seal(key, content))


def read(env: lmdb.Environment, tables: Tables) -> list[Known]:
    """All entries, last seen first. Damaged ones are left out: they are hints."""
    with env.begin() as txn:
        return sorted(_entries(txn, tables.addr), key=lambda entry: (-entry.seen_ms, entry.public))


def _entries(txn: Any, table: Any) -> list[Known]:
    found = []
    for key, value in txn.cursor(db=table):
        try:
            found.append(msgspec.convert(codec.decode(rows.unseal("addr", key, value)), Known))
        except (Damaged, PeerError, msgspec.ValidationError):
            continue
    return found
