"""Copies of a store: of one moment while it works, refused when damaged, of a new generation in place."""

from __future__ import annotations

import os

import pytest
import trio

from mesh.errors import StoreError, UsageError
from mesh.store import backup, writer
from mesh.store.store import Store

MESH_ID = b"mesh-of-the-test"


@pytest.fixture
def staged(home):
    """`staged(copy)`: check a copy and lay it beside the store."""

    def stage(copy):
        return backup.stage(copy, home, mesh=MESH_ID, zone="default")

    return stage


async def test_a_copy_is_of_one_moment_while_writes_go_on(store, pens, putting, tmp_path):
    done = False

    async def write():
        number = 0
        while not done:
            await store.write(putting(*(pen.say(f"kv/{number}", "x" * 500) for pen in pens)))
            number += 1

    async with trio.open_nursery() as nursery:
        nursery.start_soon(write)
        for number in range(3):
            await store.backup(tmp_path / f"copy{number}", now_ms=7)
        done = True
    for number in range(3):
        manifest = backup.check(tmp_path / f"copy{number}", mesh=MESH_ID, zone="default")
        assert manifest.created_ms == 7
        copy = Store.open(tmp_path / f"copy{number}", mesh_id=MESH_ID, zone="default")
        with copy.read("m") as log:
            assert len({log.author(pen.aid).count for pen in pens}) == 1
        copy.close()


async def test_a_backup_put_in_place_is_the_store_of_that_moment_under_a_new_generation(
    open_store, running, pen, putting, tmp_path, staged
):
    store = open_store()
    old, new = pen.say("kv/a", "old"), pen.say("kv/a", "new")
    async with running(store):
        await store.write(lambda txn: [txn.put_meta("fence/m", b"x"), txn.put_meta("hlc_ceiling", bytes(8))])
        await store.write(putting(old))
        await store.backup(tmp_path / "copy")
        await store.write(putting(new))
        await store.write(lambda txn: txn.put_meta("hlc_ceiling", bytes(7) + b"\x09"))
    generation = store.generation
    staged(tmp_path / "copy")
    with store.read("m") as log:
        assert log.get(new.slot) == new
    store.close()
    restored = open_store()
    assert restored.opened.restored
    assert not restored.opened.checked
    assert restored.generation != generation
    assert restored.meta("fence/m") is None
    assert restored.meta("hlc_ceiling") == bytes(7) + b"\x09"
    with restored.read("m") as log:
        assert log.get(old.slot) == old
    restored.close()
    again = open_store()
    assert not again.opened.restored
    again.close()
    replaced = Store.open(tmp_path / "store-replaced", mesh_id=MESH_ID, zone="default")
    with replaced.read("m") as log:
        assert log.get(new.slot) == new
    replaced.close()


async def test_a_backup_replaces_a_store_that_is_lost_or_damaged(
    open_store, running, pen, putting, home, tmp_path, staged
):
    rec = pen.say("kv/a", 1)
    store = open_store()
    async with running(store):
        await store.write(putting(rec))
        await store.backup(tmp_path / "copy")
    store.close()
    os.truncate(home / "data.mdb", 5000)
    staged(tmp_path / "copy")
    restored = open_store()
    assert (restored.opened.restored, restored.opened.damaged) == (True, "")
    with restored.read("m") as log:
        assert log.get(rec.slot) == rec


@pytest.mark.parametrize("harm", ["flip", "truncate", "no data", "no manifest", "manifest", "format"])
async def test_a_damaged_backup_is_refused(store, pen, putting, tmp_path, staged, harm):
    await store.write(putting(pen.say("kv/a", "x" * 5000)))
    copy = tmp_path / "copy"
    await store.backup(copy)
    data, manifest = copy / "data.mdb", copy / backup.MANIFEST
    if harm == "flip":
        content = bytearray(data.read_bytes())
        content[len(content) // 2] ^= 1
        data.write_bytes(content)
    elif harm == "truncate":
        os.truncate(data, 4096)
    elif harm == "no data":
        data.unlink()
    elif harm == "no manifest":
        manifest.unlink()
    elif harm == "manifest":
        manifest.write_text("{}")
    else:
        manifest.write_text(manifest.read_text().replace('"format": 1', '"format": 2'))
    with pytest.raises(UsageError):
        staged(copy)


async def test_a_backup_of_another_mesh_or_zone_is_refused(store, tmp_path, home):
    await store.backup(tmp_path / "copy")
    with pytest.raises(UsageError, match="is of mesh"):
        backup.stage(tmp_path / "copy", home, mesh=b"another-mesh-id!", zone="default")
    with pytest.raises(UsageError, match="is of zone 'default'"):
        backup.stage(tmp_path / "copy", home, mesh=MESH_ID, zone="attic")


async def test_a_copy_never_overwrites(store, tmp_path):
    (tmp_path / "copy").mkdir()
    (tmp_path / "copy" / "something").touch()
    with pytest.raises(UsageError, match="exists already"):
        await store.backup(tmp_path / "copy")
    with pytest.raises(StoreError, match="no copy can be made"):
        await store.backup(tmp_path / "no" / "where")


async def test_the_map_waits_to_grow_until_a_copy_is_done(
    open_store, pen, putting, nursery, monkeypatch, tmp_path
):
    monkeypatch.setattr("mesh.store.environment._map_bytes", lambda wanted: 256 << 10)
    monkeypatch.setattr(writer, "BATCH_RECORDS_MAX", 10)
    store = open_store()
    await nursery.start(store.run)

    async def write():
        for number in range(400):
            await store.write(putting(pen.say(f"kv/{number}", "x" * 1000)))

    async with trio.open_nursery() as callers:
        callers.start_soon(write)
        for number in range(5):
            await store.backup(tmp_path / f"copy{number}")
            backup.check(tmp_path / f"copy{number}", mesh=MESH_ID, zone="default")
    assert store.stats()["map_bytes"] > 256 << 10


@pytest.mark.parametrize("point", ["staged only", "old moved away", "not staged whole"])
async def test_a_power_cut_while_a_backup_is_put_in_place_leaves_one_of_the_two(
    open_store, running, pen, putting, home, tmp_path, staged, point
):
    store = open_store()
    rec = pen.say("kv/a", 1)
    async with running(store):
        await store.write(putting(rec))
        await store.backup(tmp_path / "copy")
    store.close()
    staged(tmp_path / "copy")
    if point == "old moved away":
        home.rename(home.with_name("store-replaced"))
    elif point == "not staged whole":
        home.with_name("store-restore").rename(home.with_name("store.part"))
    again = open_store()
    assert again.opened.restored == (point != "not staged whole")
    with again.read("m") as log:
        assert log.get(rec.slot) == rec
