"""Reads a store through, as a process of its own: what a damaged file does to it, it does to nobody else.

    python -m mesh.store.check DIRECTORY [--deep]

The first line on stdout is a JSON object of the named values that could be read (base64). Exit status 0 means
that every row was read and matches its checksum, and that the tables agree; else the last line says what is
wrong. `--deep` first walks all pages without LMDB: order of keys, counters, pages used twice or not at all.
"""

from __future__ import annotations

import base64
import json
import os
import sys
from collections.abc import Iterator
from typing import Any

import lmdb

from mesh.store import rows
from mesh.store.rows import Damaged


def main(path: str, *, deep: bool = False) -> int:
    """Check the store in a directory; returns the exit status."""
    _no_core_file()
    try:
        if deep:
            _verify_pages(path)
        env = lmdb.open(path, readonly=True, lock=False, max_dbs=len(rows.NAMES), create=False)
        with env.begin() as txn:
            tables = {name.decode(): env.open_db(name, txn=txn, create=False) for name in rows.NAMES}
            print(json.dumps(_meta(txn, tables["meta"])), flush=True)
            _walk(txn, tables)
    except (lmdb.Error, Damaged, ValueError, KeyError) as error:
        print(f"{type(error).__name__}: {str(error).splitlines()[0]}", flush=True)
        return 1
    return 0


def _verify_pages(path: str) -> None:
    """Structure, by the verifier that comes with LMDB's binding; older ones have none."""
    try:
        from lmdb import verify
    except ImportError:
        return
    walk: Any = verify.verify
    try:
        wrong = walk(os.path.join(path, "data.mdb"))
    except verify.VerifyError as error:
        raise ValueError(str(error)) from None
    if wrong:
        raise ValueError(f"{len(wrong)} faults, the first: {wrong[0]}")


def _no_core_file() -> None:
    import resource

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _meta(txn: Any, table: Any) -> dict[str, str]:
    found = {}
    for key, value in txn.cursor(db=table):
        try:
            content = rows.unseal("meta", key, value)
        except Damaged:
            continue
        found[key.decode("utf-8", "replace")] = base64.b64encode(content).decode()
    return found


def _walk(txn: Any, tables: dict[str, Any]) -> None:
    """Every row of every table, and what ties the tables together."""
    records = expiring = 0
    for key, value in _ascending(txn, tables, "rec"):
        stored = rows.unpack_stored(key, value)
        slot = rows.parse_slot_key(key)
        scope = key[:1]
        if txn.get(rows.log_key(scope, slot.aid, stored.hlc), db=tables["log"]) != key:
            raise Damaged("log", key)
        if stored.expiry_ms is not None:
            expiring += 1
            row = rows.exp_key(scope, stored.expiry_ms, slot.aid, stored.hlc)
            if txn.get(row, db=tables["exp"]) != key:
                raise Damaged("exp", key)
        records += 1
    for name, expected in (("log", records), ("exp", expiring)):
        found = 0
        for key, target in _ascending(txn, tables, name):
            found += 1
            if txn.get(target, db=tables["rec"]) is None:
                raise Damaged(name, key)
        if found != expected or txn.stat(tables[name])["entries"] != expected:
            raise Damaged(name, b"")
    for key, value in _ascending(txn, tables, "heads"):
        rows.unpack_state(key, value)
    for name in ("hist", "addr", "meta"):
        for key, value in _ascending(txn, tables, name):
            rows.unseal(name, key, value)
    for _ in _ascending(txn, tables, "ring"):
        pass


def _ascending(txn: Any, tables: dict[str, Any], name: str) -> Iterator[tuple[bytes, bytes]]:
    """All rows of a table, whose keys must ascend."""
    last = b""
    for key, value in txn.cursor(db=tables[name]):
        if key <= last:
            raise Damaged(name, key)
        last = key
        yield key, value


if __name__ == "__main__":
    directory, *options = sys.argv[1:] or [""]
    if not os.path.isdir(directory) or options not in ([], ["--deep"]):
        sys.exit("usage: python -m mesh.store.check DIRECTORY [--deep]")
    sys.exit(main(directory, deep=bool(options)))
