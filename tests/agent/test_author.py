"""The stamps of a node's statements over restarts, and over a store that was set back to a copy."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import trio

from mesh.agent.author import Author, Statement
from mesh.config import Store as Settings
from mesh.core.clock import FUTURE_MS_MAX, unix_ms_of
from mesh.core.record import MESH, Kind
from mesh.identity.keys import NodeKey
from mesh.store.store import Store

MESH_ID = b"mesh-of-the-test"
KEY = NodeKey.from_seed(b"a" * 32)
NOW_MS = 1_800_000_000_000


@asynccontextmanager
async def life(home: Path) -> AsyncIterator[Author]:
    """One life of a process; the wall clock stands still, so no life can hide behind the time of day."""
    settings = Settings(ballast_bytes=0, map_bytes=64 << 20)
    store = Store.open(home, mesh_id=MESH_ID, zone="default", settings=settings)
    async with trio.open_nursery() as nursery:
        await nursery.start(store.run)
        yield Author(store, KEY, MESH_ID, "default", lambda: NOW_MS)
        nursery.cancel_scope.cancel()
    store.close()


async def said(author: Author, count: int) -> list[int]:
    stamps = []
    for number in range(count):
        (rec,) = await author.say(MESH, lambda _, n=number: [Statement(f"kv/{n}", Kind.REG, n)])
        stamps.append(rec.hlc)
    return stamps


async def test_two_lives_from_one_copy_of_a_store_never_use_a_stamp_twice(tmp_path: Path) -> None:
    async with life(tmp_path / "store") as author:
        before = await said(author, 3)
    shutil.copytree(tmp_path / "store", tmp_path / "copy")
    lives = []
    for home in ("store", "copy"):
        async with life(tmp_path / home) as author:
            lives.append(await said(author, 20))
            lives.append([rec.hlc for rec in author.say_live([Statement("node/x", Kind.ALL, 1)])])
    one, one_live, other, other_live = (set(stamps) for stamps in lives)
    assert not one & other
    assert not one_live & other_live
    assert min(one | other) > max(before)


async def test_a_node_that_starts_again_and_again_does_not_run_ahead_of_the_time(tmp_path: Path) -> None:
    stamps: list[int] = []
    for _ in range(30):
        async with life(tmp_path / "store") as author:
            stamps += await said(author, 1)
    assert stamps == sorted(set(stamps))
    assert unix_ms_of(stamps[-1]) < NOW_MS + FUTURE_MS_MAX / 2


async def test_a_restart_does_not_go_on_from_the_ceiling_of_a_clock_that_was_set_back(tmp_path: Path) -> None:
    ahead_ms = 3_600_000
    settings = Settings(ballast_bytes=0, map_bytes=64 << 20)
    clock = [NOW_MS + ahead_ms]
    store = Store.open(tmp_path / "s", mesh_id=MESH_ID, zone="default", settings=settings)
    async with trio.open_nursery() as nursery:
        await nursery.start(store.run)
        author = Author(store, KEY, MESH_ID, "default", lambda: clock[0])
        await said(author, 2)
        clock[0] = NOW_MS
        assert await author.rewind() == 2
        nursery.cancel_scope.cancel()
    store.close()
    async with life(tmp_path / "s") as author:
        (stamp,) = await said(author, 1)
    assert unix_ms_of(stamp) <= NOW_MS + FUTURE_MS_MAX
