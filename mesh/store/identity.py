"""Whose store this is: format, mesh and zone, checked at each opening."""

from __future__ import annotations

from pathlib import Path

import lmdb

from mesh.errors import StoreError
from mesh.store import rows
from mesh.store.log import Tables


def check(path: Path, env: lmdb.Environment, tables: Tables, meta: dict[str, bytes], new_zone: bool) -> None:
    """Refuse a store that is not ours.

    Raises:
        StoreError: another schema, mesh or zone.
    """
    found: dict[str, bytes | None] = {}
    with env.begin() as txn:
        for name in ("schema", "mesh", "zone"):
            key = name.encode()
            value = txn.get(key, db=tables.meta)
            found[name] = None if value is None else rows.unseal("meta", key, value)
    if found["schema"] != meta["schema"]:
        version = (found["schema"] or b"unknown").decode("ascii", "replace")
        raise StoreError(
            f"the store {path} has format {version}, this version reads {meta['schema'].decode()}",
            "run the version that wrote it, or move the directory away and let the members fill a new one",
        )
    if found["mesh"] != meta["mesh"]:
        owner = (found["mesh"] or b"").hex()
        raise StoreError(
            f"the store {path} belongs to mesh {owner}, this node to {meta['mesh'].hex()}",
            "use another --data-dir, or move the store away",
        )
    if found["zone"] != meta["zone"]:
        if not new_zone:
            raise StoreError(
                f"the store {path} belongs to zone {(found['zone'] or b'').decode()!r}, "
                f"this node to {meta['zone'].decode()!r}"
            )
        _drop_zone(env, tables, meta["zone"])


def _drop_zone(env: lmdb.Environment, tables: Tables, zone: bytes) -> None:
    with env.begin(write=True) as txn:
        for table in (tables.rec, tables.log, tables.heads, tables.exp):
            cursor = txn.cursor(db=table)
            more = cursor.set_range(b"z")
            while more and cursor.key()[:1] == b"z":
                more = cursor.delete()
        for key, value in list(txn.cursor(db=tables.ring)):
            if value[:1] == b"z":
                txn.delete(key, db=tables.ring)
                txn.delete(value, db=tables.hist)
        txn.put(b"zone", rows.seal(b"zone", zone), db=tables.meta)
