"""A process with a store, for tests that kill it or limit it.

python tests/fault/store_child.py write HOME           write for ever; print each number once it is on disk
python tests/fault/store_child.py full HOME BYTES      fill a store whose file may not exceed BYTES
"""

from __future__ import annotations

import json
import resource
import sys
from typing import Any

import trio

from mesh.config import Store as Settings
from mesh.core import record
from mesh.core.clock import hlc_of
from mesh.errors import StoreFull
from mesh.identity.keys import NodeKey
from mesh.store.store import Store, Txn

MESH_ID = b"mesh-of-the-test"
KEY = NodeKey.from_seed(b"c" * 32)


def putting(number: int, value: Any) -> Any:
    """A job that writes one record, with a stamp above all before."""

    def job(txn: Txn) -> int:
        log = txn.log("m")
        hlc = max(log.author(KEY.aid).head + 1, hlc_of(1_700_000_000_000))
        rec = record.sign(KEY.secret, MESH_ID, b"m", path=f"kv/{number}", kind=0, hlc=hlc, val=value)
        log.put(rec)
        log.set_marks(rec.aid, head=rec.hlc, floor=0)
        return number

    return job


async def write(home: str) -> None:
    """Print what is acknowledged until killed."""
    store = Store.open(home, mesh_id=MESH_ID, zone="default", settings=Settings(ballast_bytes=0))
    with store.read("m") as log:
        start = log.author(KEY.aid).count
    async with trio.open_nursery() as nursery:
        await nursery.start(store.run)
        print("ready", flush=True)
        number = start
        while True:
            async with trio.open_nursery() as callers:
                for _ in range(3):
                    callers.start_soon(_write_one, store, number)
                    number += 1


async def _write_one(store: Store, number: int) -> None:
    print(await store.write(putting(number, "x" * 300)), flush=True)


async def full(home: str, size: int) -> dict[str, Any]:
    """Fill up, delete while full, get room, write again."""
    settings = Settings(ballast_bytes=256 << 10)
    store = Store.open(home, mesh_id=MESH_ID, zone="default", settings=settings)
    told: list[bool] = []
    store.on_full = told.append
    seen: dict[str, Any] = {}
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
    async with trio.open_nursery() as nursery:
        await nursery.start(store.run)
        seen["written"] = await _fill(store)
        seen["full"] = store.full
        with store.read("m") as log:
            seen["read"] = sum(1 for _ in log.since(KEY.aid, 0))
            victims = [rec.slot for rec, _ in zip(log.since(KEY.aid, 0), range(3), strict=False)]
        try:
            await store.write(putting(-1, 1))
        except StoreFull as error:
            seen["refused"] = error.message
        for slot in victims:
            await store.write(lambda txn, slot=slot: txn.log("m").drop(slot), spare=True)
        seen["deleted"] = len(victims)
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        while store.full:
            await trio.sleep(0.05)
        seen["after"] = await store.write(putting(10**6, 1))
        seen["told"] = told
        nursery.cancel_scope.cancel()
    store.close()
    return seen


async def _fill(store: Store) -> int:
    written = 0
    try:
        while True:
            await store.write(putting(written, "x" * 2000))
            written += 1
    except StoreFull:
        return written


if __name__ == "__main__":
    if sys.argv[1] == "write":
        trio.run(write, sys.argv[2])
    else:
        print(json.dumps(trio.run(full, sys.argv[2], int(sys.argv[3]))))
